"""Thresholds of exits: what they give on data, and what they promise. NumPy alone."""

from keras_dyngate.thresholds.promise import Promise
from keras_dyngate.thresholds.table import ExitOutcome, ExitTable

__all__ = ["ExitOutcome", "ExitTable", "Promise"]
