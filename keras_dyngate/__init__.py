"""Dynamic neural networks in Keras 3 that really skip work on a device.

Public names resolve on first use (PEP 562), so that `keras_dyngate.runtime`, which a
device needs, imports neither Keras nor TensorFlow:

    import keras
    import keras_dyngate as kd

    model = kd.gated_resnet34(gate_groups=4)

Importing this package, before Keras or after it, is enough for
`keras.models.load_model` to find its classes: no `custom_objects` are needed.
"""

import importlib
from typing import Any

from keras_dyngate._stand_ins import install as _install_stand_ins

__version__ = "0.1.0"

_DEPTHS = (18, 20, 32, 34, 44, 50, 56, 101, 110, 152)

_MODULES = {
    "callbacks": (
        "DecisionStatistics",
        "MacBudget",
        "RegularizationSchedule",
        "StatefulCallback",
        "StepAwareCallback",
        "TrainingCheckpoint",
    ),
    "channels": (
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
    "export": (
        "AnytimeOptions",
        "ExitsResult",
        "ExportReport",
        "GateOptions",
        "add_exits",
        "export_tflite",
    ),
    "layers": (
        "BatchNormalization",
        "ChannelPadding",
        "Decision",
        "DecisionGate",
        "DynamicLayer",
        "ExitHead",
        "GatedBasicBlock",
        "GatedBottleneckBlock",
        "GatedChain",
        "GatedResidual",
        "GatedSequence",
        "NestedConv2D",
        "NestedDense",
        "SlicedBatchNormalization",
        "SlicedConv2D",
        "SlicedDense",
        "SqueezeExcite",
    ),
    "losses": (
        "AnytimeLoss",
        "OneVsAllHinge",
        "SegmentationCrossentropy",
    ),
    "metrics": ("AnytimeAccuracy",),
    "models": (
        "AnytimeModel",
        "CutPoint",
        "EarlyExitModel",
        "GateablePlace",
        "Gates",
        "Placement",
        "add_auxiliary_head",
        "add_channel_gates",
        "add_decision_gates",
        "add_layer_gates",
        "cut_at_exit",
        "cut_points",
        "densenet121",
        "densenet169",
        "densenet201",
        "gateable",
        "inclusive_resnext",
        "inclusive_resnext50",
        "gated_pspnet50",
        "gated_pspnet101",
        "load_trunk_weights",
        "place_exits",
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
    "runtime": ("AnytimeRunner", "LiteRTModel", "calibrate_tflite"),
    "thresholds": ("ExitOutcome", "Promise"),
    "taxonomy": ("HierarchicalTaxonomy",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = (
    *_MODULES,
    "calibration",  # moved, see there
    "datasets",
    "flatfile",
    "pictures",
    "visualization",
)

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


# Whatever a file may name: the classes of these rooms, and one that is not public.
_SAVED = (
    "regularizers",
    "controllers",
    "layers",
    "losses",
    "metrics",
    "models",
    "taxonomy",
)
_install_stand_ins(
    {name: home for name, home in _HOME.items() if home in _SAVED and name[0].isupper()}
    | {"ScoreCrossEntropy": "losses"}
)
