"""A layer whose kernel is rounded to 8 bits when it is used, apart for each channel."""

import functools
import math
import weakref
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._registration import serializable
from keras_dyngate._saving import KeepsFrozen, revived
from keras_dyngate.cost.counter import kernel_macs
from keras_dyngate.layers.links import mixes, run
from keras_dyngate.quantization import _tfmot
from keras_dyngate.quantization.biases import norm_behind, shift_of_bias
from keras_dyngate.quantization.fake_quantize import FakeQuantize, step_of

_layers = keras.layers


Axes = tuple[int, ...]


@functools.singledispatch
def kernels(layer: Any) -> tuple[tuple[Any, Axes], ...]:
    """The weights of a layer that are rounded, and the axes of its scales; none: ()."""
    return ()


@kernels.register(_layers.Conv1D)
@kernels.register(_layers.Conv2D)
@kernels.register(_layers.Dense)
def _mixing(layer: Any) -> tuple[tuple[Any, Axes], ...]:
    return ((layer.kernel, (len(layer.kernel.shape) - 1,)),)


@kernels.register(_layers.Conv2DTranspose)
def _transposed(layer: Any) -> tuple[tuple[Any, Axes], ...]:
    return ((layer.kernel, (2,)),)


@kernels.register(_layers.DepthwiseConv2D)
def _depthwise(layer: Any) -> tuple[tuple[Any, Axes], ...]:
    return ((layer.kernel, (2, 3)),)


@kernels.register(_layers.SeparableConv2D)
def _separable(layer: Any) -> tuple[tuple[Any, Axes], ...]:
    return ((layer.depthwise_kernel, (2, 3)), (layer.pointwise_kernel, (3,)))


def rounded(kernel: Any, axes: Axes) -> Any:
    """A kernel as an int8 file has it: symmetric, a scale for each channel.

    Its range is that of its own numbers, as the converter takes it: none is cut off.

    Args:
        kernel: A variable.
        axes: Of the channels that are put out.
    """
    return _in_steps(ops.convert_to_tensor(kernel.value), axes)


def rounded_slices(kernel: Any) -> Any:
    """The part of a kernel that a sliced layer uses, as `rounded` has it.

    In a file it stays: the converter rounds it alike.
    """
    if _hooks.exporting():
        return kernel
    return _in_steps(kernel, (len(kernel.shape) - 1,))


def _value(pair: tuple[Any, Axes]) -> tuple[Any, Axes]:
    return ops.convert_to_tensor(pair[0].value), pair[1]


def _flat(value: Any, axes: Axes) -> tuple[Any, Any, list[int]]:
    """A kernel as [..., channels], the same not yet flat, and the order of its axes."""
    rank = len(value.shape)
    order = [*(n for n in range(rank) if n not in axes), *axes]
    moved = ops.transpose(value, order)
    channels = math.prod(value.shape[n] for n in axes)
    return ops.reshape(moved, (-1, channels)), moved, order


def _in_steps(value: Any, axes: Axes) -> Any:
    flat, moved, order = _flat(value, axes)
    most = ops.stop_gradient(ops.maximum(ops.max(ops.abs(flat), axis=0), 1e-8))
    found = _tfmot.of_weights()(flat, False, {"min_var": -most, "max_var": most})
    back = sorted(range(len(order)), key=order.__getitem__)
    return ops.transpose(ops.reshape(found, moved.shape), back)


class Around(KeepsFrozen, keras.layers.Layer):
    """Base of what is around one layer, of one input and one output, and costs as it."""

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = revived(layer)

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
        self.freeze_again()

    def kernel_macs(self, input_shape: Any) -> int | None:
        """MACs for one image: those of the layer."""
        return kernel_macs(self.layer, input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}


