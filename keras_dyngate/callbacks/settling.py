"""Biases of gates moved alike, until what the net spends is what it may."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._walk import controllers
from keras_dyngate.controllers import BinaryGate


def largest_shift(
    spends: Callable[[float], float],
    share: float,
    low: float,
    high: float,
    halvings: int = 10,
) -> float:
    """The largest shift that spends no more than a share, to a part of the interval.

    Args:
        spends: Moves the gates by a shift, and says what is spent then; rising.
        share: That may be spent.
        low, high: Where the shift is looked for. What is returned was tried last.
        halvings: Of the interval.
    """
    if spends(high) <= share:
        return high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if spends(middle) > share else (middle, high)
    spends(low)
    return low


class Shift:
    """All binary gates of a net, to be moved alike.

    Args:
        model: The net.
    """

    def __init__(self, model: keras.Model) -> None:
        gates = {id(g): g for g in controllers(model) if isinstance(g, BinaryGate)}
        self.biases: Sequence[Any] = [gate.expand.bias for gate in gates.values()]
        self.start = [keras.ops.convert_to_numpy(bias).copy() for bias in self.biases]

    def to(self, shift: float) -> None:
        """Move each logit so far from where it was."""
        for bias, start in zip(self.biases, self.start, strict=True):
            bias.assign((start + np.float32(shift)).astype(start.dtype))
