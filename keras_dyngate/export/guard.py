"""The fastest quantization of a file that loses hardly anything: `quantization="auto"`.

All that there are become files, timed in turn. From the fastest on, the first counts that
answers as the float32 file does, to a tolerance. Where int8 loses more, the layers that
lose most are put back to float32 first.
"""

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import fraction
from keras_dyngate._files import write_whole
from keras_dyngate._graph import FlatGraph
from keras_dyngate._images import finite_images, take_images
from keras_dyngate.export.arguments import check_model
from keras_dyngate.export.float_layers import stored_kernel
from keras_dyngate.export.report import ExportReport, TriedQuantization
from keras_dyngate.export.sensitivity import layer_errors
from keras_dyngate.models.exits.data import class_indices
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.runtime import LiteRTModel, compare_latency

WHOLE = ("float32", "float16", "dynamic", "int8")
MIXED = (1, 2, 4, 8)  # layers that are put back to float32, the worst first
TIMED, PASSES = 8, 5  # images, and how often
Export = Callable[..., ExportReport]


def export_guarded(
    export: Export,
    model: keras.Model,
    path: Path,
    *,
    tolerance: float,
    guard_data: Any,
    representative_data: Any,
    **options: Any,
) -> ExportReport:
    """Write the fastest file within a tolerance; see `export_tflite`.

    Args:
        export: `export_tflite`.
        model, path, representative_data, **options: As there.
        tolerance: Accuracy that may be lost, 0 to 1; without labels, labels that may
            differ from the float32 file's.
        guard_data: (images, labels), or images. None: `representative_data`.

    Returns:
        The report of the file that was written; `tried` has a row for each.

    Raises:
        ValueError: For data that do not suit the model, or a bad argument.
    """
    fraction("tolerance", tolerance)
    net = model.trunk if isinstance(model, EarlyExitModel) else model
    graph = check_model(net)
    shape, outputs = tuple(graph.inputs[0].shape[1:]), graph.outputs[0].shape[-1]
    if representative_data is None:
        raise ValueError(
            "`quantization='auto'` needs `representative_data`: some hundred images, 0 "
            "to 255. Received: representative_data=None"
        )
    given = representative_data if guard_data is None else guard_data
    x, y = _guard(given, shape, int(outputs))
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, _Made] = {}

        def make(name: str, quantization: str, **more: Any) -> None:
            eight = quantization in ("dynamic", "int8")
            with warnings.catch_warnings():  # the table says it
                warnings.filterwarnings("ignore", "The file agrees with Keras on")
                report = export(
                    model,
                    Path(folder) / f"{len(made)}.tflite",
                    quantization=quantization,
                    representative_data=representative_data if eight else None,
                    parity_data=x,
                    **options,
                    **more,
                )
            file = LiteRTModel(report.path)
            truth = np.zeros(len(x), int) if y is None else y
            made[name] = _Made(report, file, file.evaluate(x, truth))

        for name in WHOLE:
            make(name, name)
        rows = _judged(made, x, y, tolerance)
        if not _row(rows, "int8").kept:
            worst = [row.name for row in layer_errors(model, x)]
            for count in MIXED:
                if count > len(worst) // 2:
                    break
                names = _with_readers(graph, worst[:count])
                mixed = f"int8, float32: {', '.join(names)}"
                make(mixed, "int8", keep_float=names)
                rows = _judged(made, x, y, tolerance)
                if _row(rows, mixed).kept:
                    break
        best = min((row for row in rows if row.kept), key=lambda row: row.ms)
        report = made[best.name].report
        write_whole(path, Path(report.path).read_bytes())
    return dataclasses.replace(report, path=str(path), tried=tuple(rows))


def _with_readers(graph: FlatGraph, names: Sequence[str]) -> list[str]:
    """Layers, and the kernels that read what they put out: else that is rounded."""
    found: dict[str, None] = {}
    behind: dict[int, bool] = {}  # whether a tensor comes from one of them
    for call in graph.calls:
        name = call.operation.name
        after = any(behind.get(id(x)) for x in call.inputs)
        kernel = stored_kernel(call.operation) is not None
        if name in names or (kernel and after):
            found[name] = None
        comes = name in names or (after and not kernel)
        behind |= {id(x): comes for x in call.outputs}
    return list(found)


def _row(rows: Sequence[TriedQuantization], name: str) -> TriedQuantization:
    return next(row for row in rows if row.name == name)


def _guard(
    data: Any, shape: tuple[Any, ...], outputs: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and class indices to judge on; no indices where there are no labels."""
    pair = isinstance(data, tuple) and len(data) == 2
    labelled = (
        pair and hasattr(data[0], "shape") and len(data[0].shape) == len(shape) + 1
    )
    y = class_indices(np.asarray(data[1]), outputs) if labelled else None
    images = take_images("guard_data", data[0] if labelled else data, shape)
    x = finite_images("guard_data", images)
    if y is not None and len(x) != len(y):
        raise ValueError(
            "`guard_data` must have a label for each image. "
            f"Received: {len(x)} images, {len(y)} labels"
        )
    return x, y


@dataclasses.dataclass(frozen=True)
class _Made:
    """A file, and what it says of the data it is judged on."""

    report: ExportReport
    file: LiteRTModel
    said: dict[str, Any]


def _judged(
    made: dict[str, _Made], x: np.ndarray, y: np.ndarray | None, tolerance: float
) -> list[TriedQuantization]:
    """A row for each file, the fastest first."""
    exact = made["float32"].said
    first = next(iter(made["float32"].report.signatures))
    inputs = [{"image": image} for image in x[:TIMED]]
    times = compare_latency(
        {name: (each.file, first, inputs) for name, each in made.items()},
        rounds=PASSES * len(inputs),
    )
    rows = []
    for name, each in made.items():
        said, parity = each.said, each.report.parity
        same = float(np.mean(said["labels"] == exact["labels"]))
        accuracy = None if y is None else float(said["accuracy"])
        lost = (
            1 - same if y is None else float(exact["accuracy"]) - float(accuracy or 0)
        )
        rows.append(
            TriedQuantization(
                name=name,
                ms=float(np.median(times[name])),
                bytes=each.report.bytes,
                accuracy=accuracy,
                agreement=same,
                decision_agreement=parity.decision_agreement if parity else None,
                exit_agreement=parity.exit_agreement if parity else None,
                kept=name == "float32" or lost <= tolerance + 1e-9,
            )
        )
    return sorted(rows, key=lambda row: row.ms)
