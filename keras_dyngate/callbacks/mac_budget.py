"""Train gates to a budget of MACs: find the price of open gates while training.

    model = kd.gated_resnet32(gate_regularizers=[kd.GateSparsity(0.0, weighting="macs")])
    model.fit(..., callbacks=[kd.MacBudget(0.6, x_train[:128], total_steps=3000)])

A fixed coefficient of `GateSparsity` leads to a cost that is known only afterwards. Here
the cost is measured every few steps on some images, and the coefficient follows: up
while the net is over its budget, down, even below zero, while it is under it.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import before_assign
from keras_dyngate._checks import fraction, positive_int
from keras_dyngate._walk import controllers
from keras_dyngate.cost import MacProfile, count_macs
from keras_dyngate.decisions import DecisionModel
from keras_dyngate.regularizers import LinearSchedule


class MacBudget(keras.callbacks.Callback):
    """Drives the coefficients of `GateSparsity` so that a share of the MACs is spent.

    The budget falls on a straight line from 1 to `target` between two points of the
    training. The coefficient is a proportional-integral controller's, in units of the
    loss for computing the whole net (design of this library).

    Each regularizer named `regularizer` must be `GateSparsity(weighting="macs")`, whose
    coefficient this callback sets. A `RegularizationSchedule` must stand before it in
    the list of callbacks.

    Args:
        target: Share of the plain net's MACs to spend, controllers included.
        images: Images to measure on, some hundred training images; they are predicted
            every `every` steps.
        total_steps: Steps of the whole training; None: epochs times steps.
        begin, end: Shares of training between which the budget falls. Default 0 and
            0.4.
        every: Steps from one measurement to the next. Default 5.
        gain: (proportional, integral): price per excess share, and its growth per
            measurement. Default (20, 0.5).
        group_size: As in `MacProfile.of`: count what runs in groups of so many channels.
        regularizer: Name of the regularizers to drive.
        watched: The model whose MACs count, where the one that is fitted holds it.
            None: the one that is fitted.

    Attributes:
        share: The share of MACs last measured.
        price: The price last set.

    Raises:
        ValueError: For bad arguments; when training starts, if the model has no such
            regularizer.
    """

    def __init__(
        self,
        target: float,
        images: Any,
        total_steps: int | None = None,
        begin: float = 0.0,
        end: float = 0.4,
        every: int = 5,
        gain: tuple[float, float] = (20.0, 0.5),
        group_size: int | Mapping[str, int] | None = None,
        regularizer: str = "gate_sparsity",
        watched: keras.Model | None = None,
    ) -> None:
        super().__init__()
        self.target = fraction("target", target)
        self.images = images
        if total_steps is not None:
            total_steps = positive_int("total_steps", total_steps)
        self.total_steps, self.initial_step = total_steps, 0
        self._line = LinearSchedule(1.0, self.target, begin, end)
        self.every = positive_int("every", every)
        self.gain = gain
        self.group_size = group_size
        self.regularizer = regularizer
        self.watched = watched
        self.share: float | None = None
        self.price = 0.0
        self._sum = 0.0
        self._done = self._before_epoch = 0
        self._coefficients: list[Any] = []
        self._decider: DecisionModel | None = None
        self._profile: MacProfile | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model if self.watched is None else self.watched
        self._coefficients = [
            variable
            for gate in controllers(model)
            for item, variable in zip(gate.regularizers, gate.coefficients, strict=True)
            if item.name == self.regularizer
        ]
        if not self._coefficients:
            raise ValueError(
                f"`model` must have controllers with a regularizer {self.regularizer!r}. "
                f"Received: {model.name!r} without any"
            )
        self._decider = DecisionModel(model)
        self._profile = count_macs(model)
        self._done = self.initial_step

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._before_epoch = self._done
        self._set_price()  # a `RegularizationSchedule` has just set its own

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._done = self._done, self._before_epoch + batch + 1
        if self._done // self.every > before // self.every:
            self._drive()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["mac_share"] = math.nan if self.share is None else self.share
            logs["mac_price"] = self.price
            logs[f"{self.regularizer}_coefficient"] = self._coefficient()

    def on_train_end(self, logs: Any = None) -> None:
        self._decider = None

    def budget(self, step: int) -> float:
        """Share of the MACs that may be spent after `step` steps."""
        total = self.total_steps
        if total is None:
            total = self.params["epochs"] * self.params["steps"]
        return self._line(step / total)

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
        for variable in self._coefficients:
            variable.assign(self._coefficient())

    def get_state(self) -> dict[str, Any]:
        """For `TrainingCheckpoint(stateful=[...])`."""
        return {"sum": self._sum, "price": self.price, "share": self.share}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `get_state`."""
        self._sum, self.price = state["sum"], state["price"]
        self.share = state["share"]
