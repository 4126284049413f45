"""Train gates to a budget of MACs: find the price of open gates while training.

    price = kd.GateSparsity(0.0, weighting="macs")
    model = kd.gated_resnet32(gates=kd.Gates(channel_regularizers=price))
    model.fit(..., callbacks=[kd.MacBudget(0.6, x_train[:128], total_steps=3000)])

A fixed coefficient of `GateSparsity` leads to a cost that is known only afterwards. Here
the cost is measured every few steps on some images, and the coefficient follows: up
while the net is over its budget, down, even below zero, while it is under it.
"""

import math
from collections.abc import Mapping, Sized
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import before_assign
from keras_dyngate._checks import fraction, positive_int
from keras_dyngate._deprecation import renamed
from keras_dyngate._walk import controllers
from keras_dyngate.callbacks.step_callback import StepCallback
from keras_dyngate.cost import MacProfile, count_macs
from keras_dyngate.decisions import DecisionModel
from keras_dyngate.regularizers import GateSparsity, LinearSchedule


class MacBudget(StepCallback):
    """Drives the coefficients of `GateSparsity` so that a share of the MACs is spent.

    The budget falls on a straight line from 1 to `share` between two points of the
    training. The coefficient is a proportional-integral controller's, in units of the
    loss for computing the whole net (design of this library).

    It drives each controller's `GateSparsity(0.0, weighting="macs")`: a sum in MACs,
    whose coefficient is a number. That number is of no account; no other callback may
    set it (`RegularizationSchedule` does not). The order of callbacks is free.

    Args:
        share: Of the plain net's MACs, to spend; controllers included.
        x: Images to measure on, some hundred training images; they are predicted
            every `every` steps.
        total_steps: Steps of the whole training. None: those of the run that
            `TrainingCheckpoint.fit` tells of, or else epochs times steps; needed where
            the data's length is unknown.
        begin, end: Shares of training between which the budget falls. Default 0 and
            0.4.
        every: Steps from one measurement to the next. Default 5.
        gain: (proportional, integral): price per excess share, and its growth per
            measurement. Default (20, 0.5).
        group_size: As in `MacProfile.of`: count what runs in groups of so many channels.
        regularizer: Name of the regularizers to drive, where a controller has several
            of the kind. None (default): all of the kind.
        watched: The model whose MACs count, where the one that is fitted holds it.
            None: the one that is fitted.

    Attributes:
        share: Of the MACs, as last measured.
        target: Of the MACs, to spend in the end.
        price: The price last set.

    Raises:
        ValueError: For bad arguments; when training starts, if the model has no such
            regularizer, a controller has none of the kind among its `GateSparsity`, or
            several, or the steps of the training are not known.

    Example:
        ```python
        gate = kd.BinaryGate(4, regularizers=[kd.GateSparsity(0.0, weighting="macs")])
        block = kd.GatedBasicBlock(4, channel_gate=gate)
        model = keras.Sequential([keras.Input((8, 8, 4)), block])
        model.compile("sgd", "mse")
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        budget = kd.MacBudget(0.6, x)  # 60 % of the plain net's MACs
        history = model.fit(x, x, verbose=0, callbacks=[budget])
        ```
    """

    @renamed(target="share", images="x")
    def __init__(
        self,
        share: float,
        x: Any,
        total_steps: int | None = None,
        begin: float = 0.0,
        end: float = 0.4,
        every: int = 5,
        gain: tuple[float, float] = (20.0, 0.5),
        group_size: int | Mapping[str, int] | None = None,
        regularizer: str | None = None,
        watched: keras.Model | None = None,
    ) -> None:
        super().__init__(total_steps)
        self.target = fraction("share", share)
        if isinstance(x, Sized) and not len(x):
            raise ValueError("`x` must hold at least one image. Received: none")
        self.images = x
        self._line = LinearSchedule(1.0, self.target, begin, end)
        self.every = positive_int("every", every)
        self.gain = _gains(gain)
        self.group_size = group_size
        self.regularizer = regularizer
        self.watched = watched
        self.share: float | None = None
        self.price = 0.0
        self._sum = 0.0
        self._prices: list[tuple[GateSparsity, Any]] = []
        self._decider: DecisionModel | None = None
        self._profile: MacProfile | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        if self.whole() is None:
            raise ValueError(
                "`total_steps` must be given where the length of the data is unknown, "
                "for the budget falls with the share of steps done. "
                "Received: total_steps=None"
            )
        model = self.model if self.watched is None else self.watched
        self._prices = prices_of(model, self.regularizer)
        self._decider = DecisionModel(model)
        self._profile = count_macs(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._set_price()  # after what others have set when training began

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before = self._done
        super().on_train_batch_end(batch, logs)
        if self._done // self.every > before // self.every:
            self._drive()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["mac_share"] = math.nan if self.share is None else self.share
            logs["mac_price"] = self.price
            for item, _ in self._prices:
                logs[f"{item.name}_coefficient"] = self._coefficient()

    def on_train_end(self, logs: Any = None) -> None:
        self._decider = None

    def budget(self, step: int) -> float:
        """Share of the MACs that may be spent after `step` steps."""
        whole = self.whole()
        assert whole is not None  # asked for when training began
        return self._line(step / whole)

    def _drive(self) -> None:
        assert self._decider is not None and self._profile is not None
        before_assign(self.model)
        found = self._decider.predict(self.images, verbose=0)["decisions"]
        macs = self._profile.of(found, self.group_size)
        self.share = float(np.mean(macs)) / self._profile.total
        excess = self.share - self.budget(self._done)
        proportional, integral = self.gain
        self._sum = min(max(self._sum + integral * excess, 0.0), 10.0)
        self.price = self._sum + proportional * excess
        self._set_price()

    def _coefficient(self) -> float:
        assert self._profile is not None
        return self.price * 1e6 / self._profile.gateable  # it counts in millions

    def _set_price(self) -> None:
        before_assign(self.model)
        for _, variable in self._prices:
            variable.assign(self._coefficient())

    def get_state(self) -> dict[str, Any]:
        """For `TrainingCheckpoint(stateful=[...])`."""
        return {"sum": self._sum, "price": self.price, "share": self.share}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `get_state`."""
        self._sum, self.price = state["sum"], state["price"]
        self.share = state["share"]


def _gains(gain: Any) -> tuple[float, float]:
    try:
        proportional, integral = (float(number) for number in gain)
    except (TypeError, ValueError):
        proportional = integral = math.nan
    if not (0 <= proportional < math.inf and 0 <= integral < math.inf):
        raise ValueError(
            "`gain` must be two numbers >= 0, the proportional and the integral one. "
            f"Received: gain={gain!r}"
        )
    return proportional, integral


def prices_of(model: keras.Model, name: str | None) -> list[tuple[GateSparsity, Any]]:
    """The regularizers to drive, one of a controller at most, and their variables."""
    found = []
    for gate in controllers(model):
        pairs = [
            (item, variable)
            for item, variable in zip(gate.regularizers, gate.coefficients, strict=True)
            if (isinstance(item, GateSparsity) if name is None else item.name == name)
        ]
        wrong = [_not_a_price(item) for item, _ in pairs]
        right = [pair for pair, why in zip(pairs, wrong, strict=True) if not why]
        if pairs and not right:
            raise ValueError(
                "`MacBudget` drives `GateSparsity(0.0, weighting='macs')`: a sum in "
                "MACs, whose coefficient is a number. "
                f"Received: {pairs[0][0].name!r} of {gate.path!r}, {wrong[0]}"
            )
        if len(right) > 1:
            raise ValueError(
                "`regularizer` must name the one to drive of each controller. "
                f"Received: regularizer={name!r} for {[i.name for i, _ in right]} of "
                f"{gate.path!r}"
            )
        found += right
    if not found:
        others = {
            item.name for gate in controllers(model) for item in gate.regularizers
        }
        named = "" if name is None else f" of the name {name!r}"
        raise ValueError(
            "`model` must have controllers with a `GateSparsity(0.0, weighting='macs')`"
            f"{named} for a budget to be kept. Received: {model.name!r} with the "
            f"regularizers {sorted(others)}"
        )
    return found


def _not_a_price(item: Any) -> str:
    """Why a regularizer cannot be the price of MACs; nothing if it can."""
    if not isinstance(item, GateSparsity):
        return f"a {type(item).__name__}"
    if item.weighting != "macs":
        return f"which does not count in MACs: weighting={item.weighting!r}"
    if item.reduction != "sum":
        return f"which is averaged: reduction={item.reduction!r}"
    if item.scheduled:
        return "which follows a schedule of its own"
    return ""
