"""Where a classifier can be cut in two.

    for point in cut_points(keras.applications.MobileNetV2(weights=None)):
        print(point.layer, point.macs, point.share, point.shape)

A layer or an operator (`x + y`) is a cut point when its output is all that the rest of
the model needs: no residual or dense connection leads around it.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._graph import FlatGraph, flat_graph
from keras_dyngate._logits import is_softmax, squashing_call
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.counter import each_macs

INPUT = "input"
NOTHING = "no MACs are spent up to it"


@dataclasses.dataclass(frozen=True)
class CutPoint:
    """A layer or operator after which a model can be cut.

    Attributes:
        layer: Its name; inside a nested model its path,
            "mobilenetv2/block_6_expand_relu".
        macs: Multiply-adds from the input up to it and with it, for one image: every
            row of `count_macs`, so everything open and controllers included.
        shape: Of its output, without the batch.
        share: `macs` over those of the whole model, controllers included, 0 to 1.
        ms: Time from the input up to it and with it, of a file on this machine, one
            image, one thread; None unless `cut_points` was asked to measure.
        time_share: `ms` over that of the whole model, 0 to 1, or None.

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
        for point in kd.cut_points(net):
            print(point.layer, point.share)  # early 0.50, ...
        ```
    """

    layer: str
    macs: int
    shape: tuple[int | None, ...]
    share: float
    ms: float | None = None
    time_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """A call of a model's flat graph: a cut point, or the `problem` it has as one.

    Attributes:
        index: Of the call; -1: the model's input.
    """

    point: CutPoint
    index: int
    problem: str | None


def checked_graph(model: Any) -> FlatGraph:
    """The flat graph of a model with one input and one output, or a `ValueError`."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )
    received = f"Received: model={model.name!r}, a {type(model).__name__}"
    graph = flat_graph(model)
    if graph is None and isinstance(model, keras.Sequential):
        raise ValueError(
            f"`model` must be built: begin it with a keras.Input. {received}"
        )
    if graph is None:
        raise ValueError(
            "`model` must be functional or a keras.Sequential: a subclassed model "
            f"has no graph of layers to cut. {received}"
        )
    for kind, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        if len(tensors) != 1:
            raise ValueError(
                f"`model` must have one {kind}. {received} with {len(tensors)} {kind}s"
            )
    return graph


def check_trunk(model: Any) -> int:
    """Refuse what cannot carry early exits.

    Args:
        model: Anything.

    Returns:
        The number of classes; 1: one score, for yes or no.

    Raises:
        ValueError: Unless it is a built functional or Sequential model from one input
            to one output of shape `[batch, classes]`, or if its one output goes through
            a softmax.
    """
    graph = checked_graph(model)
    shape = tuple(graph.outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "`model` must be a classifier, its output of shape [batch, classes]. "
            f"Received: model={model.name!r} with an output of shape {shape}"
        )
    last = squashing_call(graph)
    if shape[1] == 1 and last is not None and is_softmax(last.operation):
        raise ValueError(
            "`model` must end in a sigmoid or a raw score to answer yes or no: the "
            f"softmax of one output is always 1. Received: model={model.name!r}"
        )
    return int(shape[1])


def input_place(graph: FlatGraph) -> str:
    """What a model's input is called among its places: "input", if no layer is."""
    taken = any(call.path == INPUT for call in graph.calls)
    return f"{INPUT}:0" if taken else INPUT


def places(graph: FlatGraph) -> dict[str, Place]:
    """The input and every call of a flat graph by path, in the order of execution."""
    calls, (entry,) = graph.calls, graph.inputs
    last_use = {id(x): i for i, call in enumerate(calls) for x in call.inputs}
    last_use[id(graph.outputs[0])] = len(calls)
    times = Counter(call.path for call in calls)
    costs = each_macs(calls)
    macs, total = 0, sum(costs)

    def place(name: str, index: int, tensor: Any, problem: str | None) -> Place:
        share = macs / total if total else 0.0
        return Place(
            CutPoint(name, macs, tuple(tensor.shape[1:]), share), index, problem
        )

    start = input_place(graph)
    found = {start: place(start, -1, entry, NOTHING)}
    alive = {id(entry): start}  # tensors that a later call needs, and their makers
    for i, (call, cost) in enumerate(zip(calls, costs, strict=True)):
        name = call.path
        macs += cost
        alive |= {id(x): name for x in call.outputs}
        alive = {x: maker for x, maker in alive.items() if last_use.get(x, -1) > i}
        around = [maker for maker in dict.fromkeys(alive.values()) if maker != name]
        problem = None
        if times[name] > 1:
            problem = f"it is called {times[name]} times"
        elif around:
            problem = f"the outputs of {listed(around)} are needed after it too"
        elif len(call.outputs) > 1:
            problem = f"it has {len(call.outputs)} outputs"
        elif macs == 0:
            problem = NOTHING
        elif macs == total:
            problem = "no MACs are left after it"
        found.setdefault(name, place(name, i, call.outputs[0], problem))
    return found


def listed(names: Sequence[str]) -> str:
    """A few names, quoted."""
    rest = len(names) - 3
    quoted = ", ".join(repr(name) for name in names[:3])
    return f"{quoted} and {rest} more layers" if rest > 0 else quoted


def cut_points(
    model: keras.Model,
    measure: "str | os.PathLike[str] | CostTable | None" = None,
    representative_data: Any = None,
) -> list[CutPoint]:
    """The layers and operators after which a model can be cut into two stages.

    One tensor passes from stage to stage. A cut leaves MACs on both sides: neither
    preprocessing nor the last kernel and what follows it are among the points. Nested
    functional and Sequential models are opened.

    Args:
        model: Functional or `keras.Sequential`, built for a known image size, with one
            input and one output. A layer that is called twice is no cut point, nor is
            one inside a nested model that is called twice.
        measure: What to measure the time of, on the TensorFlow backend. "float32",
            "float16", "dynamic" or "int8": the stages between cut points, in a temporary
            file of that quantization. At most 12 points are measured, the narrowest in
            each twelfth of the MACs; times of others lie between, by their MACs (design
            of this library). Or the path of a .tflite file that was exported of this
            model with exits: points that are its exits have its times, exits on the way
            included, all others none. Or a `CostTable` of this model, or of one with
            exits on it, which may have been measured elsewhere: what its rows cost up to
            each point. None (default): no times.
        representative_data: Images for that, as for `export_tflite`; 8 of them are used.
            None: random ones, of a file a black one.

    Returns:
        `CutPoint`s in the order of execution.

    Raises:
        RuntimeError: If it is to measure on another backend than TensorFlow.
        ValueError: If the model has no graph, several inputs or outputs, or an unknown
            image size; for a file of another model, or a bad argument.

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
        for point in kd.cut_points(net):
            print(point.layer, point.share)  # early 0.50, ...
        ```
    """
    found = places(checked_graph(model)).values()
    points = [place.point for place in found if not place.problem]
    if measure is None:
        return points
    from keras_dyngate.models.exits.cut_times import timed  # it needs this module

    return timed(model, points, measure, representative_data)
