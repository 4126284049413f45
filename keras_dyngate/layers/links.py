"""What chains are made of: kernels that mix channels, and what treats each on its own.

A link is a Keras layer, or a function of one tensor that treats every channel on its own,
such as `keras.ops.relu`. What a chain, its packing and its conditional form have to know of
a kind of layer stands here: `mixes`, `treats_alone`, `sides`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, cast

import keras
from keras import ops

from keras_dyngate._graph import flat_graph

Link = Any  # a Keras layer, or a function

layers = keras.layers
_WITHOUT_WEIGHTS = (
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.UpSampling2D,
)
# Operators that treat every number on its own, by the names of their classes.
_ELEMENTWISE = frozenset(
    """
    Abs Absolute Add Celu Clip Divide Elu Erf Exp Gelu HardSigmoid HardSilu HardSwish
    HardTanh LeakyRelu LogSigmoid Maximum Minimum Mish Multiply Negative Power Relu Relu6
    Selu Sigmoid Silu Softplus Softsign Sqrt Square Subtract Swish Tanh TrueDivide
    """.split()
)


class Sides(NamedTuple):
    """Where a weight has the channels that come into its link, and those that go out.

    Attributes:
        weight: A variable.
        inner: The axis of the channels that come in; None where there is none.
        outer: The axis of those that go out. Of a layer that treats every channel on its
            own, these are those that come in too.
    """

    weight: Any
    inner: int | None
    outer: int | None


@functools.singledispatch
def sides(link: Any) -> tuple[Sides, ...]:
    """The weights of a link that have an axis of channels."""
    if type(link).__name__ == "LayerScale":  # of keras.applications' ConvNeXt
        return (Sides(link.gamma, None, 0),)
    if isinstance(link, keras.Model):
        graph = flat_graph(link)
        calls = () if graph is None else graph.calls
        return tuple(side for call in calls for side in sides(call.operation))
    return ()


@sides.register(layers.Conv2D)
@sides.register(layers.Dense)
def _kernel(link: Any) -> tuple[Sides, ...]:
    rank = len(link.kernel.shape)
    return Sides(link.kernel, rank - 2, rank - 1), *_bias(link)


@sides.register(layers.SeparableConv2D)
def _separable(link: Any) -> tuple[Sides, ...]:
    each, mixing = link.depthwise_kernel, link.pointwise_kernel
    return Sides(each, 2, None), Sides(mixing, 2, 3), *_bias(link)


@sides.register(layers.DepthwiseConv2D)
def _each(link: Any) -> tuple[Sides, ...]:
    return Sides(link.kernel, None, 2), *_bias(link)


@sides.register(layers.BatchNormalization)
def _norm(link: Any) -> tuple[Sides, ...]:
    return tuple(Sides(weight, None, 0) for weight in link.weights)


@sides.register(layers.PReLU)
def _slope(link: Any) -> tuple[Sides, ...]:
    return (Sides(link.alpha, None, len(link.alpha.shape) - 1),)


def _bias(link: Any) -> tuple[Sides, ...]:
    return (Sides(link.bias, None, 0),) if link.use_bias else ()


@functools.singledispatch
def mixes(link: Any) -> bool:
    """Whether a link is a kernel that mixes channels, and can be cut to some of them."""
    return False


@mixes.register(layers.Conv2D)
def _conv(link: Any) -> bool:
    return link.groups == 1 and link.data_format == "channels_last"


@mixes.register(layers.Dense)
def _dense(link: Any) -> bool:
    return link.activation is not keras.activations.softmax


@mixes.register(layers.SeparableConv2D)
def _separated(link: Any) -> bool:
    return link.depth_multiplier == 1 and link.data_format == "channels_last"


def width_of(kernel: Any) -> int:
    """How many channels a kernel that mixes puts out."""
    return int(kernel.units if isinstance(kernel, layers.Dense) else kernel.filters)


def treats_alone(operation: Any) -> bool:
    """Whether a layer or an operator treats every channel on its own."""
    if not isinstance(operation, layers.Layer):
        return type(operation).__name__ in _ELEMENTWISE
    if type(operation).__name__ == "LayerScale":
        return True
    if isinstance(operation, layers.Activation):
        return operation.activation not in (
            keras.activations.softmax,
            keras.activations.log_softmax,
        )
    if isinstance(operation, layers.BatchNormalization):
        return operation.axis in (-1, operation.input_spec.ndim - 1)
    if isinstance(operation, layers.DepthwiseConv2D):
        last = operation.data_format == "channels_last"
        return operation.depth_multiplier == 1 and last
    if isinstance(operation, layers.PReLU):
        return all(n == 1 for n in operation.alpha.shape[:-1])
    if isinstance(operation, (layers.Add, layers.Multiply)):
        return True
    last = getattr(operation, "data_format", "channels_last") == "channels_last"
    return isinstance(operation, _WITHOUT_WEIGHTS) and last


@dataclasses.dataclass(frozen=True)
class Padding:
    """Zeros on all sides of a map, so many in each direction."""

    side: int

    def compute_output_shape(self, shape: Any) -> tuple[int | None, ...]:
        batch, *sides, channels = shape
        return batch, *(s if s is None else s + 2 * self.side for s in sides), channels

    def __call__(self, x: Any) -> Any:
        n = self.side
        return ops.pad(x, [[0, 0], [n, n], [n, n], [0, 0]])


@dataclasses.dataclass(frozen=True)
class Subsampling:
    """Every so manieth pixel, with channels of zeros on both sides: option A."""

    strides: int
    filters: int

    def compute_output_shape(self, shape: Any) -> tuple[int | None, ...]:
        batch, *sides, _ = shape
        sides = [s if s is None else -(-s // self.strides) for s in sides]
        return batch, *sides, self.filters

    def __call__(self, x: Any) -> Any:
        missing = self.filters - x.shape[-1]
        if self.strides > 1:
            x = x[:, :: self.strides, :: self.strides]
        if missing:
            before = missing // 2
            x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [before, missing - before]])
        return x


def is_padding(link: Any) -> bool:
    """Whether a link adds zeros around, and does nothing else."""
    return isinstance(link, (Padding, layers.ZeroPadding2D))


@functools.cache
def _takes_training(kind: Hashable) -> bool:
    return "training" in inspect.signature(cast(Any, kind).call).parameters


def run(links: Sequence[Link], x: Any, training: bool | None = None) -> Any:
    """What links make of `x`, one after the other."""
    for link in links:
        if isinstance(link, layers.Layer) and _takes_training(cast(Any, type(link))):
            x = link(x, training=training)
        else:
            x = link(x)
    return x


def shape_after(link: Link, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape that a link makes of a shape, batch first."""
    known = getattr(link, "compute_output_shape", None)
    return tuple(shape) if known is None else tuple(known(shape))
