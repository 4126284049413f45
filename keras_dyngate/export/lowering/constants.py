"""Weights of Keras layers as constants of the function that is being traced."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate._walk import dynamic_layers


def value(variable: Any) -> np.ndarray:
    """A variable's value, also while a function is being traced."""
    with tf.init_scope():
        return np.asarray(variable.numpy(), "float32")


def as_constants(layer: keras.Layer) -> keras.StatelessScope:
    """A scope, to be opened inside a branch, in which a layer's weights are constants."""
    return keras.StatelessScope(
        state_mapping=[(v, tf.constant(value(v))) for v in layer.weights]
    )


def weights_as_constants(
    layers: Iterable[keras.Layer],
    shifts: Mapping[int, np.ndarray] | None = None,
) -> keras.StatelessScope:
    """A scope in which weights are constants, but for those of blocks to be lowered.

    Args:
        layers: Whose weights.
        shifts: See `Prepared`.
    """
    layers, shifts = list(layers), shifts or {}
    inside = {
        id(v)
        for layer in layers
        for block in dynamic_layers(layer)
        for v in block.variables
    }
    return keras.StatelessScope(
        state_mapping=[
            (v, tf.constant(value(v) + shifts.get(id(v), np.float32(0))))
            for layer in layers
            for v in layer.weights
            if id(v) not in inside
        ]
    )


def stored_parameters(layers: Iterable[keras.Layer]) -> int:
    """Weights and biases that layers leave in a file, normalization folded."""
    return sum(
        math.prod(weight.shape)
        for layer in layers
        for weight in layer.weights
        if len(weight.shape) > 1 or weight.name in ("bias", "beta")
    )
