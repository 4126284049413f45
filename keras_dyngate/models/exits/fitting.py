"""How an `EarlyExitModel` learns: its gates from cached features, its exit table.

Everything here reads the trunk and never writes it.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._backend import copy_variable
from keras_dyngate._checks import positive_int
from keras_dyngate._image_range import RangeWatch
from keras_dyngate._images import finite_images
from keras_dyngate._labels import label_of
from keras_dyngate.cost import count_macs
from keras_dyngate.decisions import DecisionModel
from keras_dyngate.layers import DecisionGate
from keras_dyngate.models.exits.data import (
    Batch,
    batches,
    class_indices,
    fitting,
    takes_bytes,
)
from keras_dyngate.models.exits.training import HEAD
from keras_dyngate.thresholds.table import ExitTable

STEPS = 20  # per epoch at least, if need be in smaller batches


@dataclasses.dataclass(frozen=True)
class GateFit:
    """How the fit of one gate went, on the data it was fitted on.

    Attributes:
        loss: Of the gate's objective; None for heads, which learn together.
        accuracy: Share of samples whose largest score is the true class's, of heads in
            the last epoch, on the pictures as they were varied; NaN where no labels were
            given. Weighted where the data are.
        features: How many numbers a linear gate reads; None for heads.
        seconds: Of the fit; of linear gates without the pass through the trunk, of heads
            of all that learned together.
        validation_accuracy: On `validation_data`, of heads.
    """

    loss: float | None
    accuracy: float
    features: int | None
    seconds: float
    validation_accuracy: float | None = None


class _Pooled(keras.Model):
    """All linear gates' pooled features of a batch, by gate, and the net's raw scores."""

    def __init__(self, exits: Any, head: bool) -> None:
        super().__init__(name="pooled_features", autocast=False)
        self.exits, self.head = exits, head

    def call(self, x: Any) -> dict[str, Any]:
        found = {}
        for stage in self.exits.raw_stages:
            if stage.gate is None and not self.head:
                break
            x = stage.part(x, training=False)
            if isinstance(stage.gate, DecisionGate):
                found[stage.gate.name] = stage.gate.pool(x)
            elif stage.gate is None:
                found[HEAD] = x
        return found


def _joined(parts: list[Any]) -> Any:
    if not parts:
        raise ValueError("`x` must hold at least one sample. Received: none")
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def pooled_features(
    model: Any, x: Any, y: Any, sample_weight: Any, batch_size: int, taught: bool
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Each linear gate's features `[N, features]`, labels and weights `[N]`, one pass.

    Where there are no labels, the trunk's own are taken if the gates are `taught`.

    Raises:
        ValueError: For data without labels else, or with weights here and not there.
    """
    extractors = {given: _Pooled(model, head=not given) for given in (True, False)}
    features, labels, weights = [], [], []
    for batch in checked_batches(model, x, y, sample_weight, batch_size):
        if batch.y is None and not taught:
            raise ValueError("`y` must be given with images. Received: y=None")
        found = extractors[batch.y is not None].predict_on_batch(batch.x)
        said = found.pop(HEAD, None)
        labels.append(label_of(said) if batch.y is None else batch.y)
        features.append(found)
        if batch.weight is not None:
            weights.append(checked_weights(batch.weight))
    if weights and len(weights) < len(labels):
        raise ValueError(
            "`x` must have weights in every batch or in none. Received: "
            f"{len(weights)} of {len(labels)} batches with weights"
        )
    return _joined(features), _joined(labels), _joined(weights) if weights else None


def checked_batches(
    model: Any, x: Any, y: Any, sample_weight: Any, batch_size: int
) -> Iterator[Batch]:
    """Batches of the model's own shape, labels as class indices.

    Warns at the end if they all seem to be scaled for a net that scales them itself.
    """
    shape, classes = model.input_shape, model.output_shape[-1]
    watch = RangeWatch()
    for batch in batches(x, y, sample_weight, batch_size=batch_size):
        images = fitting(batch.x, shape)
        labels = None if batch.y is None else class_indices(batch.y, classes)
        finite_images("x", images)
        watch.look(images)
        yield Batch(images, labels, batch.weight)
    if takes_bytes(model.stages[0].part.stretch.calls):
        watch.warn("x")


def checked_weights(weights: Any) -> np.ndarray:
    """Weights of samples as float64 `[N]`, or a `ValueError`."""
    found = np.asarray(weights, "float64").reshape(len(weights), -1)
    if found.shape[1] != 1 or not (found >= 0).all():
        raise ValueError(
            "`sample_weight` must be one number of 0 or more per sample. Received: "
            f"weights of shape {np.shape(weights)} from {found.min()} to {found.max()}"
        )
    return found[:, 0]


