"""Train gates to a budget of MACs or ms: find the price of open gates while training.

    price = kd.GateSparsity(0.0, weighting="macs")
    model = kd.gated_resnet32(gates=kd.Gates(channel_regularizers=price))
    model.fit(..., callbacks=[kd.CostBudget(0.6, x_train[:128], total_steps=3000)])

    table = kd.measure_latency(model, quantization="int8", representative_data=x_train)
    kd.CostBudget("latency:8.0ms", x_train[:128], table=table)

A fixed coefficient of `GateSparsity` leads to a cost that is known only afterwards. Here
the cost is measured every few steps on some images, and the coefficient follows: up
while the net is over its budget, down, even below zero, while it is under it.
"""

import math
from collections.abc import Mapping, Sized
from typing import Any

import keras

from keras_dyngate._backend import before_assign
from keras_dyngate._checks import fraction, positive_int
from keras_dyngate._deprecation import renamed
from keras_dyngate._walk import controllers
from keras_dyngate.callbacks.settling import Shift, share_spent, spend_just
from keras_dyngate.callbacks.step_callback import StepCallback
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.cost.budget import Budget
from keras_dyngate.cost.cost_table import MACS
from keras_dyngate.cost.table_file import check_table
from keras_dyngate.decisions import DecisionModel
from keras_dyngate.regularizers import GateSparsity, LinearSchedule


