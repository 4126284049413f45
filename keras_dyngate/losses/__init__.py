"""Losses of decision gates, of anytime nets, and of segmentation."""

from keras_dyngate._deprecation import moved
from keras_dyngate.losses.anytime_loss import AnytimeLoss
from keras_dyngate.losses.one_vs_all_hinge import OneVsAllHinge, ScoreCrossEntropy
from keras_dyngate.losses.segmentation_crossentropy import SegmentationCrossentropy

__all__ = [
    "AnytimeLoss",
    "OneVsAllHinge",
    "ScoreCrossEntropy",
    "SegmentationCrossentropy",
]

__getattr__ = moved(__name__, {"AnytimeAccuracy": "keras_dyngate.metrics"})
