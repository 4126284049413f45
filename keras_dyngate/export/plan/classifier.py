"""From a Keras model to the TensorFlow function behind its file's signatures.

Of a classifier, or of a segmentation net, which classifies every pixel.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._graph import FlatGraph
from keras_dyngate.cost import MacProfile, MacRow, count_macs
from keras_dyngate.cost.executed import costs_of_groups
from keras_dyngate.export.calibration import calibration_feed
from keras_dyngate.export.conversion import Feed, traced
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.lowering import Lowering, weights_as_constants
from keras_dyngate.export.mean_correction import keep_means
from keras_dyngate.export.preparing import Prepared

KILO = 1000  # executed_macs counts thousands of MACs, to fit an int32

# The first signature of a classifier and of a segmentation net: name and outputs.
CLASSIFY = ("classify", ("logits", "label", "executed_macs"))
SEGMENT = ("segment", ("labels", "executed_macs"))


@dataclasses.dataclass(frozen=True)
class View:
    """A signature that sees part of another: fewer outputs, some inputs fixed."""

    source: str
    name: str
    outputs: tuple[str, ...] | None = None
    frozen: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a file is made from.

    Attributes:
        functions: Concrete functions by signature.
        forced: The length of the int32 input `force` of those that have it; it is for
            calibration alone and frozen at 0 in the file.
        float_kernels: Kernels that are to stay float in an int8 file.
        gate_kernels: `[features, classes]` of exits, to stay float in 8-bit files; of
            each the forms that it may have.
        views: Signatures to make from those; the first is the file's default.
        feed: From calibration images to what the converter is to run.
        lowering: What the conditional form consists of.
        profile: The model's MACs.
        steps: Signatures that hand on features, in order.
        metadata: More entries for the file.
    """

    functions: dict[str, Any]
    views: tuple[View, ...]
    feed: Callable[[np.ndarray], Feed]
    lowering: Lowering
    profile: MacProfile
    forced: Mapping[str, int] = dataclasses.field(default_factory=dict)
    float_kernels: int = 0
    gate_kernels: tuple[tuple[np.ndarray, ...], ...] = ()
    steps: tuple[str, ...] = ()
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


