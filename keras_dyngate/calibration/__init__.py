"""Fitting a trained net to its use, on data and without training."""

from keras_dyngate.calibration.exit_table import ExitOutcome, ExitTable
from keras_dyngate.calibration.importance import channel_importance
from keras_dyngate.calibration.packing import pack_channels
from keras_dyngate.calibration.packing_report import PackingReport
from keras_dyngate.calibration.priming import prime_gates

__all__ = [
    "ExitOutcome",
    "ExitTable",
    "PackingReport",
    "channel_importance",
    "pack_channels",
    "prime_gates",
]