@serializable
class QuantizedLayer(Around):
    """A convolution or a dense layer that computes with its kernel in 8 bits.

    tensorflow-model-optimization's `LastValueQuantizer` rounds: symmetric, a scale for
    each channel that is put out. A batch normalization that follows is folded into the
    kernel at export, which changes each channel's scale and no rounding. At inference the
    bias is rounded too, where the steps of what comes in are known. In a file kernel and
    bias are those of the layer: the converter rounds them alike.

    Args:
        layer: `Conv1D`, `Conv2D`, `Conv2DTranspose`, `DepthwiseConv2D` or `Dense`.

    Input and output shape: Those of the layer.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self._norm: Callable[[], Any] | None = None

    def followed_by(self, norm: keras.Layer) -> None:
        """Name the batch normalization behind it, where no graph shows it."""
        self._norm = weakref.ref(norm)  # Keras would take it for a part of this

    def shift(self, x: Any, training: bool | None) -> Any:
        """What rounding the bias adds to the sums, `[channels]`; None: unknown."""
        step = None if training else step_of(x)
        channels = getattr(self.layer, "data_format", "channels_last")
        if step is None or channels != "channels_last":
            return None
        kernel = _flat(*_value(kernels(self.layer)[-1]))[0]
        norm = norm_behind(self) if self._norm is None else self._norm()
        bias = self.layer.bias if self.layer.use_bias else None
        return shift_of_bias(step, kernel, bias, norm)

    def call(self, x: Any, training: bool | None = None) -> Any:
        if _hooks.exporting():
            return self.layer(x)
        pairs = [(v, rounded(v, axes)) for v, axes in kernels(self.layer)]
        shift = self.shift(x, training)
        if shift is not None and self.layer.use_bias:
            pairs.append((self.layer.bias, self.layer.bias + shift))
            shift = None
        with keras.StatelessScope(state_mapping=pairs):
            y = self.layer(x)
        return y if shift is None else y + shift

    def share(self, x: Any, cut: slice) -> Any:
        """What some of the channels that come in give, without bias and activation.

        Args:
            x: Those channels.
            cut: Which they are.
        """
        layer = self.layer
        kernel = ops.convert_to_tensor(layer.kernel)[..., cut, :]
        if isinstance(layer, _layers.Dense):
            return ops.matmul(x, kernel)
        return ops.conv(
            x,
            kernel,
            strides=tuple(layer.strides),
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=tuple(layer.dilation_rate),
        )


@serializable
class QuantizedSeparable(QuantizedLayer):
    """A separable convolution, which a file has as two, with a range between them.

    Args:
        layer: `SeparableConv2D`, "channels_last".
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.between = FakeQuantize(name="between_range")

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.between.build((*self.compute_output_shape(input_shape)[:-1], None))

    def call(self, x: Any, training: bool | None = None) -> Any:
        layer = self.layer
        each, mixing = (
            ops.convert_to_tensor(v) if _hooks.exporting() else rounded(v, axes)
            for v, axes in kernels(layer)
        )
        between = self.between(self._filtered(x, each), training=training)
        y = ops.conv(between, mixing, padding="valid", data_format=layer.data_format)
        y = y + layer.bias if layer.use_bias else y
        shift = self.shift(between, training)
        y = y if shift is None else y + shift
        return layer.activation(y)

    def share(self, x: Any, cut: slice) -> Any:
        each, mixing = (ops.convert_to_tensor(v) for v, _ in kernels(self.layer))
        y = self.between(self._filtered(x, each[:, :, cut]))
        return ops.conv(y, mixing[..., cut, :], padding="valid")

    def _filtered(self, x: Any, kernel: Any) -> Any:
        layer = self.layer
        return ops.depthwise_conv(
            x,
            kernel,
            strides=tuple(layer.strides),
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=tuple(layer.dilation_rate),
        )


def quantized_form(layer: Any, name: str) -> QuantizedLayer:
    """The quantized form of a layer with kernels."""
    separable = isinstance(layer, _layers.SeparableConv2D)
    return (QuantizedSeparable if separable else QuantizedLayer)(layer, name=name)


@serializable
class FloatLayer(Around):
    """A layer that stays in float32 in an int8 file.

    Between two roundings the converter takes it for one of 8 bits; `export_tflite` puts
    it back.

    Args:
        layer: Any, of one input and one output.
    """

    def call(self, x: Any, training: bool | None = None) -> Any:
        return run((self.layer,), x, training)


@mixes.register(QuantizedLayer)
def _mixes(link: Any) -> bool:
    return mixes(link.layer)
