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

from keras_dyngate.export.lowering.constants import value
from keras_dyngate.layers.links import Link

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


@dataclasses.dataclass
class Kernel:
    """A kernel that mixes channels, with what was folded into it.

    Attributes:
        weight: `[..., inner, outer]`.
        bias: `[outer]`, or None.
        apply: From a tensor and a part of `weight` to their product.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    apply: Callable[[Any, np.ndarray], Any]

    @property
    def parameters(self) -> int:
        return self.weight.size + (0 if self.bias is None else self.bias.size)

    def product(self, x: Any, inner: slice = ALL, outer: slice = ALL) -> Any:
        """What some channels of the input give to some of the output, without a bias."""
        return self.apply(x, self.weight[..., inner, outer])

    def shifted(self, y: Any, outer: slice = ALL) -> Any:
        """`y` and the bias of some channels."""
        return y if self.bias is None else y + self.bias[outer]

    def fold(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Take in what multiplies and shifts each channel of the output."""
        self.weight = self.weight * scale
        self.bias = shift if self.bias is None else self.bias * scale + shift


@dataclasses.dataclass
class Each:
    """What treats every channel on its own, and has no weights."""

    apply: Callable[[Any], Any]
    parameters: int = 0

    def run(self, x: Any, cut: slice = ALL) -> Any:
        return self.apply(x)


@dataclasses.dataclass
class Affine:
    """A factor and a shift for each channel."""

    scale: np.ndarray
    shift: np.ndarray

    @property
    def parameters(self) -> int:
        return self.scale.size + self.shift.size

    def run(self, x: Any, cut: slice = ALL) -> Any:
        return x * self.scale[cut] + self.shift[cut]


Step = Kernel | Each | Affine


@functools.singledispatch
def steps_of(link: Any) -> list[Step]:
    """A link, or the call of a function, as steps."""
    if isinstance(link, keras.layers.Layer):
        raise NotImplementedError(
            f"There is no conditional form of {type(link).__name__} in a chain yet. "
            f"Received: layer {link.name!r}"
        )
    return [Each(link)]


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
    return [Each(link.activation)]


def compiled(links: Sequence[Link]) -> list[Step]:
    """The steps of links, each normalization folded into the kernel before it."""
    found: list[Step] = []
    for link in links:
        for step in steps_of(link):
            if isinstance(step, Affine) and found and isinstance(found[-1], Kernel):
                found[-1].fold(step.scale, step.shift)
            else:
                found.append(step)
    return found


def run_steps(steps: Sequence[Step], x: Any, cut: slice = ALL) -> Any:
    """What steps make of `x`; of those that treat every channel on its own, a part."""
    for step in steps:
        if isinstance(step, Kernel):
            x = step.shifted(step.product(x))
        else:
            x = step.run(x, cut)
    return x
