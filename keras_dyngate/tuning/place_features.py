"""A frozen trunk's features at the places of exits, computed once for a whole search.

    features = PlaceFeatures(trunk, x)
    teach_on_features(model, features, y, epochs=8)    # an EarlyExitModel on that trunk

Where trials differ by their exits alone, the trunk need not run again for each of them.
The price: pictures are not varied, as `fit_gates` does from epoch to epoch.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import Part, flat_graph
from keras_dyngate._logits import raw_operation
from keras_dyngate.layers import DecisionGate
from keras_dyngate.models.exits.cutting import split
from keras_dyngate.models.exits.fitting import fit_gate
from keras_dyngate.models.exits.students import PacedAdam, Students, frozen

BATCH = 64  # of a pass through the trunk
LARGEST = np.finfo("float16").max
FOLDER, SCORES = "features", "scores"
DECAY = 1e-3  # of heads' weights
START = 1e-5  # of the learning rate, which rises over the first epoch


class PlaceFeatures:
    """Features at places of a trunk, each computed when it is first asked for.

    Args:
        trunk: A functional or Sequential classifier, which stays as it is.
        x: Images `[N, ...]`.
        folder: Where they are kept, in half precision. None: in memory.
    """

    def __init__(
        self, trunk: keras.Model, x: np.ndarray, folder: Path | None = None
    ) -> None:
        self.trunk, self.x, self.folder = trunk, x, folder
        self._known: dict[str, np.ndarray] = {}

    def at(self, place: str) -> np.ndarray:
        """The features after a layer, float16 `[N, ...]`.

        Args:
            place: Its path, as `CutPoint.layer` has it.
        """
        return self._get(place, lambda: split(self.trunk, [place])[0])

    def scores(self) -> np.ndarray:
        """The trunk's own raw scores, float16 `[N, classes]`."""

        def raw() -> keras.Model:
            graph = flat_graph(self.trunk)
            assert graph is not None  # it carries exits
            return Part(graph.whole, raw_operation(graph), name="raw_scores")

        return self._get(SCORES, raw)

    def _get(self, name: str, part: Any) -> np.ndarray:
        if name not in self._known:
            self._known[name] = self._kept(name, part)
        return self._known[name]

    def _kept(self, name: str, part: Any) -> np.ndarray:
        if self.folder is None:
            return np.concatenate(list(self._passes(part())))
        path = self.folder / FOLDER / f"{zlib.crc32(name.encode()):08x}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, part())
        return np.load(path, mmap_mode="r")

    def _write(self, path: Path, part: keras.Model) -> None:
        """The file of a place, whole or not at all; never all of it in memory."""
        beside = path.with_name(f".{os.getpid()}.{path.name}")
        shape = len(self.x), *part.output_shape[1:]
        try:
            file = np.lib.format.open_memmap(beside, "w+", "float16", shape)
            done = 0
            for features in self._passes(part):
                file[done : done + len(features)] = features
                done += len(features)
            file.flush()
            del file
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def _passes(self, part: keras.Model) -> Iterator[np.ndarray]:
        if keras.backend.backend() == "tensorflow":
            part.compile(jit_compile=False)  # XLA would compile each size of batch anew
        for start in range(0, len(self.x), BATCH):
            found = part.predict_on_batch(self.x[start : start + BATCH])
            yield np.clip(found, -LARGEST, LARGEST).astype("float16")


class _OnFeatures(Students):
    """Exits that learn from features and scores that are known."""

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        found = {"teacher": x["teacher"]}
        for gate in self.gates:
            found[gate.name] = gate(x[gate.name], training=training)
        return found


def teach_on_features(
    model: Any,
    features: PlaceFeatures,
    y: np.ndarray,
    *,
    epochs: int,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> int:
    """Teach all exits of a net, as `fit_gates` does, on features instead of pictures.

    Args:
        model: An `EarlyExitModel` on the trunk of the features, without a first net.
        features: Of the training pictures.
        y: Class indices `[N]`.
        epochs: Of heads; linear gates, which are a convex fit, have 30.
        batch_size, learning_rate: Of heads.
        seed: Of the order.

    Returns:
        How many steps heads were taught.
    """
    pairs = list(zip(model.gates, model.after, strict=True))
    for gate, place in pairs:
        if isinstance(gate, DecisionGate):
            maps = features.at(place)
            pooled = [
                keras.ops.convert_to_numpy(gate.pool(maps[i : i + BATCH]))
                for i in range(0, len(maps), BATCH)
            ]
            fit_gate(
                gate,
                np.concatenate(pooled),
                y,
                epochs=30,
                batch_size=256,
                learning_rate=0.01,
                weight_decay=1e-4,
            )
    heads = [pair for pair in pairs if not isinstance(pair[0], DecisionGate)]
    if not heads:
        return 0
    steps = -(-len(y) // batch_size)

    def batches() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        epoch = 0
        while True:
            order = np.random.default_rng((seed, epoch)).permutation(len(y))
            for start in range(0, len(y), batch_size):
                rows = np.sort(order[start : start + batch_size])
                given = {gate.name: features.at(place)[rows] for gate, place in heads}
                given["teacher"] = features.scores()[rows]
                batch = {k: v.astype("float32") for k, v in given.items()}
                yield batch, y[rows].astype("int32")
            epoch += 1

    with frozen([model.trunk]):
        students = _OnFeatures(
            model,
            [gate for gate, _ in heads],
            teacher=None,
            taught=True,
            joint=False,
            temperature=2.0,
            label_share=0.5,
        )
        rate = keras.optimizers.schedules.CosineDecay(
            START,
            max(1, (epochs - 1) * steps),
            warmup_target=learning_rate,
            warmup_steps=min(steps, epochs * steps),
        )
        jit = False if keras.backend.backend() == "tensorflow" else "auto"
        students.compile(PacedAdam(rate, lambda v: (1.0, DECAY)), jit_compile=jit)
        students.fit(
            batches(), steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False
        )
    return epochs * steps
