"""How a net becomes a file, by its kind; importing this room registers all kinds."""

from keras_dyngate.export.plan.anytime import AnytimePlan
from keras_dyngate.export.plan.base import Plan, plan
from keras_dyngate.export.plan.classifier import ClassifierPlan
from keras_dyngate.export.plan.exits import ExitsPlan
from keras_dyngate.export.plan.traced import Traced, View

__all__ = [
    "AnytimePlan",
    "ClassifierPlan",
    "ExitsPlan",
    "Plan",
    "Traced",
    "View",
    "plan",
]
