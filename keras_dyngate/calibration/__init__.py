"""Fitting a trained dynamic net to its use, on data and without training."""

from keras_dyngate.calibration.exit_table import ExitOutcome, ExitTable
from keras_dyngate.calibration.packing import pack_channels
from keras_dyngate.calibration.packing_report import PackingReport

__all__ = ["ExitOutcome", "ExitTable", "PackingReport", "pack_channels"]
