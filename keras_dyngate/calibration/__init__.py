"""Fitting a trained net to its use, on data and without training.

Public names resolve on first use (PEP 562): choosing thresholds needs NumPy alone, and
`keras_dyngate.runtime` does so without Keras.
"""

import importlib
from typing import Any

_HOME = {
    "ExitOutcome": "exit_table",
    "ExitTable": "exit_table",
    "PackingReport": "packing_report",
    "Promise": "promise",
    "channel_importance": "importance",
    "pack_channels": "packing",
    "prime_gates": "priming",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
