"""Residual nets, gated and plain, from the same builders."""

from keras_dyngate.models import resnet as _resnet
from keras_dyngate.models.resnet import *  # noqa: F403
from keras_dyngate.models.weights import load_trunk_weights

__all__ = [*_resnet.__all__, "load_trunk_weights"]
