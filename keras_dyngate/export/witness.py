"""What Keras says of some images, computed in float32 as a file computes it."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import flat_graph
from keras_dyngate._hooks import recording
from keras_dyngate.export.exit_parts import ExitParts
from keras_dyngate.export.preparing import Prepared
from keras_dyngate.models.exits.early_exit import EarlyExitModel


@dataclasses.dataclass
class Witness:
    """What Keras says of some images, all in float32.

    Attributes:
        logits: `[N, ..., classes]`, what the exit that it leaves at answers with.
        decisions: Of controllers, by name; what comes after the exit reads 0.
        confidences: Of every gate, `[N, gates]`.
        exits: `[N]`.
    """

    logits: np.ndarray
    decisions: dict[str, np.ndarray]
    confidences: np.ndarray | None = None
    exits: np.ndarray | None = None


def _arrays(decisions: dict[str, Any]) -> dict[str, np.ndarray]:
    return {k: keras.ops.convert_to_numpy(x) for k, x in decisions.items()}


class PlainWitness:
    """A classifier or a segmentation net, called on batches of images."""

    def __init__(self, model: keras.Model) -> None:
        graph = flat_graph(model)
        assert graph is not None
        self.prepared = Prepared(graph.calls, graph)
        self.whole = graph.whole

    def __call__(self, images: np.ndarray) -> Witness:
        with recording() as found:
            logits = self.prepared.run(self.whole, keras.ops.convert_to_tensor(images))
        return Witness(keras.ops.convert_to_numpy(logits), _arrays(found))


class ExitsWitness:
    """A net with early exits: all stages run, and what leaves is masked."""

    def __init__(self, model: EarlyExitModel) -> None:
        self.model, self.parts = model, ExitParts(model)

    def __call__(self, images: np.ndarray) -> Witness:
        x, limits = keras.ops.convert_to_tensor(images), self.model.thresholds
        stays = np.ones(len(images), bool)
        raw, logits, confidences, decisions = [], [], [], {}
        exits = np.zeros(len(images), np.int32)
        for index, stage in enumerate(self.model.stages):
            with recording() as found:
                x = self.parts.features(index, x)
            for name, scores in _arrays(found).items():
                decisions[name] = scores * stays[:, None]
            raw.append(keras.ops.convert_to_numpy(self.parts.scores(index, x)))
            scores = self.model.answer(index, np.stack(raw, 1)).astype("float32")
            logits.append(scores)
            if stage.gate is None:
                break
            found = stage.gate.confidence_of(keras.ops.convert_to_tensor(scores))
            confidence = keras.ops.convert_to_numpy(found)
            confidences.append(confidence)
            stays &= ~(confidence >= limits[index])
            exits += stays
        rows = np.arange(len(images))
        return Witness(
            np.stack(logits, 1)[rows, exits], decisions, np.stack(confidences, 1), exits
        )


def witness_of(model: keras.Model) -> PlainWitness | ExitsWitness:
    """To be called with a batch of images; for a `Witness` of it."""
    exits = isinstance(model, EarlyExitModel)
    return ExitsWitness(model) if exits else PlainWitness(model)
