"""Callbacks: drive the coefficients of controllers, watch what controllers decide."""

from keras_dyngate.callbacks.decision_statistics import (
    DecisionStatistics,
    decision_statistics,
)
from keras_dyngate.callbacks.regularization_schedule import RegularizationSchedule

__all__ = ["DecisionStatistics", "RegularizationSchedule", "decision_statistics"]
