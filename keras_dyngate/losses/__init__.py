"""Losses of decision gates and of anytime nets, with the metrics that go with them."""

from keras_dyngate.losses.anytime_accuracy import AnytimeAccuracy
from keras_dyngate.losses.anytime_loss import AnytimeLoss
from keras_dyngate.losses.one_vs_all_hinge import OneVsAllHinge, ScoreCrossEntropy

__all__ = ["AnytimeAccuracy", "AnytimeLoss", "OneVsAllHinge", "ScoreCrossEntropy"]
