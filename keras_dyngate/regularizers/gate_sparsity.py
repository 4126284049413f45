"""The L0 penalty: how many gates, or how many MACs, are expected to be open."""

from typing import Any

import numpy as np
from keras import ops

from keras_dyngate._checks import one_of
from keras_dyngate._registration import serializable
from keras_dyngate.regularizers.regularizer import GateRegularizer, Schedule


@serializable
class GateSparsity(GateRegularizer):
    """Expected number of open gates: the mean over samples of `sum sigmoid(logit)`.

    `sigmoid(logit)` is the probability that a binary concrete gate is open.

    Args:
        coefficient: Number or schedule. The usual one is off for the first fifth of
            training and full at 60 %: `LinearSchedule(0.0, value, 0.2, 0.6)`.
        weighting: None counts every gate alike (default). "macs" weights each gate by
            the MACs it controls with all others open: the penalty is then in millions of
            MACs per image (design of this library).
        reduction: "sum" over the gates (default), or their "mean" (weighted, if so).
        name: Default "gate_sparsity".

    Raises:
        ValueError: In the call, if weighting is "macs" and the MACs are not known
            because no block holds the controller.
    """

    def __init__(
        self,
        coefficient: "float | Schedule" = 0.01,
        weighting: str | None = None,
        reduction: str = "sum",
        name: str = "gate_sparsity",
    ) -> None:
        super().__init__(coefficient, name)
        self.weighting = one_of("weighting", weighting, (None, "macs"))
        self.reduction = one_of("reduction", reduction, ("sum", "mean"))

    def __call__(self, output: Any, unit_macs: np.ndarray | None = None) -> Any:
        probability = ops.sigmoid(ops.cast(output.logit, "float32"))
        weights = np.ones(probability.shape[-1], "float32")
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
        return ops.sum(ops.mean(probability, axis=0) * weights)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weighting": self.weighting,
            "reduction": self.reduction,
        }
