"""Penalties on what controllers decide, and schedules for their coefficients."""

from typing import Any

import keras

from keras_dyngate.regularizers.batch_shaping import BatchShaping
from keras_dyngate.regularizers.gate_agreement import GateAgreement
from keras_dyngate.regularizers.gate_sparsity import GateSparsity
from keras_dyngate.regularizers.regularizer import GateRegularizer
from keras_dyngate.regularizers.schedules import LinearSchedule

_NAMES = {
    "batch_shaping": BatchShaping,
    "gate_agreement": GateAgreement,
    "gate_sparsity": GateSparsity,
}

__all__ = [
    "BatchShaping",
    "GateAgreement",
    "GateRegularizer",
    "GateSparsity",
    "LinearSchedule",
    "get",
]


def get(identifier: Any) -> GateRegularizer:
    """A regularizer from a name, a serialized config or an instance.

    An instance is copied by its config: each controller has its own.

    Raises:
        ValueError: If the identifier is none of these.
    """
    found = identifier
    if isinstance(identifier, str) and identifier in _NAMES:
        found = _NAMES[identifier]()
    elif isinstance(identifier, dict):
        found = keras.saving.deserialize_keras_object(identifier)
    if not isinstance(found, GateRegularizer):
        raise ValueError(
            f"A gate regularizer must be one of {sorted(_NAMES)}, a GateRegularizer or "
            f"its config. Received: {identifier!r}"
        )
    return type(found).from_config(found.get_config())
