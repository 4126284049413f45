"""Penalties on open gates: how many, or how many MACs, by L0 or by L1."""

from typing import Any

import numpy as np
from keras import ops

from keras_dyngate._checks import one_of
from keras_dyngate._registration import serializable
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
            MACs per image (design of this library).
        reduction: "sum" over the gates of a controller (default), or their "mean"
            (weighted, if so).
        norm: "l0" (default) or "l1".
        name: Default "gate_sparsity".

    Raises:
        ValueError: In the call, if weighting is "macs" and the MACs are not known
            because no block holds the controller.

    Example:
        ```python
        price = kd.GateSparsity(0.01, weighting="macs", reduction="mean")
        gates = kd.Gates(group_size=8, channel_regularizers=[price])
        ```
    """

    def __init__(
        self,
        coefficient: "float | Schedule" = 0.01,
        weighting: str | None = None,
        reduction: str = "sum",
        norm: str = "l0",
        name: str = "gate_sparsity",
    ) -> None:
        super().__init__(coefficient, name)
        self.weighting = one_of("weighting", weighting, (None, "macs"))
        self.reduction = one_of("reduction", reduction, ("sum", "mean"))
        self.norm = one_of("norm", norm, ("l0", "l1"))

    def __call__(self, output: Any, unit_macs: np.ndarray | None = None) -> Any:
        if self.norm == "l1":
            amount = ops.cast(output.score, "float32")
        else:
            amount = ops.sigmoid(ops.cast(output.logit, "float32"))
        weights = np.ones(amount.shape[-1], "float32")
        if self.weighting == "macs":
            if unit_macs is None:
                raise ValueError(
                    "`weighting='macs'` needs a controller held by a block, which knows "
                    "the MACs of its units. Received: a controller on its own"
                )
            weights = (unit_macs / 1e6).astype("float32")
        if self.reduction == "mean":
            weights = weights / weights.sum()
        weights = ops.convert_to_tensor(weights)
        return ops.sum(ops.mean(amount, axis=0) * weights)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weighting": self.weighting,
            "reduction": self.reduction,
            "norm": self.norm,
        }
