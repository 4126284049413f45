"""Thresholds of a file with early exits, chosen by what the file itself says and takes.

    outcome = calibrate_tflite("net.tflite", images, labels, accuracy_drop=0.01)
    print(outcome)              # thresholds are in the file now, times are the file's

A file in eight bits has scores of its own: thresholds that were chosen in Keras suit it
less well. Nothing is converted anew: the thresholds are constants of the file.
"""

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dyngate._deprecation import renamed
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate._image_range import RangeWatch
from keras_dyngate._images import finite_images
from keras_dyngate._labels import label_of
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime.chain import chain
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.runtime.labels import LabelSpec
from keras_dyngate.runtime.litert_model import METADATA_NAME, LiteRTModel, macs_of
from keras_dyngate.runtime.samples import labelled_samples
from keras_dyngate.thresholds.table import ExitOutcome, ExitTable
from keras_dyngate.thresholds.wish import Wish

NAME = "thresholds"


def adjustable(model: LiteRTModel) -> tuple[str, int]:
    """The signature that answers by given thresholds, and how many it takes.

    Raises:
        ValueError: If a file has none.
    """
    at = model.table.first("answer_at")
    if at is None or NAME not in model.signatures[at].inputs:
        raise ValueError(
            "`path` must be a file with early exits and the signature 'classify_at', "
            f"which takes thresholds. Received: {model.path} with "
            f"{sorted(model.signatures)}"
        )
    return at, int(model.signatures[at].inputs[NAME].shape[0])


def _alone(model: LiteRTModel) -> np.ndarray | None:
    """How much each exit counts in the head's answer; None if the head counts alone."""
    mixing = model.metadata.get("mixing")
    row = np.array(mixing[-1], "float32") if mixing else np.zeros(1, "float32")
    if not row[:-1].any():
        return None
    if len(row) not in model.table.numbered("stage"):
        raise ValueError(
            "`path` must have its stages as signatures, which tell what the head alone "
            f"answers. Received: {model.path} with {sorted(model.signatures)}"
        )
    return row


def _alike(model: LiteRTModel) -> bool:
    """Whether exits combine and have confidences of one kind."""
    mixing = np.array(model.metadata.get("mixing", []))
    kinds = model.metadata.get("confidence", [])
    return bool(np.tril(mixing, -1).any()) and len(set(kinds)) == 1


def _plain_label(model: LiteRTModel, inputs: Any, row: np.ndarray) -> int:
    """What the head answers before others are added: they are taken off again."""
    last = model.table.numbered("stage")[len(row)]
    *_, (_, given, outputs) = chain(model, inputs, last)
    others = row[:-1][row[:-1] != 0]  # those that the last stage is given
    raw = outputs["logits"][0] - others @ given["earlier"][0]
    return int(label_of(raw / row[-1]))


def file_exit_table(
    model: LiteRTModel, x: Any, y: Any = None
) -> tuple[ExitTable, tuple[float, ...]]:
    """What every exit of a file says of every sample, and the time to each.

    Args:
        model: A file with the signature `classify_at`.
        x, y: As for `LiteRTModel.evaluate`; an array alone has no labels.

    Returns:
        An `ExitTable`, and the median ms to each exit, the head last. Where the head
        combines with exits, `plain` of the table is what it would answer alone.

    Raises:
        ValueError: For a file without exits, or data that do not suit it.

    Warns:
        UserWarning: All images are from 0 to 1 where the file takes 0 to 255.
    """
    (at, gates), alone = adjustable(model), _alone(model)
    spec = {k: v for k, v in model.signatures[at].inputs.items() if k != NAME}
    labelled = y is not None or not hasattr(x, "shape")
    truth = y if labelled else np.zeros(len(x), int)
    limits = [limits_to(index, gates) for index in range(gates + 1)]
    found: dict[str, list[Any]] = {k: [] for k in ("score", "label", "macs", "ms")}
    truths, plain, watch = [], [], RangeWatch()
    classes = model._classes(at)
    samples = labelled_samples(
        x, truth, None, specs=spec, labels=LabelSpec((), classes), watch=watch
    )
    for sample in samples:
        for image in sample.inputs.values():
            finite_images("x", image)
        rows: dict[str, list[Any]] = {name: [] for name in found}
        for limit in limits:
            start = time.perf_counter()
            outputs = model.run(at, **sample.inputs, thresholds=limit)
            rows["ms"].append(1e3 * (time.perf_counter() - start))
            rows["score"].append(float(outputs["score"].ravel()[0]))
            rows["label"].append(int(outputs["label"].ravel()[0]))
            rows["macs"].append(macs_of(outputs))
        for name, row in rows.items():
            found[name].append(row)
        truths.append(int(sample.label))
        if alone is not None:
            plain.append(_plain_label(model, sample.inputs, alone))
    if not truths:
        raise ValueError("`x` must hold at least one sample. Received: none")
    if model.takes_255:
        watch.warn("x")
    table = ExitTable(
        confidence=np.array(found["score"], "float32")[:, :-1],
        labels=np.array(found["label"]),
        macs=np.array(found["macs"]),
        truth=np.array(truths) if labelled else None,
        plain=np.array(plain) if plain else None,
    )
    return table, tuple(np.median(found["ms"], axis=0).tolist())


