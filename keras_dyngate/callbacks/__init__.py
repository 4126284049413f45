"""Callbacks: drive the coefficients of controllers, watch what controllers decide."""

from keras_dyngate.callbacks.cost_budget import CostBudget, MacBudget
from keras_dyngate.callbacks.decision_statistics import (
    DecisionStatistics,
    decision_statistics,
)
from keras_dyngate.callbacks.regularization_schedule import RegularizationSchedule
from keras_dyngate.callbacks.resume import StatefulCallback, StepAwareCallback
from keras_dyngate.callbacks.time_left import TimeLeft
from keras_dyngate.callbacks.training_checkpoint import TrainingCheckpoint

__all__ = [
    "DecisionStatistics",
    "CostBudget",
    "MacBudget",
    "RegularizationSchedule",
    "StatefulCallback",
    "StepAwareCallback",
    "TimeLeft",
    "TrainingCheckpoint",
    "decision_statistics",
]
