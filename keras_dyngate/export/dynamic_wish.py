"""What `make_dynamic` is asked for: a budget of cost, an accuracy, or both."""

import dataclasses
from typing import Any

from keras_dyngate._checks import fraction
from keras_dyngate.cost.budget import Budget
from keras_dyngate.cost.cost_table import MACS
from keras_dyngate.export.dynamic_result import Tried

SHARE = 0.75  # that gates are trained to where no cost is asked for
TIE = 1.02  # as much above a limit still keeps it


@dataclasses.dataclass(frozen=True)
class DynamicWish:
    """What the answer is to keep to."""

    budget: Budget | None
    drop: float | None

    @classmethod
    def of(cls, budget: Any, drop: float | None) -> "DynamicWish":
        found = None if budget is None else Budget(budget)
        if drop is not None:
            drop = fraction("max_accuracy_drop", drop)
        if found is not None and found.unit is None:
            if drop is not None:
                raise ValueError(
                    "`max_accuracy_drop` is said by the budget already. Received: "
                    f"budget={found.text!r}, max_accuracy_drop={drop!r}"
                )
            return cls(found, found.accuracy_drop)
        if found is not None and found.unit not in (MACS, "ms"):
            raise ValueError(
                "`budget` must be of latency, MACs or accuracy, which are measured here. "
                f"Received: budget={found.text!r}"
            )
        if found is None and drop is None:
            drop = 0.0
        return cls(found, drop)

    @property
    def in_ms(self) -> bool:
        """Whether cost is time."""
        return self.budget is None or self.budget.unit != MACS

    @property
    def by_cost(self) -> bool:
        """Whether accuracy is to be the highest, not time the least."""
        return self.budget is not None and self.budget.unit is not None

    def cost(self, net: Tried) -> float:
        """Of a net: ms or MACs."""
        return net.ms if self.in_ms else net.macs

    def limit(self, plain: Tried) -> float:
        """What may be spent, in ms or MACs."""
        assert self.budget is not None
        whole = self.cost(plain) if self.budget.relative else 1.0
        return self.budget.value * whole

    def share(self, plain: Tried) -> float:
        """That over the plain net's."""
        if not self.by_cost:
            return SHARE
        return self.limit(plain) / self.cost(plain)

    def keeps(self, net: Tried, plain: Tried) -> bool:
        """Whether a net that was timed keeps to it."""
        if self.drop is not None and net.accuracy < plain.accuracy - self.drop - 1e-9:
            return False
        if not self.by_cost:
            return True
        return self.cost(net) <= TIE * self.limit(plain)
