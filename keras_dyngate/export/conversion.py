"""TensorFlow functions to the bytes of a .tflite file, by quantization recipe."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer

QUANTIZATIONS = (None, "float16", "dynamic", "int8")

Feed = Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]


def traced(function: Callable[..., Any], **spec: tf.TensorSpec) -> Any:
    """The concrete function of one of Python.

    It holds that one, and so the layers that it closes over: TensorFlow itself forgets
    weights that were read in tracing, and refuses to save once they are gone.
    """
    found = tf.function(function, autograph=False).get_concrete_function(**spec)
    found.made_of = function
    return found


def convert(
    functions: dict[str, Any],
    quantization: str | None,
    feed: Feed | None = None,
) -> schema.ModelT:
    """Convert functions to one file with a signature each, to be gone over by passes.

    Args:
        functions: Concrete functions by signature name.
        quantization: None, "float16", "dynamic" (int8 weights) or "int8" (all).
        feed: For "int8": yields (signature, inputs) for calibration; must reach every
            branch of every signature. None: the functions hold the ranges.

    Returns:
        The file, read. Weights used by several signatures are stored once.
    """
    module = tf.Module()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(functions)
        )
        if quantization is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        elif quantization == "int8" and feed is not None:
            converter.representative_dataset = feed
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
            warnings.filterwarnings(
                "ignore", "Statistics for quantized inputs were exp"
            )
            return flatbuffer.read(bytes(converter.convert()))


def quiet() -> None:
    """Keep the converter's informational chatter out of the user's terminal."""
    tf.get_logger().setLevel(logging.ERROR)
