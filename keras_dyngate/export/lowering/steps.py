"""The links of a chain as what a file computes: constants, cut to a group's channels.

A batch normalization right after a kernel is folded into it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate._graph import Call, flat_graph, run_calls
from keras_dyngate.export.lowering.constants import value, weights_as_constants
from keras_dyngate.layers.links import Link
from keras_dyngate.layers.squeeze_excite import SqueezeExcite
from keras_dyngate.quantization.fake_quantize import FakeQuantize
from keras_dyngate.quantization.quantized_layer import (
    QuantizedLayer,
    QuantizedSeparable,
)

ALL = slice(None)


def conv2d(
    x: Any,
    kernel: np.ndarray,
    strides: Any = 1,
    padding: str = "SAME",
    dilations: Any = 1,
) -> Any:
    """A convolution by a constant made here, in the branch that calls it."""
    constant = tf.constant(np.ascontiguousarray(kernel))
    return tf.nn.conv2d(x, constant, strides, padding, dilations=dilations)


def _as_it_is(x: Any) -> Any:
    return x


@dataclasses.dataclass
class Folding:
    """A kernel, with what was folded into it.

    Attributes:
        weight: Of a file's kernel.
        bias: A number for each channel of the output, or None.
        apply: From a tensor and a part of `weight` to their product.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    apply: Callable[[Any, np.ndarray], Any]

    @property
    def parameters(self) -> int:
        return self.weight.size + (0 if self.bias is None else self.bias.size)

    def shifted(self, y: Any, outer: slice = ALL) -> Any:
        """`y` and the bias of some channels."""
        return y if self.bias is None else y + self.bias[outer]

    def fold(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Take in what multiplies and shifts each channel of the output."""
        self.weight = self.weight * self.along(scale)
        self.bias = shift if self.bias is None else self.bias * scale + shift

    def along(self, scale: np.ndarray) -> np.ndarray:
        """A number for each channel of the output as a factor of `weight`."""
        return scale


class Kernel(Folding):
    """A kernel that mixes channels: `[..., inner, outer]`.

    Attributes:
        rounds: What rounds a group's share of the output, and the sum so far.
    """

    rounds: tuple[Callable[[Any], Any], Callable[[Any], Any]] = (_as_it_is, _as_it_is)

    def product(self, x: Any, inner: slice = ALL, outer: slice = ALL) -> Any:
        """What some channels of the input give to some of the output, without a bias."""
        return self.apply(x, self.weight[..., inner, outer])


class Depthwise(Folding):
    """A kernel for each channel: `[height, width, channels, 1]`."""

    def along(self, scale: np.ndarray) -> np.ndarray:
        return scale[:, None]

    def run(self, x: Any, cut: slice = ALL) -> Any:
        return self.shifted(self.apply(x, self.weight[:, :, cut]), cut)


@dataclasses.dataclass
class Each:
    """What treats every channel on its own, given the part of them that it is for."""

    apply: Callable[[Any, slice], Any]
    parameters: int = 0

    def run(self, x: Any, cut: slice = ALL) -> Any:
        return self.apply(x, cut)


@dataclasses.dataclass
class Round(Each):
    """The steps of an 8-bit number, of a quantize-aware net."""


@dataclasses.dataclass
class Affine:
    """A factor and a shift for each channel."""

    scale: np.ndarray
    shift: np.ndarray

    @property
    def parameters(self) -> int:
        return self.scale.size + self.shift.size

    def run(self, x: Any, cut: slice = ALL) -> Any:
        y = x * self.scale[cut]
        return y + self.shift[cut] if self.shift.any() else y


@dataclasses.dataclass
class Weigh:
    """A squeeze-and-excite: a factor for each channel, from all channels' means."""

    layer: SqueezeExcite
    parameters: int = 0

    def scale(self, means: Any) -> Any:
        """`[1, 1, 1, channels]` from means `[1, channels]`."""
        with weights_as_constants([self.layer]):
            return self.layer.scale(means)

    def means(self, x: Any) -> Any:
        """`[1, channels]` of a map, in 8 bits where the net is to compute so."""
        means = tf.reduce_mean(x, [1, 2])
        rounding = getattr(self.layer, "means", None)
        return means if rounding is None else rounding(means)

    def run(self, x: Any, cut: slice = ALL) -> Any:
        return x * self.scale(tf.reduce_mean(x, [1, 2]))


Step = Kernel | Depthwise | Each | Affine | Weigh  # Round is an Each

_NOTHING = (  # at inference
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
)


@functools.singledispatch
def steps_of(link: Any) -> list[Step]:
    """A link, a layer or a function, as steps."""
    if isinstance(link, _NOTHING):
        return []
    if type(link).__name__ == "LayerScale":
        gamma = value(link.gamma)
        return [Affine(gamma, np.zeros_like(gamma))]
    if getattr(link, "weights", None):
        raise NotImplementedError(
            f"There is no conditional form of {type(link).__name__} in a chain yet. "
            f"Received: layer {link.name!r}"
        )
    return [Each(lambda x, cut: link(x))]


@steps_of.register(keras.Model)
def _stretch(link: Any) -> list[Step]:
    """A small graph of operators and layers that treat every channel on their own."""
    graph = flat_graph(link)
    assert graph is not None

    steps = {
        id(call): compiled([call.operation])
        for call in graph.calls
        if getattr(call.operation, "weights", None)
    }

    def form(call: Call, cut: slice) -> Callable[..., Any]:
        if id(call) not in steps:
            return call.operation
        return lambda x, **kwargs: run_steps(steps[id(call)], x, cut)

    def run(x: Any, cut: slice) -> Any:
        table = {id(graph.inputs[0]): x}
        run_calls(graph.calls, table, lambda call: form(call, cut))
        return table[id(graph.outputs[0])]

    return [Each(run, sum(int(np.prod(w.shape)) for w in link.weights))]


@steps_of.register(FakeQuantize)
def _round(link: Any) -> list[Step]:
    return [Round(lambda x, cut: link.constant(x))]


@steps_of.register(QuantizedLayer)
def _kernel_of(link: Any) -> list[Step]:
    return steps_of(link.layer)  # the converter rounds it


@steps_of.register(QuantizedSeparable)
def _separable_of(link: Any) -> list[Step]:
    first, *rest = steps_of(link.layer)
    return [first, *steps_of(link.between), *rest]


@steps_of.register(SqueezeExcite)
def _weigh(link: Any) -> list[Step]:
    return [Weigh(link)]


@steps_of.register(keras.layers.Dense)
def _dense(link: Any) -> list[Step]:
    def apply(x: Any, kernel: np.ndarray) -> Any:
        if len(x.shape) == 4:
            return conv2d(x, kernel[None, None])
        constant = tf.constant(np.ascontiguousarray(kernel))
        y = tf.matmul(tf.reshape(x, [-1, kernel.shape[0]]), constant)
        return tf.reshape(y, [*x.shape[:-1], kernel.shape[1]])

    bias = value(link.bias) if link.use_bias else None
    return [Kernel(value(link.kernel), bias, apply), *_activation(link)]


def _depthwise(link: Any, kernel: Any, bias: Any) -> Depthwise:
    def apply(x: Any, part: np.ndarray) -> Any:
        return tf.nn.depthwise_conv2d(
            x,
            tf.constant(np.ascontiguousarray(part)),
            [1, *link.strides, 1],
            link.padding.upper(),
            dilations=link.dilation_rate,
        )

    return Depthwise(value(kernel), None if bias is None else value(bias), apply)


@steps_of.register(keras.layers.DepthwiseConv2D)
def _each(link: Any) -> list[Step]:
    bias = link.bias if link.use_bias else None
    return [_depthwise(link, link.kernel, bias), *_activation(link)]


@steps_of.register(keras.layers.SeparableConv2D)
def _separable(link: Any) -> list[Step]:
    bias = value(link.bias) if link.use_bias else None
    return [
        _depthwise(link, link.depthwise_kernel, None),
        Kernel(value(link.pointwise_kernel), bias, conv2d),
        *_activation(link),
    ]


@steps_of.register(keras.layers.PReLU)
def _slope(link: Any) -> list[Step]:
    alpha = value(link.alpha).reshape(-1)

    def apply(x: Any, cut: slice) -> Any:
        return tf.nn.relu(x) - alpha[cut] * tf.nn.relu(-x)

    return [Each(apply, alpha.size)]


@steps_of.register(keras.layers.Conv2D)
def _conv(link: Any) -> list[Step]:
    apply = functools.partial(
        conv2d,
        strides=link.strides,
        padding=link.padding.upper(),
        dilations=link.dilation_rate,
    )
    bias = value(link.bias) if link.use_bias else None
    return [Kernel(value(link.kernel), bias, apply), *_activation(link)]


@steps_of.register(keras.layers.BatchNormalization)
def _norm(link: Any) -> list[Step]:
    scale = value(link.gamma) if link.scale else np.float32(1)
    scale = scale / np.sqrt(value(link.moving_variance) + link.epsilon)
    shift = value(link.beta) if link.center else np.float32(0)
    shift = shift - value(link.moving_mean) * scale
    return [Affine(scale, shift)]


def _activation(link: Any) -> list[Step]:
    """The activation inside a layer."""
    if link.activation is keras.activations.linear:
        return []
    return [Each(lambda x, cut: link.activation(x))]


def compiled(links: Sequence[Link]) -> list[Step]:
    """The steps of links, each normalization folded into the kernel before it."""
    found: list[Step] = []
    for link in links:
        for step in steps_of(link):
            if (
                isinstance(step, Affine)
                and found
                and isinstance(found[-1], (Kernel, Depthwise))
            ):
                found[-1].fold(step.scale, step.shift)
            else:
                found.append(step)
    return found


def rounded(steps: Sequence[Step], x: Any) -> Any:
    """`x`, which comes out of a branch that ended in some steps, rounded as there."""
    last = [step for step in steps if isinstance(step, Round)]
    return last[-1].run(x) if last else x


def zero_to_one(x: Any) -> Any:
    """Numbers from 0 to 1 in the steps of 8 bits; 0 and 1 stay as they are."""
    return tf.quantization.fake_quant_with_min_max_args(x, 0.0, 1.0, 8)


_SAME_RANGE = frozenset(
    """Bitcast Identity Reshape MaxPool AvgPool Pad PadV2 StridedSlice Transpose Squeeze
    ExpandDims ResizeNearestNeighbor ResizeBilinear""".split()
)


def again(x: Any) -> Any:
    """A tensor from outside a branch, rounded inside as it was outside, if it was."""
    if not tf.is_symbolic_tensor(x):
        return x
    op = x.op
    while op.type in _SAME_RANGE:
        op = op.inputs[0].op
    if op.type != "FakeQuantWithMinMaxArgs":
        return x
    low, high = op.get_attr("min"), op.get_attr("max")
    return tf.quantization.fake_quant_with_min_max_args(x, low, high, 8)


def run_steps(steps: Sequence[Step], x: Any, cut: slice = ALL) -> Any:
    """What steps make of `x`; of those that treat every channel on its own, a part."""
    for step in steps:
        if isinstance(step, Kernel):
            x = step.shifted(step.product(x))
        else:
            x = step.run(x, cut)
    return x
