"""Losses of the parts that decide."""

from keras_dyngate.losses.one_vs_all_hinge import OneVsAllHinge, ScoreCrossEntropy

__all__ = ["OneVsAllHinge", "ScoreCrossEntropy"]
