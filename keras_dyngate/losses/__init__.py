"""Losses of decision gates, of anytime nets (with their metric), and of segmentation."""

from keras_dyngate.losses.anytime_accuracy import AnytimeAccuracy
from keras_dyngate.losses.anytime_loss import AnytimeLoss
from keras_dyngate.losses.one_vs_all_hinge import OneVsAllHinge, ScoreCrossEntropy
from keras_dyngate.losses.segmentation_crossentropy import SegmentationCrossentropy

__all__ = [
    "AnytimeAccuracy",
    "AnytimeLoss",
    "OneVsAllHinge",
    "ScoreCrossEntropy",
    "SegmentationCrossentropy",
]
