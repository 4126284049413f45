"""Warnings that point at the user's line, however deep in this package they arise."""

import sys
import warnings
from types import FrameType

PACKAGE = __name__.partition(".")[0]


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, as of the nearest call from outside this package."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE
