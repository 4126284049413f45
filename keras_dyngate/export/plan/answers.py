"""What the signatures of a file put out: labels, executed MACs, decisions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate.cost import CostRow
from keras_dyngate.cost.executed import costs_of_groups

KILO = 1000  # executed_macs counts thousands of MACs, to fit an int32


def _counts(opened: Sequence[Any], size: int) -> Any:
    """int32 `[n]`: how many of each of n times `size` flags are up."""
    flags = tf.cast(tf.concat(opened, 0), tf.int32)
    return tf.reduce_sum(tf.reshape(flags, [len(opened), size]), axis=1)


def executed_counts(rows: Iterable[CostRow], opened: Mapping[str, Any]) -> Any:
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