def call_traced(
    function: Any, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a concrete function makes of arrays, as arrays."""
    found = function(**{name: tf.constant(x) for name, x in inputs.items()})
    return {name: x.numpy() for name, x in found.items()}


def _counts(opened: Sequence[Any], size: int) -> Any:
    """int32 `[n]`: how many of each of n times `size` flags are up."""
    flags = tf.cast(tf.concat(opened, 0), tf.int32)
    return tf.reduce_sum(tf.reshape(flags, [len(opened), size]), axis=1)


def executed_counts(rows: Iterable[MacRow], opened: Mapping[str, Any]) -> Any:
    """int32 `[2]`: thousands of MACs that were run, and what is left below a thousand.

    Args:
        rows: Of the table, those of what was run.
        opened: By the name of a decision, bool `[groups]`: which ran; all False in what
            was skipped.
    """
    groups = {name: int(flags.shape[0]) for name, flags in opened.items()}
    costs_by = costs_of_groups(rows, groups, nested=True)
    fixed = costs_by.pop((), 0)
    total = tf.constant([fixed // KILO, fixed % KILO], tf.int32)
    if not costs_by:
        return total
    single = {names[0]: cost for names, cost in costs_by.items() if len(names) == 1}
    vectors, numbers = [], []
    if single:  # joined first: one cast for all
        joined = tf.concat([opened[name] for name in single], 0)
        vectors.append(tf.cast(joined, tf.int32))
        numbers += [np.full(groups[name], cost) for name, cost in single.items()]
    alike: dict[tuple[int, ...], list[tuple[tuple[str, ...], int]]] = {}
    for names, cost in costs_by.items():
        if len(names) > 1:
            sizes = tuple(groups[name] for name in names)
            alike.setdefault(sizes, []).append((names, cost))
    for sizes, found in alike.items():
        columns = zip(*(names for names, _ in found), strict=True)
        counts = [
            _counts([opened[name] for name in column], size)
            for column, size in zip(columns, sizes, strict=True)
        ]
        vectors.append(math.prod(counts))
        numbers.append(np.array([cost for _, cost in found]))
    flags = vectors[0] if len(vectors) == 1 else tf.concat(vectors, 0)
    costs = np.concatenate(numbers)
    parts = (
        (flags * (costs // KILO).astype("int32")),
        (flags * (costs % KILO).astype("int32")),
    )
    return total + tf.concat([tf.reduce_sum(p, keepdims=True) for p in parts], 0)


def in_thousands(counts: Any) -> Any:
    """int32 `[1]` from `executed_counts`, rounded."""
    return counts[:1] + (counts[1:] + KILO // 2) // KILO


def visible(decisions: Mapping[str, Any]) -> dict[str, Any]:
    """Decisions as a signature may put them out: bools are not allowed there."""
    return {
        name: tf.cast(score, tf.uint8) if score.dtype == tf.bool else score
        for name, score in decisions.items()
    }


def answer(logits: Any) -> dict[str, Any]:
    """What a file says of an image: int32 `label`, or of its pixels: uint8 `labels`."""
    label = label_of(logits)
    if len(logits.shape) == 2:
        return {"logits": logits, "label": label}
    return {"logits": logits, "labels": tf.cast(label, tf.uint8)}


def label_of(scores: Any) -> Any:
    """int32 labels of raw scores `[..., classes]`; of one output, 1 above 0."""
    if scores.shape[-1] == 1:
        return tf.cast(tf.reshape(scores, scores.shape[:-1]) > 0, tf.int32)
    return tf.argmax(scores, axis=-1, output_type=tf.int32)


def plan_classifier(
    model: keras.Model,
    graph: FlatGraph,
    *,
    group_size: int | None,
    input_type: str,
    with_force: bool,
    images: np.ndarray | None = None,
) -> Plan:
    """Trace `explain(image)` of a model at batch 1, its blocks in conditional form.

    Args:
        model: Built on one input of known size; puts out a score per class, or one per
            class and pixel.
        graph: Of its calls.
        group_size: Channels per branch, or None for the default per block.
        input_type: "float32" or "uint8".
        with_force: For a fully quantized file: add the int32 input `force`, `[blocks]`,
            where 1 opens a block wholly.
        images: Of a file with 8-bit kernels: to keep the means of features on.
    """
    profile, int8 = count_macs(model), with_force
    prepared = Prepared(graph.calls, graph)
    if images is not None:
        keep_means(prepared, graph.inputs[0], graph.calls, images, int8)
    whole = graph.whole
    pixels = len(whole.output.shape) == 4
    blocks = len(prepared.dynamic_layers(graph.calls))
    with_force = with_force and blocks > 0
    shape = [1, *graph.inputs[0].shape[1:]]
    spec = {"image": tf.TensorSpec(shape, input_type, "image")}
    if with_force:
        spec["force"] = tf.TensorSpec([blocks], tf.int32, "force")
    found: list[Lowering] = []

    def explain(image: Any, force: Any = None) -> dict[str, Any]:
        lowering = Lowering(group_size, force)
        constant = weights_as_constants(prepared.layers, prepared.shifts)
        with constant, _hooks.lowering(lowering), exact_norms(int8):
            logits = prepared.run(whole, tf.cast(image, tf.float32))
        found.append(lowering)
        return {
            **answer(logits),
            "executed_macs": in_thousands(
                executed_counts(profile.layers, lowering.opened)
            ),
            **visible(lowering.decisions),
        }

    function = traced(explain, **spec)
    return Plan(
        functions={"explain": function},
        views=(View("explain", *(SEGMENT if pixels else CLASSIFY)),),
        feed=lambda images: calibration_feed(images, blocks, input_type),
        lowering=found[-1],
        profile=profile,
        forced={"explain": blocks} if with_force else {},
        metadata={"classes": whole.output.shape[-1]} if pixels else {},
    )