def set_thresholds(path: str | os.PathLike[str], thresholds: Sequence[float]) -> None:
    """Write thresholds into a file; it is replaced in one step.

    Args:
        path: A file with early exits.
        thresholds: One number per gate; infinity lets nobody leave.

    Raises:
        ValueError: For a file without exits, or other thresholds.
    """
    target = writable_target("path", path)
    model = LiteRTModel(path)
    noted = model.metadata.get(NAME)
    limits = np.asarray(thresholds, "float32")
    if not isinstance(noted, list):
        raise ValueError(
            "`path` must be a file with early exits that `export_tflite` wrote. "
            f"Received: {target}"
        )
    if limits.shape != (len(noted),) or np.isnan(limits).any():
        raise ValueError(
            f"`thresholds` must be {len(noted)} numbers, one per gate. "
            f"Received: thresholds={thresholds!r}"
        )
    file = flatbuffer.read(target.read_bytes())
    limits = np.nan_to_num(limits)  # JSON knows no infinity
    replaced = 0
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            held = NAME.encode() in (tensor.name or b"")
            values = flatbuffer.constant(file, tensor, np.float32) if held else None
            if values is not None and values.shape == limits.shape:
                tensor.buffer = flatbuffer.intern_buffer(file, limits.tobytes())
                replaced += 1
    views = [k for k in ("answer", "witness") if model.table.first(k) is not None]
    if replaced < len(views):
        raise ValueError(
            f"`path` must hold thresholds as constants. Received: {target} with "
            f"{replaced} of {len(views)}"
        )
    metadata = {**model.metadata, NAME: limits.tolist()}
    flatbuffer.set_metadata(file, METADATA_NAME, json.dumps(metadata).encode())
    flatbuffer.drop_unused_buffers(file)
    write_whole(target, flatbuffer.write(file))


@renamed(latency="ms")
def calibrate_tflite(
    path: str | os.PathLike[str],
    x: Any,
    y: Any = None,
    *,
    accuracy_drop: float | None = None,
    agreement: float | None = None,
    confidence: float | None = None,
    macs: float | None = None,
    exit_shares: Sequence[float] | None = None,
    ms: float | None = None,
    shared: bool | None = None,
    num_threads: int = 1,
) -> ExitOutcome:
    """Choose the thresholds of a file by its own answers and times, and write them in.

    As `EarlyExitModel.calibrate`, but on the file: it is run to every exit on every
    image, and losses are against what its head would answer without exits. With
    `accuracy_drop` and `agreement` the expected time is least, with `ms` it is kept
    to; weights by which exits combine stay as they are.

    Args:
        path: A file with early exits and the signature `classify_at`; it is replaced in
            one step.
        x: Images, an array, or a dataset of (image, label), as `LiteRTModel.evaluate`
            takes them; not those of the test.
        y: Labels of an array; None where none are needed.
        accuracy_drop, agreement, confidence, macs, exit_shares, ms, shared: As in
            `EarlyExitModel.calibrate`; one of them, `confidence` and `shared` apart. `ms`
            are of this machine.
        num_threads: Of the timed runs.

    Returns:
        An `ExitOutcome` on these images, with `ms`.

    Raises:
        ValueError: For a file without exits, if no thresholds keep to the wish, or for a
            bad argument. The file stays as it was then.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        x = np.random.default_rng(0).uniform(0, 255, (32, 16, 16, 3)).astype("float32")
        model = kd.add_decision_gates(net, after=["early"])
        model.thresholds = [0.0]
        kd.export_tflite(model, "exits.tflite", parity_data=False)
        print(kd.calibrate_tflite("exits.tflite", x, agreement=0.9))  # and writes them
        ```
    """
    model = LiteRTModel(path, num_threads=num_threads)
    _, gates = adjustable(model)
    wish: dict[str, Any] = {
        "macs": macs,
        "accuracy_drop": accuracy_drop,
        "agreement": agreement,
        "confidence": confidence,
        "exit_shares": exit_shares,
        "ms": ms,
        "shared": shared,
        "alike": _alike(model),
    }
    Wish(gates, **wish, path_ms=[1.0] * (gates + 1))  # refused before any run
    table, path_ms = file_exit_table(model, x, y)
    chosen = Wish(gates, **wish, path_ms=path_ms).choose(table)
    set_thresholds(path, chosen.thresholds)
    return chosen
