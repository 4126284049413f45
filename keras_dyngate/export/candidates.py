"""Nets as files, judged on validation pictures: what is compared is made here.

maker = Maker(folder, "int8", pictures, labels, x_val, y_val, plain_labels)
net = maker.static("the plain net", model, "int8")
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import flat_graph
from keras_dyngate._images import finite_images
from keras_dyngate._labels import label_of
from keras_dyngate._logits import squashing_call
from keras_dyngate.cost.counter import model_profile
from keras_dyngate.export.exits_result import StaticNet
from keras_dyngate.export.exporter import export_tflite
from keras_dyngate.models.exits.cut_points import checked_graph
from keras_dyngate.models.exits.data import Batch, batches, class_indices, fitting
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.runtime import LiteRTModel, compare_latency
from keras_dyngate.runtime.exit_calibration import file_exit_table
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.thresholds.table import ExitTable

REPRESENTATIVE = 128  # training pictures for 8 bits
TIMED = 64  # validation pictures that files are timed on, in turn


def pair_of(name: str, data: Any) -> tuple[Any, Any]:
    """(images, labels), or a dataset and None."""
    if not isinstance(data, tuple):
        return data, None
    if len(data) != 2:
        raise ValueError(
            f"`{name}` must be (images, labels), or a dataset of such batches. "
            f"Received: a tuple of {len(data)}"
        )
    return data


def _suited(name: str, model: keras.Model, x: Any, y: Any) -> Iterator[Batch]:
    """Batches of finite images and class indices that suit the model, or a `ValueError`."""
    graph = checked_graph(model)
    shape, classes = tuple(graph.inputs[0].shape), int(graph.outputs[0].shape[-1])
    try:
        for batch in batches(x, y, batch_size=256):
            images = finite_images(name, np.asarray(fitting(batch.x, shape)))
            truth = None if batch.y is None else class_indices(batch.y, classes)
            yield Batch(images, truth, None)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must hold images and labels that suit the model, (images, labels) "
            f"or a dataset of such batches. {error}"
        ) from error


def arrays_of(
    name: str, model: keras.Model, data: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Images and class indices of a set that is gone through several times."""
    found = list(_suited(name, model, *pair_of(name, data)))
    if any(batch.y is None for batch in found):
        raise ValueError(f"`{name}` must have labels. Received: images alone")
    if not found:
        raise ValueError(f"`{name}` must hold at least one sample. Received: none")
    images, truth, _ = zip(*found, strict=True)
    return np.concatenate(images), np.concatenate(truth)


def check_data(name: str, model: keras.Model, x: Any, y: Any) -> None:
    """Refuse pictures that do not suit the model; of a dataset its first batch is seen."""
    for _ in _suited(name, model, x, y):
        if not hasattr(x, "shape"):
            break


def some_of(x: Any, y: Any) -> np.ndarray:
    """A few training pictures, spread over an array, the first ones of a dataset."""
    if hasattr(x, "shape"):
        rows = np.linspace(0, len(x) - 1, min(len(x), REPRESENTATIVE)).astype(int)
        return np.asarray(x)[rows]
    found: list[np.ndarray] = []
    for batch in batches(x, y):
        found.append(batch.x)
        if sum(map(len, found)) >= REPRESENTATIVE:
            break
    return np.concatenate(found)[:REPRESENTATIVE]


def labels_of(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What a classifier answers, by its raw scores."""
    graph = flat_graph(model)
    assert graph is not None
    scores = model.predict(x, batch_size=64, verbose=0)
    one = scores.shape[-1] == 1
    probabilities = one and squashing_call(graph) is not None
    return label_of(scores - 0.5 if probabilities else scores)


class Maker:
    """Makes files of nets, and judges them on the validation pictures."""

    def __init__(
        self,
        folder: Path,
        quantization: str | None,
        pictures: np.ndarray,
        labels: Sequence[str] | None,
        x: np.ndarray,
        y: np.ndarray,
        plain_labels: np.ndarray,
    ) -> None:
        self.folder, self.quantization, self.pictures = folder, quantization, pictures
        self.labels, self.x, self.y, self.plain_labels = labels, x, y, plain_labels

    def file(self, model: keras.Model, quantization: str | None) -> LiteRTModel:
        """A file of a net, which stays in the folder."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.tflite"
        eight = quantization in ("dynamic", "int8")
        export_tflite(
            model,
            path,
            quantization=quantization,
            representative_data=self.pictures if eight else None,
            labels=self.labels,
            parity_data=False,
        )
        return LiteRTModel(path)

    def exits(self, model: EarlyExitModel) -> tuple[Path, ExitTable, tuple[float, ...]]:
        """A file with exits, what they say, and the time to each."""
        litert = self.file(model, self.quantization)
        table, path_ms = file_exit_table(litert, self.x, self.y)
        return litert.path, dataclasses.replace(table, plain=self.plain_labels), path_ms

    def static(
        self,
        name: str,
        model: keras.Model,
        quantization: str | None,
        keeps: Callable[[np.ndarray], bool] = lambda right: True,
    ) -> StaticNet:
        """A static net as a file; its time is measured later.

        `keeps` says of the right answers, bool `[N]`, whether they are enough.
        """
        litert = self.file(model, quantization)
        found = litert.evaluate(self.x, self.y)
        return StaticNet(
            name=name,
            model=model,
            quantization=quantization or "float32",
            content=litert.path.read_bytes(),
            accuracy=found["accuracy"],
            ms=found["median_ms"],
            macs=model_profile(model).total,
            kept=keeps(found["labels"] == self.y),
        )

    def time_files(
        self, files: Mapping[str, bytes], to_exits_of: str | None = None
    ) -> dict[str, float]:
        """Mean ms of a picture by each file; all of them in turn.

        Args:
            files: Contents by name.
            to_exits_of: One of them: the ways to its exits are timed too, as
                "to exit 0" and so on.
        """
        candidates: dict[str, Any] = {}
        rows = np.linspace(0, len(self.x) - 1, min(len(self.x), TIMED)).astype(int)
        inputs = [{"image": image} for image in self.x[rows]]
        for index, (name, content) in enumerate(files.items()):
            path = self.folder / f"timed_{index}.tflite"
            path.write_bytes(content)
            candidates[name] = (LiteRTModel(path), "classify", inputs)
        if to_exits_of is not None:
            litert, _, _ = candidates[to_exits_of]
            gates = len(litert.metadata["thresholds"])
            for index in range(gates + 1):
                limits = limits_to(index, gates)
                there = [{**given, "thresholds": limits} for given in inputs]
                candidates[f"to exit {index}"] = (litert, "classify_at", there)
        times = compare_latency(candidates, rounds=3 * len(inputs))
        return {
            name: float(np.median(each.reshape(3, -1), axis=0).mean())
            for name, each in times.items()
        }
