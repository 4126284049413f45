"""Names that moved: the old ones work for one version, with a warning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from keras_dyngate._warn import warn


def moved(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a module that names were moved out of.

    Args:
        module: The old module.
        homes: The new module of each name.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(
            f"`{module}.{name}` is now `{homes[name]}.{name}`; the old name will go in "
            "version 0.3",
            DeprecationWarning,
        )
        return getattr(importlib.import_module(homes[name]), name)

    return find
