"""Dynamic neural networks in Keras 3 that really skip work on a device.

Public names resolve on first use (PEP 562), so that `keras_dyngate.runtime`, which a
device needs, imports neither Keras nor TensorFlow:

    import keras
    import keras_dyngate as kd

    model = kd.gated_resnet34(gate_groups=4)

Using any name but the runtime's registers the library's classes with Keras, and so does
importing this package after Keras: `keras.models.load_model` then needs no
`custom_objects`.
"""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

_DEPTHS = (18, 20, 32, 34, 44, 50, 56, 101, 110, 152)

_MODULES = {
    "callbacks": (
        "DecisionStatistics",
        "MacBudget",
        "RegularizationSchedule",
        "TrainingCheckpoint",
    ),
    "calibration": (
        "ExitOutcome",
        "PackingReport",
        "channel_importance",
        "pack_channels",
        "prime_gates",
    ),
    "controllers": (
        "BinaryGate",
        "Controller",
        "ControllerOutput",
        "SalienceController",
        "force_open_rate",
    ),
    "cost": ("MacProfile", "MacRow", "count_macs", "summary"),
    "decisions": ("decide",),
    "export": ("ExportReport", "export_tflite"),
    "layers": (
        "BatchNormalization",
        "ChannelPadding",
        "DecisionGate",
        "GatedBasicBlock",
        "GatedBottleneckBlock",
        "NestedConv2D",
        "NestedDense",
        "SlicedBatchNormalization",
        "SlicedConv2D",
        "SlicedDense",
    ),
    "losses": (
        "AnytimeAccuracy",
        "AnytimeLoss",
        "OneVsAllHinge",
        "SegmentationCrossentropy",
    ),
    "models": (
        "AnytimeModel",
        "CutPoint",
        "EarlyExitModel",
        "add_auxiliary_head",
        "add_decision_gates",
        "cut_points",
        "densenet121",
        "densenet169",
        "densenet201",
        "inclusive_resnext",
        "inclusive_resnext50",
        "gated_pspnet50",
        "gated_pspnet101",
        "load_trunk_weights",
        "pspnet50",
        "pspnet101",
        "sliced_resnet",
        "sliced_resnext",
        "sliced_resnext50",
        *(f"resnet{depth}" for depth in _DEPTHS),
        *(f"gated_resnet{depth}" for depth in _DEPTHS),
        *(f"lc_resnet{depth}" for depth in _DEPTHS),
    ),
    "regularizers": (
        "BatchShaping",
        "GateAgreement",
        "GateRegularizer",
        "GateSparsity",
        "LinearSchedule",
    ),
    "runtime": ("AnytimeRunner", "LiteRTModel"),
    "taxonomy": ("HierarchicalTaxonomy",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = (*_MODULES, "datasets", "pictures", "visualization")

__all__ = sorted(_HOME)


def _register() -> None:
    """Import what Keras must know to load this library's layers from a file."""
    modules = ("regularizers", "controllers", "layers", "losses", "models", "taxonomy")
    for module in modules:
        importlib.import_module(f"{__name__}.{module}")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name] != "runtime":
        _register()
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


if "keras" in sys.modules:
    _register()
