"""From a Keras model to the TensorFlow functions behind a file's signatures."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.cost import MacProfile, count_macs
from keras_dyngate.export.lowering import Lowering, value

KILO = 1000  # executed_macs counts thousands of MACs, to fit an int32


@contextlib.contextmanager
def plain_logits(model: keras.Model) -> Iterator[None]:
    """Take a softmax off the model's last layer: a file's `logits` are logits."""
    head = model.layers[-1]
    softmax = keras.activations.softmax
    if getattr(head, "activation", None) is not softmax:
        yield
        return
    head.activation = keras.activations.linear
    try:
        yield
    finally:
        head.activation = softmax


@contextlib.contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Compute in float32 inside, whatever dtype policy the model was trained with."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if layer.dtype_policy.compute_dtype != "float32"
    ]
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer.dtype_policy = policy


@dataclasses.dataclass
class Traced:
    """A traced model: the function behind `explain`, and what lowering found."""

    function: Any
    lowering: Lowering
    profile: MacProfile
    classify_outputs: tuple[str, ...] = ("logits", "label", "executed_macs")


def _executed_macs(lowering: Lowering, profile: MacProfile) -> Any:
    """int32 `[1]`: thousands of MACs that this file ran, controllers included."""
    fixed = sum(row.macs for row in profile.layers if not row.gated)
    if not lowering.executed:
        return tf.constant([round(fixed / KILO)], tf.int32)
    vectors, numbers = [], []
    for dtype in (tf.bool, tf.int32):  # bools are joined first: one cast for all
        found = [item for item in lowering.executed if item[0].dtype == dtype]
        if found:
            vectors.append(tf.cast(tf.concat([f for f, _ in found], 0), tf.int32))
            numbers += [np.full(int(f.shape[0]), cost) for f, cost in found]
    flags, costs = tf.concat(vectors, 0), np.concatenate(numbers)
    thousands = tf.reduce_sum(flags * (costs // KILO).astype("int32"), keepdims=True)
    rest = tf.reduce_sum(flags * (costs % KILO).astype("int32"), keepdims=True)
    rest = (rest + (fixed % KILO + KILO // 2)) // KILO
    return thousands + rest + fixed // KILO


def trace(
    model: keras.Model,
    *,
    group_size: int | None,
    input_type: str,
    with_force: bool,
) -> Traced:
    """Trace `explain(image)` of a model at batch 1, its blocks in conditional form.

    Args:
        model: Built on one image input of known size.
        group_size: Channels per branch, or None for the default per block.
        input_type: "float32" or "uint8".
        with_force: Add the int32 input `force`, `[blocks]`: 1 opens a block wholly.

    Returns:
        A `Traced`; its function maps (image[, force]) to a dict of outputs.
    """
    profile = count_macs(model)
    blocks = list(dynamic_layers(model))
    inside = {id(v) for block in blocks for v in block.variables}
    spec = {"image": tf.TensorSpec([1, *model.input_shape[1:]], input_type, "image")}
    if with_force:
        spec["force"] = tf.TensorSpec([max(1, len(blocks))], tf.int32, "force")
    found: list[Lowering] = []

    def explain(image: Any, force: Any = None) -> dict[str, Any]:
        lowering = Lowering(group_size, force)
        scope = keras.StatelessScope(
            state_mapping=[
                (v, tf.constant(value(v))) for v in model.weights if id(v) not in inside
            ]
        )
        with scope, _hooks.lowering(lowering):
            logits = model(tf.cast(image, tf.float32), training=False)
        found.append(lowering)
        decisions = {
            name: tf.cast(score, tf.uint8) if score.dtype == tf.bool else score
            for name, score in lowering.decisions.items()
        }
        return {
            "logits": logits,
            "label": tf.argmax(logits, axis=-1, output_type=tf.int32),
            "executed_macs": _executed_macs(lowering, profile),
            **decisions,
        }

    with plain_logits(model), in_float32(model):
        function = tf.function(explain, autograph=False).get_concrete_function(**spec)
    return Traced(function, found[-1], profile)
