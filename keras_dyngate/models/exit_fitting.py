"""How an `EarlyExitModel` learns: its gates from cached features, its thresholds.

Everything here reads the trunk and never writes it.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._backend import copy_variable
from keras_dyngate._checks import fraction
from keras_dyngate.calibration.exit_search import Goal, search
from keras_dyngate.calibration.exit_table import (
    ExitOutcome,
    ExitTable,
    budgeted_sweep,
    outcome,
    thresholds_for_shares,
)
from keras_dyngate.cost import count_macs
from keras_dyngate.decisions import DecisionModel
from keras_dyngate.layers import DecisionGate
from keras_dyngate.models.exit_stages import labelled_batches

STEPS = 20  # per epoch at least, if need be in smaller batches


@dataclasses.dataclass(frozen=True)
class GateFit:
    """How the fit of one gate went, on the data it was fitted on.

    Attributes:
        loss: Of the gate's objective.
        accuracy: Share of samples whose largest score is the true class's.
        features: How many numbers the gate reads.
        seconds: Of the fit, without the pass through the trunk.
    """

    loss: float
    accuracy: float
    features: int
    seconds: float


class _Pooled(keras.Model):
    """All gates' pooled features of a batch, by gate."""

    def __init__(self, exits: Any) -> None:
        super().__init__(name="pooled_features", autocast=False)
        self.exits = exits

    def call(self, x: Any) -> dict[str, Any]:
        pooled = {}
        for stage in self.exits.stages[:-1]:
            x = stage.part(x, training=False)
            pooled[stage.gate.name] = stage.gate.pool(x)
        return pooled


def class_indices(labels: Any, classes: int) -> np.ndarray:
    """Labels as int `[N]`, from indices or one-hot."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == classes and classes > 1:
        return labels.argmax(-1)
    labels = labels.reshape(-1)
    if labels.size and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"`y` must hold class indices from 0 to {classes - 1}, or be one-hot. "
            f"Received: values from {labels.min()} to {labels.max()}"
        )
    return labels.astype("int64")


def _joined(parts: list[Any]) -> Any:
    if not parts:
        raise ValueError("`x` must hold at least one sample. Received: none")
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def pooled_features(
    model: Any, x: Any, y: Any, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each gate's features `[N, features]`, and class indices `[N]`, in one pass."""
    extractor = _Pooled(model)
    features, labels = [], []
    for images, truth in labelled_batches(x, y, batch_size):
        if truth is None:
            raise ValueError("`y` must be given with images. Received: y=None")
        features.append(extractor.predict_on_batch(images))
        labels.append(class_indices(truth, model.output_shape[-1]))
    return _joined(features), _joined(labels)


