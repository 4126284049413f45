"""The time of cut points, beside their MACs: measured at some, between them told by MACs.

points = timed(model, cut_points(model), "int8", images)
"""

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import flat_graph
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.models.exits.cut_points import INPUT, CutPoint

QUANTIZATIONS = ("float32", "float16", "dynamic", "int8")
MEASURED = 12  # cut points at most, of a net that has more


def spread(points: Sequence[CutPoint], count: int) -> list[CutPoint]:
    """At most `count` points, far apart, each the narrowest around.

    The MACs are parted into so many equal ranges. Of each range that has points, the one
    with the smallest tensor is taken, the last of several such: as a rule the end of a
    block.
    """
    found: dict[int, CutPoint] = {}
    for point in points:
        part = int(point.share * count)
        if part not in found or _numbers(point) <= _numbers(found[part]):
            found[part] = point
    return list(found.values())


def _numbers(point: CutPoint) -> int:
    return math.prod(side for side in point.shape if side is not None)


def timed(
    model: keras.Model, points: Sequence[CutPoint], measure: Any, data: Any
) -> list[CutPoint]:
    """Points with their times; for the arguments and errors see `cut_points`."""
    if isinstance(measure, CostTable):
        return _of_table(model, points, measure)
    is_path = isinstance(measure, os.PathLike) or (
        isinstance(measure, str) and measure.endswith(".tflite")
    )
    if not is_path and measure not in QUANTIZATIONS:
        raise ValueError(
            f"`measure` must be one of {QUANTIZATIONS}, the path of a .tflite file, or "
            f"None. Received: measure={measure!r}"
        )
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "`measure` needs Keras on TensorFlow, as exporting does. "
            f"Received: measure={measure!r} on the {keras.backend.backend()} backend"
        )
    if not points:
        return []
    # TensorFlow is imported where it is needed only.
    from keras_dyngate.export.stage_times import exit_times, stage_times

    if is_path:
        return _of_file(points, measure, exit_times(measure, data))
    measured = spread(points, MEASURED)
    cuts = [point.layer for point in measured]
    ms = np.cumsum([0.0, *stage_times(model, cuts, measure, data)])
    shares = [0.0, *(point.share for point in measured), 1.0]
    found = np.interp([point.share for point in points], shares, ms)
    return [_with(p, float(x), ms[-1]) for p, x in zip(points, found, strict=True)]


def _with(point: CutPoint, ms: float, whole: float) -> CutPoint:
    return dataclasses.replace(point, ms=ms, time_share=float(ms / whole))


def _of_table(
    model: keras.Model, points: Sequence[CutPoint], table: CostTable
) -> list[CutPoint]:
    """Points by what a table's rows up to each of them cost, exits' own apart."""
    of_layer: dict[str, float] = defaultdict(float)
    for row in table.rows:
        if not row.controller:
            of_layer[row.layer] += row.cost
    whole = sum(of_layer.values())
    spent, spent_at = 0.0, {}
    graph = flat_graph(model)
    for call in () if graph is None else graph.calls:
        for name in dict.fromkeys((call.path, call.operation.name)):
            spent += of_layer.pop(name, 0.0)
        spent_at[call.path] = spent
    if not whole or spent < 0.9 * whole:
        raise ValueError(
            "`measure` must be a table of this model, or of one with exits on it. "
            f"Received: {table} with the layers {sorted(of_layer)[:3]}"
        )
    found = [_with(point, spent_at[point.layer], whole) for point in points]
    if table.unit == "ms":
        return found
    return [dataclasses.replace(point, ms=None) for point in found]


def _of_file(
    points: Sequence[CutPoint], path: Any, times: dict[str | None, float]
) -> list[CutPoint]:
    known = {point.layer for point in points}
    others = [
        place
        for place in times
        if place is not None and place.partition(":")[0] != INPUT and place not in known
    ]
    if others:
        raise ValueError(
            "`measure` must be a file of this model, its exits after its cut points. "
            f"Received: measure={os.fspath(path)!r} with exits after {others}"
        )
    whole = times[None]
    return [
        _with(point, times[point.layer], whole) if point.layer in times else point
        for point in points
    ]
