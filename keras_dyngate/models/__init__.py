"""Residual, dense, mobile, segmentation and anytime nets; early exits on classifiers."""

from keras_dyngate._public import offered

__getattr__ = offered(__name__)