def fit_gate(
    gate: DecisionGate,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
) -> GateFit:
    """Fit one gate's linear layer to pooled features `[N, features]`: convex."""
    start = time.perf_counter()
    batch_size = min(batch_size, max(1, len(features) // STEPS))
    mean = features.mean(0, dtype="float64")
    variance = features.var(0, dtype="float64")
    # A feature that hardly varies says little, and would get a kernel so large that
    # nothing is left of the others' in 8 bits.
    scale = np.sqrt(variance + max(1e-3 * variance.mean(), 1e-12))
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
    linear.fit(inputs, labels, epochs=epochs, batch_size=batch_size, verbose=0)

    scores = linear.predict(inputs, batch_size=4096, verbose=0)
    kernel, bias = (ops.convert_to_numpy(v).astype("float64") for v in dense.weights)
    kernel = kernel / scale[:, None]
    copy_variable(gate.dense.kernel, kernel.astype("float32"))
    copy_variable(gate.dense.bias, (bias - mean @ kernel).astype("float32"))
    return GateFit(
        loss=float(gate.loss()(labels, scores)),
        accuracy=float((scores.argmax(-1) == labels).mean()),
        features=features.shape[1],
        seconds=time.perf_counter() - start,
    )


def exit_table(model: Any, x: Any, y: Any, batch_size: int | None) -> ExitTable:
    """A pass over the data with nobody leaving; the thresholds are put back after it."""
    decider, before = DecisionModel(model), model.thresholds
    parts, labels = [], []
    try:
        model.thresholds = np.full(before.shape, np.inf)
        for images, truth in labelled_batches(x, y, batch_size or 32):
            found = decider.predict_on_batch(images)
            parts.append(found)
            if truth is not None:
                labels.append(class_indices(truth, model.output_shape[-1]))
    finally:
        model.thresholds = before
    found = _joined(parts)
    outputs, decisions = found["outputs"], found["decisions"]
    gates = [outputs[gate.name] for gate in model.gates]
    confidence = [
        ops.convert_to_numpy(gate.confidence_of(ops.convert_to_tensor(scores)))
        for gate, scores in zip(model.gates, gates, strict=True)
    ]
    profile, count = count_macs(model), len(outputs["head"])
    macs = []
    for index in range(len(gates) + 1):
        decisions["exit"] = np.full((count, 1), index)
        macs.append(profile.of(decisions))
    return ExitTable(
        confidence=np.stack(confidence, axis=1),
        labels=np.stack([s.argmax(-1) for s in (*gates, outputs["head"])], axis=1),
        macs=np.stack(macs, axis=1),
        truth=_joined(labels) if labels else None,
    )


def _checked_path_ms(path_ms: Any, exits: int) -> list[float]:
    found = np.asarray([] if path_ms is None else path_ms, "float64")
    if found.shape != (exits,) or not (found > 0).all():
        raise ValueError(
            f"`path_ms` must be {exits} measured times, one per exit, the head last. "
            f"Received: path_ms={path_ms!r}"
        )
    return found.tolist()


@dataclasses.dataclass(frozen=True)
class Wish:
    """What thresholds are to keep to: one thing; see `EarlyExitModel.calibrate`.

    Checked when made, before any pass over data, for a net of so many `gates`.
    """

    gates: int
    macs: float | None = None
    accuracy_drop: float | None = None
    exit_shares: Sequence[float] | None = None
    latency: float | None = None
    path_ms: Sequence[float] | None = None

    @property
    def name(self) -> str:
        """Of the argument that was given."""
        names = ("macs", "accuracy_drop", "exit_shares", "latency")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"Give one of {names}. Received: {given or 'none'}")
        return given[0]

    def __post_init__(self) -> None:
        _ = self.name  # raises unless one thing is wished
        if self.path_ms is not None or self.latency is not None:
            _checked_path_ms(self.path_ms, self.gates + 1)
        if self.accuracy_drop is not None:
            fraction("accuracy_drop", self.accuracy_drop)
        if self.exit_shares is not None:
            shares = np.asarray(self.exit_shares, "float64")
            fits = shares.shape == (self.gates,) and (shares >= 0).all()
            if not fits or shares.sum() > 1 + 1e-9:
                raise ValueError(
                    f"`exit_shares` must be {self.gates} shares, one per gate, of sum 1 "
                    f"at most. Received: exit_shares={self.exit_shares!r}"
                )

    def choose(self, table: ExitTable) -> ExitOutcome:
        """Thresholds that keep to the wish on a table, or a `ValueError`."""
        if self.exit_shares is not None:
            chosen = thresholds_for_shares(table.confidence, self.exit_shares)
            return outcome(table, chosen, self.path_ms)
        if self.macs is not None:
            goal = Goal(table.macs, budget=float(self.macs))
        elif self.accuracy_drop is not None:
            lowest = float(table.correct[:, -1].mean() - self.accuracy_drop)
            goal = Goal(table.macs, accuracy=lowest)
        else:
            assert self.latency is not None and self.path_ms is not None
            times = np.tile(np.asarray(self.path_ms), (len(table.labels), 1))
            goal = Goal(times, budget=float(self.latency))
        chosen, kept = search(table, goal)
        found = outcome(table, chosen, self.path_ms)
        if not kept:
            name = self.name
            raise ValueError(
                f"`{name}` cannot be kept to on this data. "
                f"Received: {name}={getattr(self, name)!r}; the closest found: {found}"
            )
        return found


def sweep(
    calibration: ExitTable,
    test: ExitTable,
    *,
    points: int,
    path_ms: Sequence[float] | None,
) -> list[ExitOutcome]:
    """The budgeted sweep's thresholds from one table, applied to another."""
    times = None
    if path_ms is not None:
        times = _checked_path_ms(path_ms, test.labels.shape[1])
    thresholds = budgeted_sweep(calibration.confidence, points)
    return [outcome(test, item, times) for item in thresholds]
