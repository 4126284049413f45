"""Base of the penalties on a controller's output."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Schedule = Callable[[float], float]


class GateRegularizer:
    """A penalty on what one controller says of a batch.

    The controller multiplies it by a coefficient held in a variable, which
    `RegularizationSchedule` drives when the coefficient is a schedule. Without that
    callback a scheduled coefficient stays at its value for progress 0. A number is the
    variable's first value; other callbacks, as `MacBudget`, may drive it.

    Args:
        coefficient: A number, or a callable of training progress (0 to 1) such as
            `LinearSchedule`. To be saved with a model it must be serializable by Keras.
        name: Under which the coefficient appears in logs and files.

    Example:
        ```python
        class Doubt(kd.GateRegularizer):  # of gates neither open nor shut
            def __init__(self, coefficient=0.1, name="doubt"):
                super().__init__(coefficient, name)

            def __call__(self, output, unit_macs=None):
                return keras.ops.mean(keras.ops.exp(-keras.ops.square(output.logit)))

        gate = kd.BinaryGate(4, regularizers=[Doubt()])
        ```
    """

    def __init__(self, coefficient: "float | Schedule", name: str) -> None:
        if isinstance(coefficient, dict):
            coefficient = keras.saving.deserialize_keras_object(coefficient)
        if not callable(coefficient) and not (
            isinstance(coefficient, (int, float)) and coefficient >= 0
        ):
            raise ValueError(
                "`coefficient` must be a number >= 0 or a callable of progress. "
                f"Received: coefficient={coefficient!r}"
            )
        self.coefficient = coefficient
        self.name = name

    @property
    def scheduled(self) -> bool:
        """Whether the coefficient is a schedule, not a number."""
        return callable(self.coefficient)

    def coefficient_at(self, progress: float) -> float:
        """The coefficient when `progress` (0 to 1) of the training is done."""
        if callable(self.coefficient):
            return float(self.coefficient(progress))
        return float(self.coefficient)

    def variables(self, add_weight: Callable[..., Any]) -> dict[str, Any]:
        """What is learned besides: variables that the controller holds.

        They are made by the controller's `add_weight`, each named after the regularizer,
        and given to every call by their key. Default: none.
        """
        return {}

    def unit_costs(self, controller: Any) -> np.ndarray | None:
        """What each unit of a controller costs, `[units]`, where known: its MACs."""
        return controller.unit_macs

    def __call__(self, output: Any, unit_macs: np.ndarray | None = None) -> Any:
        """The penalty, without its coefficient: a float32 scalar.

        Args:
            output: `ControllerOutput` of a batch, two `[batch, units]` tensors.
            unit_macs: What `unit_costs` says of the units.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        coefficient: Any = self.coefficient
        if callable(coefficient):
            coefficient = keras.saving.serialize_keras_object(coefficient)
        return {"coefficient": coefficient, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GateRegularizer":
        return cls(**config)
