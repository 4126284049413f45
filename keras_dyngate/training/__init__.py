"""What a training of a dynamic net needs besides `fit`: gates apart, a teacher, a run."""

from keras_dyngate.training.distillation import Distillation
from keras_dyngate.training.gate_training import train_gates
from keras_dyngate.training.gate_variables import (
    freeze_trunk,
    gate_variables,
    without_gate_decay,
)
from keras_dyngate.training.optimizer import sgd
from keras_dyngate.training.run import TrainingRun

__all__ = [
    "Distillation",
    "TrainingRun",
    "freeze_trunk",
    "gate_variables",
    "sgd",
    "train_gates",
    "without_gate_decay",
]
