"""Weights of Keras layers as constants of the function that is being traced."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def value(variable: Any) -> np.ndarray:
    """A variable's value, also while a function is being traced."""
    with tf.init_scope():
        return np.asarray(variable.numpy(), "float32")


def as_constants(layer: keras.Layer) -> keras.StatelessScope:
    """A scope, to be opened inside a branch, in which a layer's weights are constants."""
    return keras.StatelessScope(
        state_mapping=[(v, tf.constant(value(v))) for v in layer.weights]
    )
