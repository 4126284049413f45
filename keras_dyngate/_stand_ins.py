"""Names under which Keras finds this library's classes before they are imported.

`keras.models.load_model` looks a class up in Keras' table of registered objects. Each
class enters it when its module is imported, which imports Keras; a device may never
want that. So the table first gets a stand-in for each class, as soon as there is a
Keras: at once, or when somebody imports it. A stand-in that is used imports the class.
"""

import contextlib
import importlib
import importlib.abc
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_homes: dict[str, str] = {}


def install(homes: Mapping[str, str]) -> None:
    """Let Keras, now or when it is imported, find classes of this package.

    Nothing is imported but Keras' own table, and that only where Keras is there.

    Args:
        homes: The module of each class.
    """
    _homes.update(homes)
    if sys.modules.get("keras") is not None:
        # Another thread may be importing it still: this waits for the whole of it.
        _announce(importlib.import_module("keras"))
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


def _announce(keras: ModuleType) -> None:
    """Enter the stand-ins, and leave what is there."""
    table = getattr(getattr(keras, "saving", None), "get_custom_objects", None)
    if table is not None:  # Keras 2, which has none, is not this library's matter
        for name, home in _homes.items():
            table().setdefault(f"{_PACKAGE}>{name}", _stand_in(name, home))


def _stand_in(name: str, home: str) -> type:
    """A class that makes instances of another one, imported then."""

    def real() -> Any:
        return getattr(importlib.import_module(home), name)

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return real()(*args, **kwargs)

    def from_config(config: dict[str, Any]) -> Any:
        return real().from_config(config)

    return type(name, (), {"__new__": new, "from_config": staticmethod(from_config)})


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras as the other finders do, and has it announced when it is executed.

    It takes no lock and imports nothing, so that Keras may be imported in any thread.
    It stays: another thread might just be going through `sys.meta_path`.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "keras" or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = None if find is None else find(fullname, path, target)
            if spec is not None:
                _announce_after(spec.loader)
                return spec
        return None


def _announce_after(loader: Any) -> None:
    """Have a loader announce Keras once it has executed it, and be as it was."""
    execute = getattr(loader, "exec_module", None)
    if execute is None or isinstance(loader, type):  # shared by many modules
        return

    def exec_module(module: ModuleType) -> None:
        vars(loader).pop("exec_module", None)
        execute(module)
        if module.__name__ == "keras":
            _announce(module)

    with contextlib.suppress(AttributeError, TypeError):  # one that is made of C
        loader.exec_module = exec_module
