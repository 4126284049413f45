"""Residual, dense, segmentation and anytime nets, and early exits on classifiers."""

from keras_dyngate._public import offered

__getattr__ = offered(__name__)
