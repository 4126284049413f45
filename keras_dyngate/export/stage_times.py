"""How long the parts of a net take as a file, before there is one with exits.

stage_times(model, ["b4_add", "b9_add"], "int8", images)    # of three stages
exit_times("exits.tflite")                                  # by place, of a file
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._checks import one_of
from keras_dyngate._graph import Part, flat_graph
from keras_dyngate.export.arguments import (
    calibration_images,
    check_model,
    check_recurrent,
    parity_images,
)
from keras_dyngate.export.conversion import QUANTIZATIONS, convert, traced
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.float_kernels import check_int8, float_thin
from keras_dyngate.export.int8_borders import int8_borders
from keras_dyngate.export.lowering import Lowering, weights_as_constants
from keras_dyngate.export.preparing import Prepared
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.models.exits.cutting import split
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.comparison import compare_latency
from keras_dyngate.runtime.exit_places import limits_to

IMAGES = 8
CALLS = 5  # of each image: the fastest counts, which other work disturbs least

Inputs = dict[str, list[dict[str, np.ndarray]]]  # by signature, one for each image


def stage_times(
    model: keras.Model,
    after: Sequence[Any],
    quantization: str | None = None,
    representative_data: Any = None,
) -> list[float]:
    """Time the stages of a net, each as a signature of one file, on this machine.

    The file is a temporary one, made as `export_tflite` would make it. A stage puts out
    a corner of its features only, so that copying them is not timed. Stages take turns,
    on one thread. Together they take a few percent longer than the net in one piece.

    Args:
        model: A classifier that `export_tflite` takes, without exits.
        after: Where it is cut; see `add_decision_gates`.
        quantization: None or "float32", "float16", "dynamic" or "int8".
        representative_data: Images as for `export_tflite`; 8 of them are used. None:
            random ones.

    Returns:
        One number more than there are cuts, in ms: the median over the images of the
        fastest of 5 calls.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ValueError: For a model that cannot be exported or cut so, or a bad argument.
    """
    graph = check_model(model)
    one_of("quantization", quantization, ("float32", *QUANTIZATIONS))
    quantization = None if quantization == "float32" else quantization
    if quantization == "int8":
        check_recurrent([graph])
    shape = tuple(graph.inputs[0].shape[1:])
    if representative_data is None:
        random = parity_images(None, None, shape, "float32")
        assert random is not None
        images = random[0][:IMAGES]
    else:
        images = calibration_images(representative_data, shape, IMAGES)
    parts = split(model, after)
    last = flat_graph(parts[-1])
    assert last is not None
    prepared = Prepared([c for part in parts for c in part.stretch.calls], last)
    int8 = quantization == "int8"
    functions, inputs = {}, {}
    for index, part in enumerate(parts, 1):
        functions[f"stage_{index}"] = _traced(prepared, part, int8)
    x = keras.ops.convert_to_tensor(images.astype("float32"))
    for name, part in zip(functions, parts, strict=True):
        forced = _forced(prepared, part, int8)
        inputs[name] = [{"features": row[None], **forced} for row in x.numpy()]
        x = prepared.run(part.stretch, x)
    file = convert(functions, quantization, _feed(inputs))
    if quantization == "dynamic":
        float_thin(file, lambda: convert(functions, None))
    elif quantization == "int8":
        int8_borders(file)
        check_int8(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stages.tflite"
        path.write_bytes(flatbuffer.write(file))
        litert = LiteRTModel(path)
    return _fastest({name: (litert, name, inputs[name]) for name in functions})


def exit_times(
    path: str | os.PathLike[str], representative_data: Any = None
) -> dict[str | None, float]:
    """Time the ways to the exits of an exported file, on this machine.

    Args:
        path: Of a file of a net with early exits, its signature `classify_at` kept.
        representative_data: Images; 8 of them are used. None: one black image.

    Returns:
        ms, as `stage_times`, by the layer that an exit stands after; of the net's own
        head by None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file.
    """
    litert = LiteRTModel(path)
    exits = litert.metadata.get("exits")
    at = litert.table.first("answer_at")
    if not exits or at is None:
        raise ValueError(
            "`measure` must be a file of a net with early exits that tells their places "
            "and has the signature 'classify_at'. "
            f"Received: measure={os.fspath(path)!r} with {sorted(litert.signatures)}"
        )
    spec = litert.signatures[at].inputs["image"]
    images = np.zeros(spec.shape, spec.dtype)
    if representative_data is not None:
        images = calibration_images(representative_data, spec.shape[1:], IMAGES)
    rows = [image[None].astype(spec.dtype) for image in images]
    candidates = {}
    for index, place in enumerate(exits):
        limits = limits_to(index, len(exits) - 1)
        feeds = [{"image": row, "thresholds": limits} for row in rows]
        candidates[place["after"]] = (litert, at, feeds)
    return dict(zip(candidates, _fastest(candidates), strict=True))


def _fastest(candidates: Mapping[Any, tuple[LiteRTModel, str, Any]]) -> list[float]:
    """ms of each candidate: the median over its inputs of the fastest of their calls."""
    count = len(next(iter(candidates.values()))[2])
    times = compare_latency(candidates, rounds=CALLS * count, warmup=count)
    return [float(np.median(ms.reshape(CALLS, count).min(0))) for ms in times.values()]


def _forced(prepared: Prepared, part: Part, int8: bool) -> dict[str, np.ndarray]:
    """What opens the blocks of a stage in calibration, at 0; see `Plan.trace`."""
    blocks = len(prepared.dynamic_layers(part.stretch.calls)) if int8 else 0
    return {"force": np.zeros(blocks, np.int32)} if blocks else {}


def _traced(prepared: Prepared, part: Part, int8: bool) -> Any:
    """One stage at batch 1, which puts out a corner of its features."""

    def stage(features: Any, force: Any = None) -> dict[str, Any]:
        constant = weights_as_constants(prepared.layers)
        lowering = _hooks.lowering(Lowering(None, force))
        with constant, lowering, exact_norms(int8):
            y = prepared.run(part.stretch, features)
        corner = [slice(None), *[slice(1)] * (len(y.shape) - 2), slice(None)]
        return {"corner": y[tuple(corner)]}

    shape = [1, *part.stretch.inputs[0].shape[1:]]
    spec = {"features": tf.TensorSpec(shape, tf.float32, "features")}
    for name, zeros in _forced(prepared, part, int8).items():
        spec[name] = tf.TensorSpec(zeros.shape, tf.int32, name)
    return traced(stage, **spec)


def _feed(inputs: Inputs) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Calibration inputs: every stage as it decides, and with all its blocks open."""

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for name, rows in inputs.items():
            for row in rows:
                yield name, row
                if "force" in row:
                    yield name, {**row, "force": np.ones_like(row["force"])}

    return feed
