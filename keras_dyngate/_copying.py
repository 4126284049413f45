"""Layers and operators made once more: from their config, or with the same weights."""

from collections.abc import Callable
from typing import Any

import keras

Change = Callable[[dict[str, Any]], dict[str, Any]]


def made_anew(layer: Any, change: Change) -> Any:
    """A layer of the same kind from its config, changed, without weights yet.

    A `Lambda` keeps its function, which a config would hold as code; classes need not be
    registered. Whatever `get_config` or `from_config` raise comes through.
    """
    if isinstance(layer, keras.layers.Lambda):
        given = {"name": layer.name, "dtype": layer.dtype_policy.name}
        return keras.layers.Lambda(
            layer.function, arguments=layer.arguments, **change(given)
        )
    classes = {type(x).__name__: type(x) for x in layer._flatten_layers()}
    with keras.saving.custom_object_scope(classes):
        return type(layer).from_config(change(layer.get_config()))


def same_but(operation: Any, **attributes: Any) -> Any:
    """The same layer or operator, its variables shared, with other attributes."""
    twin = object.__new__(type(operation))
    twin.__dict__.update(operation.__dict__)
    twin.__dict__.update(attributes)
    return twin
