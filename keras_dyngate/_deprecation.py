"""Names that changed: the old ones work for one version, with a warning."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from keras_dyngate._warn import warn

P = ParamSpec("P")
R = TypeVar("R")


def moved(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a module that names were moved out of.

    Args:
        module: The old module.
        homes: The new module of each name.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        is_now(f"`{module}.{name}`", f"`{homes[name]}.{name}`")
        return getattr(importlib.import_module(homes[name]), name)

    return find


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: arguments of a function may be given under their old names.

    Args:
        **names: The new name of each old one. "gates.groups" is the field `groups` of
            the dataclass that the argument `gates` takes.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in [name for name in kwargs if name in names]:
                new, _, field = names[old].partition(".")
                value: Any = kwargs.pop(old)
                shown = new
                if field:
                    whole: Any = kwargs.pop(new, parameters[new].default)
                    value = dataclasses.replace(whole, **{field: value})
                    shown = f"{new}={type(whole).__name__}({field}=...)"
                elif new in kwargs:
                    raise TypeError(
                        f"Give `{new}`, not `{old}` besides: it is the old name of it. "
                        f"Received: {new}={kwargs[new]!r}, {old}={value!r}"
                    )
                is_now(f"`{old}` of `{function.__qualname__}`", f"`{shown}`")
                kwargs[new] = value
            return function(*args, **kwargs)

        return call

    return decorate


def is_now(old: str, new: str) -> None:
    """Warn that what was said in an old way, `old`, is said as `new` now."""
    warn(f"{old} is now {new}; the old name will go in version 0.3", DeprecationWarning)
