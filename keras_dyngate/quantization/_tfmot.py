"""tensorflow-model-optimization's quantizers for layers of Keras 3.

They are TensorFlow code that asks a layer for two weights. tfmot itself works with
tf_keras alone and, when imported, tells all of TensorFlow to use that: what it changes
in the environment is changed back, and `tf.keras` is looked up before.
"""

import functools
import os
import warnings
from typing import Any

import keras


@functools.cache
def quantizers() -> Any:
    """`tfmot.quantization.keras.quantizers`.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ImportError: Without tfmot.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Quantization-aware training needs the TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    _ = tf.keras.layers  # looked up once, by the environment: now as that of Keras 3
    before = dict(os.environ)
    try:
        with warnings.catch_warnings():  # of its own imports
            warnings.simplefilter("ignore")
            from tensorflow_model_optimization.quantization.keras import (
                quantizers as found,
            )
    except ImportError as error:
        raise ImportError(
            "Quantization-aware training needs tensorflow-model-optimization and "
            'tf_keras. Install them with `pip install "keras_dyngate[quantization]"`.'
        ) from error
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
    return found


@functools.cache
def of_activations() -> Any:
    """256 steps between moving averages of the least and greatest number."""
    return quantizers().MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


@functools.cache
def of_weights() -> Any:
    """255 steps, symmetric around 0, apart for each channel, the last axis."""
    return quantizers().LastValueQuantizer(
        num_bits=8, per_axis=True, symmetric=True, narrow_range=True
    )


class Owner:
    """What a quantizer's `build` takes for a layer: it asks for weights by `add_weight`.

    Args:
        layer: Of Keras 3.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.layer = layer

    def add_weight(
        self, name: str, shape: Any = None, initializer: Any = None, **options: Any
    ) -> Any:
        """A weight of the layer; tf_keras' initializer is one of a constant."""
        value = getattr(initializer, "value", 0.0)
        return self.layer.add_weight(
            name=name,
            shape=() if shape is None else shape,
            initializer=keras.initializers.Constant(value),
            dtype="float32",
            trainable=options.get("trainable", False),
        )
