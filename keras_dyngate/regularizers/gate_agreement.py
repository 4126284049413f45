"""A penalty on channels that run for nothing, because a neighbour is open."""

from typing import Any

import numpy as np
from keras import ops

from keras_dyngate._checks import positive_int
from keras_dyngate._registration import serializable
from keras_dyngate.regularizers.regularizer import GateRegularizer, Schedule


@serializable
class GateAgreement(GateRegularizer):
    """How many channels would run only because others of their group are open.

    A file runs channels in groups, and a group when any of its channels is open. Of a
    group of `n` gates with probabilities `p`, `n * max(p)` channels run and `sum(p)` are
    wanted; the penalty is the difference, summed over the groups and averaged over the
    samples. It is 0 where the gates of every group agree. Design of this library.

    Args:
        coefficient: Number or schedule. Default 0.002.
        group_size: Neighbouring gates that run together, those of the file that is to
            be exported. Default 16.
        name: Default "gate_agreement".

    Raises:
        ValueError: In the call, if the groups do not divide the gates.

    Example:
        ```python
        price = kd.GateAgreement(0.002, group_size=8)
        gate = kd.BinaryGate(16, regularizers=[price])
        ```
    """

    def __init__(
        self,
        coefficient: "float | Schedule" = 0.002,
        group_size: int = 16,
        name: str = "gate_agreement",
    ) -> None:
        super().__init__(coefficient, name)
        self.group_size = positive_int("group_size", group_size)

    def __call__(self, output: Any, unit_macs: np.ndarray | None = None) -> Any:
        units = int(output.logit.shape[-1])
        if units % self.group_size:
            raise ValueError(
                "`group_size` must divide the gates of every controller. "
                f"Received: group_size={self.group_size}, {units} gates"
            )
        chance = ops.sigmoid(ops.cast(output.logit, "float32"))
        groups = ops.reshape(chance, (-1, units // self.group_size, self.group_size))
        wasted = ops.max(groups, axis=-1, keepdims=True) - groups
        return ops.sum(ops.mean(ops.sum(wasted, axis=-1), axis=0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "group_size": self.group_size}
