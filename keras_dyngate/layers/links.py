"""What chains are made of: kernels that mix channels, and what treats each on its own.

A link is a Keras layer, or a function of one tensor that treats every channel on its own,
such as `keras.ops.relu`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, cast

import keras
from keras import ops

Link = Any  # a Keras layer, or a function


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
    return ()


@sides.register(keras.layers.Conv2D)
@sides.register(keras.layers.Dense)
def _kernel(link: Any) -> tuple[Sides, ...]:
    rank = len(link.kernel.shape)
    found = [Sides(link.kernel, rank - 2, rank - 1)]
    if link.use_bias:
        found.append(Sides(link.bias, None, 0))
    return tuple(found)


@sides.register(keras.layers.BatchNormalization)
def _norm(link: Any) -> tuple[Sides, ...]:
    return tuple(Sides(weight, None, 0) for weight in link.weights)


@functools.singledispatch
def mixes(link: Any) -> bool:
    """Whether a link is a kernel that mixes channels."""
    return False


@mixes.register(keras.layers.Conv2D)
@mixes.register(keras.layers.Dense)
def _does(link: Any) -> bool:
    return True


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


@functools.cache
def _takes_training(kind: Hashable) -> bool:
    return "training" in inspect.signature(cast(Any, kind).call).parameters


def run(links: Sequence[Link], x: Any, training: bool | None = None) -> Any:
    """What links make of `x`, one after the other."""
    for link in links:
        if isinstance(link, keras.layers.Layer) and _takes_training(
            cast(Any, type(link))
        ):
            x = link(x, training=training)
        else:
            x = link(x)
    return x


def shape_after(link: Link, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape that a link makes of a shape, batch first."""
    known = getattr(link, "compute_output_shape", None)
    return tuple(shape) if known is None else tuple(known(shape))
