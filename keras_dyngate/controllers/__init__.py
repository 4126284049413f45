"""Controllers: small nets that score each unit they control; a score of 0 skips it."""

from collections.abc import Callable
from typing import Any

import keras

from keras_dyngate.controllers.binary_gate import BinaryGate
from keras_dyngate.controllers.controller import Controller, ControllerOutput
from keras_dyngate.controllers.forcing import force_open_rate
from keras_dyngate.controllers.salience import SalienceController

_NAMES: dict[str, type[Controller]] = {
    "binary": BinaryGate,
    "binary_gate": BinaryGate,
    "salience": SalienceController,
}

__all__ = [
    "BinaryGate",
    "Controller",
    "ControllerOutput",
    "SalienceController",
    "force_open_rate",
    "get",
]


def get(
    identifier: "str | dict[str, Any] | Controller | Callable[..., Controller] | None",
    units: int | None = None,
) -> Controller | None:
    """Turn an identifier into a controller.

    Args:
        identifier: None, a name ("binary", "salience"), a `Controller`, its serialized
            config, or a callable such as the class that takes `units` and returns a
            controller.
        units: How many decisions a controller made here is to take. None if the
            identifier says so itself.

    Returns:
        A `Controller`, or None for None.

    Raises:
        ValueError: If the identifier is none of these.
    """
    if identifier is None or isinstance(identifier, Controller):
        return identifier
    make: Any = identifier
    if isinstance(identifier, str):
        make = _NAMES.get(identifier)
    made: Any = None
    if isinstance(identifier, dict):
        made = keras.saving.deserialize_keras_object(identifier)
    elif callable(make):
        made = make(units=units)
    if not isinstance(made, Controller):
        raise ValueError(
            "A gate must be None, one of "
            f"{sorted(_NAMES)}, a Controller, its config, or a callable that makes one "
            f"from `units`. Received: {identifier!r}"
        )
    return made
