"""The stages of a net with early exits, each a model that runs on its own.

A stage maps the features of the one before to its own, and to the scores of the gate at
its end. `run_stages` drops the samples that leave and goes on with the others, in full
batches, so that what they would have cost is really saved.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate import _hooks
from keras_dyngate._graph import Part
from keras_dyngate.cost import CostTable
from keras_dyngate.cost.counter import part_profile
from keras_dyngate.layers import ExitGate

PADDING = 8  # a batch that is not full is padded to a multiple of 1/8 of a full one


class Stage(keras.Model):
    """One stage and the gate at its end.

    Output: `{"features": ..., "scores": ..., "decisions": {...}}`; the last stage has
    no gate, and its features are the net's answer.
    """

    def __init__(self, part: Part, gate: ExitGate | None, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.part, self.gate = part, gate
        # Batches differ in size: XLA would compile each anew on TensorFlow.
        if keras.backend.backend() == "tensorflow":
            self.compile(jit_compile=False)

    @property
    def at_input(self) -> bool:
        """Whether nothing of the trunk comes before its gate: a first net."""
        return not self.part.stretch.calls

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        with _hooks.recording() as found:
            features = self.part(x, training=training)
            if self.gate is not None:
                outputs["scores"] = self.gate(features, training=training)
        return {**outputs, "features": features, "decisions": dict(found)}

    def profile(self) -> CostTable:
        """MACs of this stage alone, its gate among the controllers."""
        found = part_profile(self.part.stretch.calls)
        rows = list(found.layers)
        if self.gate is not None:
            rows += self.gate.exit_rows(self.part.output_shape)
        return CostTable(tuple(rows), unknown=found.unknown)


@dataclasses.dataclass
class Left:
    """Samples that left: their places in the input, scores, confidence and MACs."""

    rows: np.ndarray
    scores: np.ndarray
    confidence: np.ndarray
    macs: np.ndarray


def padded_size(count: int, batch_size: int) -> int:
    """How many rows a batch of `count` is padded to: few sizes, to compile few times."""
    step = max(1, batch_size // PADDING)
    return min(-(-count // step) * step, max(batch_size, count))


@dataclasses.dataclass
class _Queue:
    """Samples that wait for a stage, with the raw scores of the exits before it."""

    features: list[np.ndarray] = dataclasses.field(default_factory=list)
    rows: list[np.ndarray] = dataclasses.field(default_factory=list)
    macs: list[np.ndarray] = dataclasses.field(default_factory=list)
    scores: list[np.ndarray] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def put(self, **values: Any) -> None:
        if len(values["rows"]):
            for name, value in values.items():
                getattr(self, name).append(np.asarray(value))

    def take(self, count: int) -> tuple[np.ndarray, ...]:
        parts = []
        for name in ("features", "rows", "macs", "scores"):
            held = getattr(self, name)
            joined = held[0] if len(held) == 1 else np.concatenate(held)
            parts.append(joined[:count])
            setattr(self, name, [joined[count:]] if count < len(joined) else [])
        return tuple(parts)


def run_stages(
    stages: Sequence[Stage],
    profiles: Sequence[CostTable],
    images: Iterable[np.ndarray],
    batch_size: int,
    answer: Callable[[int, np.ndarray], np.ndarray],
    leaves: Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[int, Left]]:
    """Run samples through the stages; those that leave are dropped from the batch.

    Args:
        stages: As a net with early exits has them.
        profiles: Of the stages, counted once.
        images: Batches of images.
        batch_size: Of every stage: samples wait until a batch is full, or none comes.
        answer: From (stage, raw scores of all exits so far `[N, stage + 1, classes]`) to
            the scores that this exit answers with `[N, classes]`.
        leaves: From (stage, those scores) to (which samples leave, their confidence).

    Yields:
        (exit, `Left`) of samples, in no particular order.
    """
    queues = [_Queue() for _ in stages]

    def run(index: int, count: int) -> tuple[int, Left]:
        features, rows, macs, earlier = queues[index].take(count)
        size = padded_size(len(rows), batch_size)
        if size > len(rows):  # any real sample will do
            features = features[np.arange(size) % len(rows)]
        found = stages[index].predict_on_batch(features)
        found = keras.tree.map_structure(lambda a: np.asarray(a)[: len(rows)], found)
        macs = macs + profiles[index].of(found["decisions"])
        last = index == len(stages) - 1
        raw = found["features" if last else "scores"].astype("float32")
        so_far = np.concatenate([earlier, raw[:, None]], axis=1)
        scores = answer(index, so_far)
        gone, confidence = leaves(index, scores)
        if not last:
            stay = ~gone
            queues[index + 1].put(
                features=found["features"][stay],
                rows=rows[stay],
                macs=macs[stay],
                scores=so_far[stay],
            )
        return index, Left(rows[gone], scores[gone], confidence[gone], macs[gone])

    classes = stages[-1].part.output_shape[-1]
    seen = 0
    for batch in images:
        rows = np.arange(seen, seen + len(batch))
        queues[0].put(
            features=batch,
            rows=rows,
            macs=np.zeros(len(batch), np.int64),
            scores=np.zeros((len(batch), 0, classes), "float32"),
        )
        seen += len(batch)
        for index, queue in enumerate(queues):
            while len(queue) >= batch_size:
                yield run(index, batch_size)
    for index, queue in enumerate(queues):
        while len(queue):
            yield run(index, batch_size)
