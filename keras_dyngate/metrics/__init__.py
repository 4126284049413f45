"""Metrics of dynamic nets."""

from keras_dyngate.metrics.anytime_accuracy import AnytimeAccuracy

__all__ = ["AnytimeAccuracy"]
