"""What the package offers, as `__init__.pyi` lists it: one list for tools and run time.

Names resolve on first use, so nothing may be imported to know them. A decorator that
publishes what it decorates would do so too late: when its module is imported.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

PACKAGE = __name__.partition(".")[0]


def _listed() -> tuple[dict[str, str], tuple[str, ...]]:
    """The module of each public name, and the modules that are public themselves."""
    homes: dict[str, str] = {}
    modules: list[str] = []
    text = pkgutil.get_data(PACKAGE, "__init__.pyi") or b""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            homes |= {alias.name: node.module for alias in node.names}
    return homes, tuple(modules)


HOMES, MODULES = _listed()


def offered(module: str) -> Callable[[str], Any]:
    """A `__getattr__` for a module: the public names that live there or below."""

    def find(name: str) -> Any:
        if module == PACKAGE and name in MODULES:
            return importlib.import_module(f"{PACKAGE}.{name}")
        if not f"{HOMES.get(name, '')}.".startswith(f"{module}."):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(HOMES[name]), name)

    return find