class CostBudget(StepCallback):
    """Drives the coefficients of `GateSparsity` so that a share of the cost is spent.

    The budget falls on a straight line from 1 to `share` between two points of the
    training. The coefficient is a proportional-integral controller's, in units of the
    loss for computing the whole net (design of this library).

    It drives each controller's `GateSparsity(0.0, weighting="macs")`, or one whose
    weighting is a table: a sum over the gates, whose coefficient is a number. That number
    is of no account, and with a `table` each controller's is scaled so that what is open
    is weighed by the table; no other callback may set it (`RegularizationSchedule` does
    not). The order of callbacks is free.

    Args:
        share: Of the plain net's cost, to spend, 0 to 1; controllers included. Or a
            `Budget`, or its text: "macs:0.6x", "latency:8.0ms".
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
        group_size: As in `CostTable.of`: count what runs in groups of so many channels.
        regularizer: Name of the regularizers to drive, where a controller has several
            of the kind. None (default): all of the kind.
        watched: The model whose cost counts, where the one that is fitted holds it.
            None: the one that is fitted.
        table: What the net costs: `measure_latency(model)`, or one that was measured
            elsewhere. None: MACs.
        settle_from: Share of the training, 0 to 1, from which on, at the end of every
            epoch and of the training, the biases of all binary gates are moved alike to
            where the images spend just the budget, if they are off by more than .01
            (design of this library). None (default): never.

    Attributes:
        share: Of the cost, as last measured.
        target: Of the cost, to spend in the end.
        price: The price last set.

    Raises:
        ValueError: For bad arguments; when training starts, if the model has no such
            regularizer, a controller has none of the kind among its `GateSparsity`, or
            several, the table is of another model, the budget cannot be kept with
            everything shut, or the steps of the training are not known.

    Example:
        ```python
        gate = kd.BinaryGate(4, regularizers=[kd.GateSparsity(0.0, weighting="macs")])
        block = kd.GatedBasicBlock(4, channel_gate=gate)
        model = keras.Sequential([keras.Input((8, 8, 4)), block])
        model.compile("sgd", "mse")
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        budget = kd.CostBudget("macs:0.6x", x)  # 60 % of the plain net's MACs
        history = model.fit(x, x, verbose=0, callbacks=[budget])
        ```
    """

    @renamed(target="share", images="x")
    def __init__(
        self,
        share: "float | str | Budget",
        x: Any,
        total_steps: int | None = None,
        begin: float = 0.0,
        end: float = 0.4,
        every: int = 5,
        gain: tuple[float, float] = (20.0, 0.5),
        group_size: int | Mapping[str, int] | None = None,
        regularizer: str | None = None,
        watched: keras.Model | None = None,
        table: CostTable | None = None,
        settle_from: float | None = None,
    ) -> None:
        super().__init__(total_steps)
        self._budget: Budget | None = None
        if isinstance(share, (str, Budget)):
            self._budget = Budget(share, "share")
        self.target = math.nan
        if self._budget is None:
            self.target = fraction("share", share)
        elif self._budget.what == "accuracy":
            raise ValueError(
                "`share` must be a budget of a cost: which cost keeps an accuracy is not "
                f"known while training. Received: share={share!r}"
            )
        elif self._budget.unit != MACS and table is None:
            raise ValueError(
                f"`table` must be given for a budget in {self._budget.unit}. "
                f"Received: share={share!r}, table=None"
            )
        if table is not None and not isinstance(table, CostTable):
            raise ValueError(
                f"`table` must be a CostTable or None. Received: table={table!r}"
            )
        if isinstance(x, Sized) and not len(x):
            raise ValueError("`x` must hold at least one image. Received: none")
        self.images = x
        self._ends = begin, end
        LinearSchedule(1.0, 0.0, begin, end)  # checks them
        self.every = positive_int("every", every)
        self.gain = _gains(gain)
        self.group_size = group_size
        self.regularizer = regularizer
        self.watched = watched
        self.table = table
        if settle_from is not None:
            fraction("settle_from", settle_from)
        self.settle_from = settle_from
        self._settled = self._measured = -1
        self.share: float | None = None
        self.price = 0.0
        self._sum = 0.0
        self._prices: list[tuple[GateSparsity, Any, float]] = []
        self._decider: DecisionModel | None = None
        self._costs: CostTable | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        if self.whole() is None:
            raise ValueError(
                "`total_steps` must be given where the length of the data is unknown, "
                "for the budget falls with the share of steps done. "
                "Received: total_steps=None"
            )
        model = self.model if self.watched is None else self.watched
        counted = count_macs(model)
        costs = counted
        if self.table is not None:
            costs = check_table(self.table, counted)
        if self._budget is not None:
            self.target = self._budget.share(costs)
        self._costs, self._measured = costs, -1
        self._prices = [
            (item, variable, _scale(gate, item, costs))
            for item, variable, gate in prices_of(model, self.regularizer)
        ]
        self._decider = DecisionModel(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._set_price()  # after what others have set when training began

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before = self._done
        super().on_train_batch_end(batch, logs)
        if self._done // self.every > before // self.every:
            self._drive()
        if batch + 1 == (self.params or {}).get("steps"):
            self._settle()  # before a checkpoint is written

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._settle()
        if logs is None:
            return
        assert self._costs is not None
        what = "mac" if self._costs.unit == MACS else "cost"
        logs[f"{what}_share"] = math.nan if self.share is None else self.share
        logs[f"{what}_price"] = self.price
        for item, _, scale in self._prices:
            logs[f"{item.name}_coefficient"] = self.price * scale

    def on_train_end(self, logs: Any = None) -> None:
        self._decider = None

    def budget(self, step: int) -> float:
        """Share of the cost that may be spent after `step` steps."""
        whole = self.whole()
        assert whole is not None  # asked for when training began
        line = LinearSchedule(1.0, min(self.target, 1.0), *self._ends)
        return line(step / whole)

    def _spent(self) -> float:
        """Share of the cost that the images spend now."""
        assert self._decider is not None and self._costs is not None
        return share_spent(self._decider, self.images, self._costs, self.group_size)

    def _settle(self) -> None:
        """Move all gates alike to where the budget is spent, late in the training."""
        whole = self.whole()
        if self.settle_from is None or whole is None or self._settled == self._done:
            return
        if self._done < self.settle_from * whole:
            return
        self._settled = self._done
        before_assign(self.model)
        if self._measured != self._done:
            self.share = self._spent()
        assert self.share is not None
        shift = Shift(self.model if self.watched is None else self.watched)

        def spends(by: float) -> float:
            before_assign(self.model)
            shift.to(by)
            return self._spent()

        wanted = min(self.budget(self._done), 1.0)
        self.share = spend_just(spends, self.share, wanted)

    def _drive(self) -> None:
        before_assign(self.model)
        self.share, self._measured = self._spent(), self._done
        excess = self.share - self.budget(self._done)
        proportional, integral = self.gain
        self._sum = min(max(self._sum + integral * excess, 0.0), 10.0)
        self.price = self._sum + proportional * excess
        self._set_price()

    def _set_price(self) -> None:
        before_assign(self.model)
        for _, variable, scale in self._prices:
            variable.assign(self.price * scale)

    def get_state(self) -> dict[str, Any]:
        """For `TrainingCheckpoint(stateful=[...])`."""
        return {"sum": self._sum, "price": self.price, "share": self.share}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `get_state`."""
        self._sum, self.price = state["sum"], state["price"]
        self.share = state["share"]


MacBudget = CostBudget  # its name where budgets were of MACs alone


def _scale(gate: Any, item: GateSparsity, costs: CostTable) -> float:
    """The coefficient of one controller's regularizer that makes its price 1.

    Then all of its gates open cost their share of what the net has under gates.
    """
    open_cost = sum(costs.per_unit(*name).sum() for name in gate.decision_names)
    counted = item.unit_weights(item.unit_costs(gate), gate.units).sum()
    return float(open_cost / costs.gateable / counted) if counted else 0.0


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


def prices_of(
    model: keras.Model, name: str | None
) -> list[tuple[GateSparsity, Any, Any]]:
    """The regularizers to drive, one of a controller, their variables, the controllers."""
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
                "`CostBudget` drives `GateSparsity(0.0, weighting='macs')`: a sum of "
                "costs, whose coefficient is a number. "
                f"Received: {pairs[0][0].name!r} of {gate.path!r}, {wrong[0]}"
            )
        if len(right) > 1:
            raise ValueError(
                "`regularizer` must name the one to drive of each controller. "
                f"Received: regularizer={name!r} for {[i.name for i, _ in right]} of "
                f"{gate.path!r}"
            )
        found += [(*pair, gate) for pair in right]
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
    """Why a regularizer cannot be the price of a cost; nothing if it can."""
    if not isinstance(item, GateSparsity):
        return f"a {type(item).__name__}"
    if item.weighting is None:
        return f"which does not count costs: weighting={item.weighting!r}"
    if item.reduction != "sum":
        return f"which is averaged: reduction={item.reduction!r}"
    if item.scheduled:
        return "which follows a schedule of its own"
    return ""
