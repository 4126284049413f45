"""Penalties on open gates: how many, or what they cost, by L0 or by L1."""

from typing import Any

import numpy as np
from keras import ops

from keras_dyngate._checks import one_of
from keras_dyngate._registration import serializable
from keras_dyngate.cost.cost_table import MACS, CostTable
from keras_dyngate.cost.table_file import table_config, table_from_config
from keras_dyngate.regularizers.regularizer import GateRegularizer, Schedule


@serializable
class GateSparsity(GateRegularizer):
    """How much is open: the mean over samples of a sum over the gates.

    With `norm="l0"`, for binary gates, a gate counts by `sigmoid(logit)`, the
    probability that it is open. With "l1", for saliences, it counts by its score.
    Controllers add up: for a mean over the layers of a net, use `reduction="mean"` and
    divide the coefficient by the number of controllers.

    Args:
        coefficient: Number or schedule. The usual one is off for the first fifth of
            training and full at 60 %: `LinearSchedule(0.0, value, 0.2, 0.6)`.
        weighting: None counts every gate alike (default). "macs" weights each gate by
            the MACs it controls with all others open: the penalty is then in millions of
            MACs per image (design of this library). A `CostTable` does the same in its
            own unit: a penalty in ms per image, of a table in ms.
        reduction: "sum" over the gates of a controller (default), or their "mean"
            (weighted, if so).
        norm: "l0" (default) or "l1".
        name: Default "gate_sparsity".

    Raises:
        ValueError: For another `weighting`; in the call, if the costs are not known
            because no block holds the controller, or the table is of another model.

    Example:
        ```python
        price = kd.GateSparsity(0.01, weighting="macs", reduction="mean")
        gates = kd.Gates(group_size=8, channel_regularizers=[price])
        ```
    """

    def __init__(
        self,
        coefficient: "float | Schedule" = 0.01,
        weighting: "str | CostTable | None" = None,
        reduction: str = "sum",
        norm: str = "l0",
        name: str = "gate_sparsity",
    ) -> None:
        super().__init__(coefficient, name)
        if isinstance(weighting, dict):
            weighting = table_from_config(weighting)
        if not isinstance(weighting, CostTable) and weighting not in (None, "macs"):
            raise ValueError(
                "`weighting` must be None, 'macs' or a CostTable. "
                f"Received: weighting={weighting!r}"
            )
        self.weighting = weighting
        self.reduction = one_of("reduction", reduction, ("sum", "mean"))
        self.norm = one_of("norm", norm, ("l0", "l1"))

    def unit_costs(self, controller: Any) -> np.ndarray | None:
        """Costs of a controller's units: MACs, or those of the table."""
        if not isinstance(self.weighting, CostTable):
            return super().unit_costs(controller)
        parts = [self.weighting.per_unit(*item) for item in controller.decision_names]
        return np.concatenate(parts) if parts else None

    def unit_weights(self, costs: np.ndarray | None, units: int) -> np.ndarray:
        """What each unit counts for in the sum, float32 `[units]`.

        Args:
            costs: What `unit_costs` says.
            units: How many there are.
        """
        if self.weighting is None:
            return np.ones(units, "float32")
        if costs is None:
            raise ValueError(
                "`weighting` by costs needs a controller held by a block, which knows "
                "what its units control. Received: a controller on its own"
            )
        in_macs = not isinstance(self.weighting, CostTable) or (
            self.weighting.unit == MACS
        )
        return (costs / (1e6 if in_macs else 1.0)).astype("float32")

    def __call__(self, output: Any, unit_macs: np.ndarray | None = None) -> Any:
        if self.norm == "l1":
            amount = ops.cast(output.score, "float32")
        else:
            amount = ops.sigmoid(ops.cast(output.logit, "float32"))
        weights = self.unit_weights(unit_macs, amount.shape[-1])
        if self.reduction == "mean":
            weights = weights / weights.sum()
        weights = ops.convert_to_tensor(weights)
        return ops.sum(ops.mean(amount, axis=0) * weights)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weighting": table_config(self.weighting)
            if isinstance(self.weighting, CostTable)
            else self.weighting,
            "reduction": self.reduction,
            "norm": self.norm,
        }
