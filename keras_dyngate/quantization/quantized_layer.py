"""A layer whose kernel is rounded to 8 bits when it is used, apart for each channel."""

import functools
from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._registration import serializable
from keras_dyngate._saving import KeepsFrozen, revived
from keras_dyngate.cost.counter import kernel_macs
from keras_dyngate.layers.links import mixes
from keras_dyngate.quantization import _tfmot

_layers = keras.layers


@functools.singledispatch
def kernels(layer: Any) -> tuple[tuple[Any, int], ...]:
    """The weights of a layer that are rounded, and the axis of a scale each; none: ()."""
    return ()


@kernels.register(_layers.Conv1D)
@kernels.register(_layers.Conv2D)
@kernels.register(_layers.Dense)
def _mixing(layer: Any) -> tuple[tuple[Any, int], ...]:
    return ((layer.kernel, len(layer.kernel.shape) - 1),)


@kernels.register(_layers.Conv2DTranspose)
@kernels.register(_layers.DepthwiseConv2D)
def _second_last(layer: Any) -> tuple[tuple[Any, int], ...]:
    return ((layer.kernel, len(layer.kernel.shape) - 2),)


def rounded(kernel: Any, axis: int) -> Any:
    """A kernel as an int8 file has it: symmetric, a scale for each channel.

    Its range is that of its own numbers, as the converter takes it: none is cut off.
    """
    value = ops.convert_to_tensor(kernel.value)
    last = len(value.shape) - 1
    order = [n for n in range(last + 1) if n != axis] + [axis]
    back = sorted(range(last + 1), key=order.__getitem__)
    moved = value if axis == last else ops.transpose(value, order)
    most = ops.max(ops.abs(moved), axis=tuple(range(last)))
    most = ops.stop_gradient(ops.maximum(most, 1e-8))
    ends = {"min_var": -most, "max_var": most}
    found = _tfmot.of_weights()(moved, False, ends)
    return found if axis == last else ops.transpose(found, back)


@serializable
class QuantizedLayer(KeepsFrozen, keras.layers.Layer):
    """A convolution or a dense layer that computes with its kernel in 8 bits.

    tensorflow-model-optimization's `LastValueQuantizer` rounds: symmetric, a scale for
    each channel that is put out. A batch normalization that follows is folded into the
    kernel at export, which changes each channel's scale and no rounding. In a file the
    kernel is that of the layer: the converter rounds it alike.

    Args:
        layer: `Conv1D`, `Conv2D`, `Conv2DTranspose`, `DepthwiseConv2D` or `Dense`.

    Input and output shape: Those of the layer.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = revived(layer)

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
        self.freeze_again()

    def call(self, x: Any) -> Any:
        if _hooks.exporting():
            return self.layer(x)
        pairs = [(v, rounded(v, axis)) for v, axis in kernels(self.layer)]
        with keras.StatelessScope(state_mapping=pairs):
            return self.layer(x)

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
            strides=list(layer.strides),
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=list(layer.dilation_rate),
        )

    def kernel_macs(self, input_shape: Any) -> int | None:
        """MACs for one image: those of the layer."""
        return kernel_macs(self.layer, input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}


@mixes.register(QuantizedLayer)
def _mixes(link: Any) -> bool:
    return mixes(link.layer)