def spreads(deviation: np.ndarray) -> np.ndarray:
    """What standardized features are divided by, from their standard deviations.

    A feature that hardly varies says little; divided by its deviation it would get a
    kernel so large that nothing is left of the others' in 8 bits. So none is divided by
    less than a tenth of what the widest features have, outliers left out (the 90th
    percentile of those that vary at all).
    """
    varying = deviation[deviation > 0]
    floor = 0.1 * np.quantile(varying, 0.9) if len(varying) else 1.0
    return np.hypot(deviation, floor)


def fit_gate(
    gate: DecisionGate,
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
) -> GateFit:
    """Fit one gate's linear layer to pooled features `[N, features]`: convex."""
    start = time.perf_counter()
    if weights is not None:
        if not weights.any():
            raise ValueError(
                "`sample_weight` must have a weight above 0. Received: all are 0"
            )
        counts = weights > 0
        features, labels, weights = features[counts], labels[counts], weights[counts]
        weights = weights / weights.mean()
    batch_size = min(batch_size, max(1, len(features) // STEPS))
    mean = np.average(features.astype("float64"), 0, weights)
    scale = spreads(np.sqrt(np.average((features - mean) ** 2, 0, weights)))
    inputs = ((features - mean) / scale).astype("float32")
    image = keras.Input((features.shape[1],), dtype="float32")
    dense = keras.layers.Dense(
        gate.classes,
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(weight_decay),
        dtype="float32",
    )
    linear = keras.Model(image, dense(image))
    steps = epochs * -(-len(inputs) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    linear.compile(keras.optimizers.Adam(rate), gate.loss())
    linear.fit(inputs, labels, batch_size, epochs, verbose=0, sample_weight=weights)

    scores = linear.predict(inputs, batch_size=4096, verbose=0)
    kernel, bias = (ops.convert_to_numpy(v).astype("float64") for v in dense.weights)
    kernel = kernel / scale[:, None]
    copy_variable(gate.dense.kernel, kernel.astype("float32"))
    copy_variable(gate.dense.bias, (bias - mean @ kernel).astype("float32"))
    return GateFit(
        loss=float(gate.loss()(labels, scores, weights)),
        accuracy=float(np.average(label_of(scores) == labels, weights=weights)),
        features=features.shape[1],
        seconds=time.perf_counter() - start,
    )


class _Said(DecisionModel):
    """What every exit says of a batch, nobody leaving, and what was decided."""

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        scores: list[Any] = []
        decisions: dict[str, Any] = {}
        for stage in self.inner.raw_stages:
            found = stage(x, training=False)
            x = found["features"]
            scores.append(ops.cast(found.get("scores", x), "float32"))
            decisions |= found["decisions"]
        return {"scores": scores, "decisions": decisions}


@dataclasses.dataclass(frozen=True)
class ExitScores:
    """What every exit says of some samples, nobody leaving. N samples, n gates.

    Attributes:
        scores: Raw ones, `[N, n + 1, classes]`, the head last.
        macs: MACs spent on a sample that leaves at each exit, `[N, n + 1]`.
        truth: Class indices, int `[N]`, or None.
    """

    scores: np.ndarray
    macs: np.ndarray
    truth: np.ndarray | None

    def take(self, rows: Any) -> "ExitScores":
        """The scores of some of the samples."""
        truth = None if self.truth is None else self.truth[rows]
        return ExitScores(self.scores[rows], self.macs[rows], truth)

    def table(self, model: Any) -> ExitTable:
        """With the model's mixing of scores, and its gates' confidences."""
        exits = self.scores.shape[1]
        said = [model.answer(k, self.scores[:, : k + 1]) for k in range(exits)]
        confidence = [
            ops.convert_to_numpy(gate.confidence_of(ops.convert_to_tensor(scores)))
            for gate, scores in zip(model.gates, said, strict=False)
        ]
        return ExitTable(
            confidence=np.stack(confidence, axis=1),
            labels=np.stack([label_of(scores) for scores in said], axis=1),
            macs=self.macs,
            truth=self.truth,
            plain=label_of(self.scores[:, -1]) if model.mixing[-1, :-1].any() else None,
        )


def exit_scores(model: Any, x: Any, y: Any, batch_size: int | None) -> ExitScores:
    """A pass over the data with nobody leaving."""
    size = 32 if batch_size is None else positive_int("batch_size", batch_size)
    said = _Said(model, name="said")
    parts, labels = [], []
    for batch in checked_batches(model, x, y, None, size):
        parts.append(said.predict_on_batch(batch.x))
        if batch.y is not None:
            labels.append(batch.y)
    found = _joined(parts)
    scores, decisions = found["scores"], found["decisions"]
    profile, macs = count_macs(model), []
    for index in range(len(scores)):
        decisions["exit"] = np.full((len(scores[0]), 1), index)
        macs.append(profile.of(decisions))
    truth = _joined(labels) if labels else None
    return ExitScores(np.stack(scores, axis=1), np.stack(macs, axis=1), truth)
