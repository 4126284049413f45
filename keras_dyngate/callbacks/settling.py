"""Biases of gates moved alike, until what the net spends is what it may."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._walk import controllers
from keras_dyngate.controllers import BinaryGate
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.decisions import DecisionModel

NEAR = 0.01  # of the budget: gates that are as near are not moved
FAR = 8.0  # logits that they are moved by at most


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


def spend_just(spends: Callable[[float], float], spent: float, wanted: float) -> float:
    """Shift gates until what is spent is what may be; where no shift does, not at all.

    Args:
        spends: As in `largest_shift`.
        spent: With a shift of 0.
        wanted: That may be spent; what is as near as `NEAR` is left.

    Returns:
        What is spent in the end.
    """
    if abs(spent - wanted) <= NEAR:
        return spent
    last = [spent]

    def tried(shift: float) -> float:
        last[0] = spends(shift)
        return last[0]

    largest_shift(tried, wanted, *((-FAR, 0.0) if spent > wanted else (0.0, FAR)))
    if last[0] > wanted + NEAR:  # however far: these gates do not move it
        tried(0.0)
    return last[0]


def share_spent(
    decider: DecisionModel,
    x: Any,
    costs: CostTable,
    group_size: int | Mapping[str, int] | None = None,
    batch_size: int | None = None,
) -> float:
    """Share of the plain net's cost that some images spend, their mean.

    Args:
        decider: Of the net.
        x: The images.
        costs: What the net costs.
        group_size: As in `CostTable.of`.
        batch_size: Of the pass over the images.
    """
    found = decider.predict(x, batch_size=batch_size, verbose=0)["decisions"]
    return float(np.mean(costs.of(found, group_size))) / costs.total


def settle(
    model: keras.Model,
    x: Any,
    share: float,
    costs: CostTable,
    group_size: int | Mapping[str, int] | None = None,
) -> float:
    """Move all binary gates of a net alike, so that some images spend a share.

    Args:
        model: With gates.
        x: The images.
        share: Of the plain net's cost.
        costs: What it costs.
        group_size: As in `CostTable.of`.

    Returns:
        The share that is spent in the end.
    """
    decider, shift = DecisionModel(model), Shift(model)

    def spends(by: float) -> float:
        shift.to(by)
        return share_spent(decider, x, costs, group_size)

    return spend_just(spends, spends(0.0), share)


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
