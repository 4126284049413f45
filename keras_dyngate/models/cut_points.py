"""Where a classifier can be cut in two, and the stages that cutting it gives.

    for point in cut_points(keras.applications.MobileNetV2(weights=None)):
        print(point.layer, point.macs, point.shape)

A layer is a cut point when its output is all that the rest of the model needs: no
residual or dense connection leads around it.
"""

import dataclasses
import difflib
import numbers
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._graph import Part, Stretch, flat_graph, graph_of
from keras_dyngate.cost.counter import count_macs, each_macs


@dataclasses.dataclass(frozen=True)
class CutPoint:
    """A layer after which a model can be cut.

    Attributes:
        layer: Its name.
        macs: Multiply-adds from the input up to it and with it, for one image: every
            row of `count_macs`, so everything open and controllers included.
        shape: Of its output, without the batch.
    """

    layer: str
    macs: int
    shape: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class _Place:
    """A layer of the graph: a cut point, or the `problem` it has as one."""

    point: CutPoint
    tensor: Any
    index: int
    problem: str | None


def _checked_graph(model: Any) -> Any:
    """The graph of a model with one input and one output, or a `ValueError`."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )
    received = f"Received: model={model.name!r}, a {type(model).__name__}"
    graph = graph_of(model)
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


def check_trunk(model: Any) -> None:
    """Refuse what cannot carry early exits.

    Args:
        model: Anything.

    Raises:
        ValueError: Unless it is a built functional or Sequential model from one input
            to one output of shape `[batch, classes]`.
    """
    shape = tuple(_checked_graph(model).outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "`model` must be a classifier, its output of shape [batch, classes]. "
            f"Received: model={model.name!r} with an output of shape {shape}"
        )


def _places(model: Any) -> dict[str, _Place]:
    """Every call of a flat graph by path, in the order of execution."""
    _checked_graph(model)
    graph = flat_graph(model)
    assert graph is not None
    last_use = {id(x): i for i, call in enumerate(graph.calls) for x in call.inputs}
    last_use[id(graph.outputs[0])] = len(graph.calls)
    times = Counter(call.path for call in graph.calls)
    profile = count_macs(model)
    total, macs = profile.total + profile.controllers, 0
    places: dict[str, _Place] = {}
    alive: dict[int, str] = {}  # tensors that a later call needs, and who made them
    costs = each_macs(graph.calls)
    for i, call in enumerate(graph.calls):
        name = call.path
        macs += costs[i]
        alive |= {id(x): name for x in call.outputs}
        alive = {x: maker for x, maker in alive.items() if last_use.get(x, -1) > i}
        if name in places:
            continue
        around = [maker for maker in dict.fromkeys(alive.values()) if maker != name]
        problem = None
        if times[name] > 1:
            problem = f"it is called {times[name]} times"
        elif around:
            problem = f"the outputs of {_listed(around)} are needed after it too"
        elif len(call.outputs) > 1:
            problem = f"it has {len(call.outputs)} outputs"
        elif macs == 0:
            problem = "no MACs are spent up to it"
        elif macs == total:
            problem = "no MACs are left after it"
        tensor = call.outputs[0]
        point = CutPoint(name, macs, tuple(tensor.shape[1:]))
        places[name] = _Place(point, tensor, i, problem)
    return places


def _listed(names: Sequence[str]) -> str:
    """A few names, quoted."""
    rest = len(names) - 3
    quoted = ", ".join(repr(name) for name in names[:3])
    return f"{quoted} and {rest} more layers" if rest > 0 else quoted


def cut_points(model: keras.Model) -> list[CutPoint]:
    """The layers after which a model can be cut into two stages.

    One tensor passes from stage to stage. A cut leaves MACs on both sides: neither
    preprocessing nor the last kernel and what follows it are among the points.

    Args:
        model: Functional or `keras.Sequential`, built for a known image size, with one
            input and one output. Nested models are not opened; a layer that is called
            twice is no cut point.

    Returns:
        `CutPoint`s in the order of execution.

    Raises:
        ValueError: If the model has no graph, several inputs or outputs, or an unknown
            image size.
    """
    return [place.point for place in _places(model).values() if not place.problem]


def _name_of(item: Any, model: Any, places: dict[str, _Place], received: str) -> str:
    """The name of the layer that an item of `after` means."""
    if isinstance(item, CutPoint):
        item = item.layer
    if isinstance(item, numbers.Integral) and not isinstance(item, bool):
        index, count = int(item), len(model.layers)
        if not -count <= index < count:
            raise ValueError(
                f"`after` must hold indices from {-count} to {count - 1}, those of "
                f"`model.layers`. {received}"
            )
        return model.layers[index].name
    if not isinstance(item, str):
        raise ValueError(
            "`after` must hold names of layers, indices into `model.layers` or "
            f"`CutPoint`s; {item!r} is none. {received}"
        )
    if item not in places:
        close = difflib.get_close_matches(item, places, n=3)
        hint = f"; close to it: {_listed(close)}" if close else ""
        raise ValueError(
            f"`after` must name layers of the model {model.name!r}, which has no "
            f"{item!r}{hint}. {received}"
        )
    return item


def _nearest(name: str, places: dict[str, _Place]) -> str:
    """The cut points on both sides of a layer, in words."""
    order = list(places)
    index = order.index(name)
    before = [other for other in order[:index] if not places[other].problem]
    after = [other for other in order[index + 1 :] if not places[other].problem]
    near = [f"{before[-1]!r} before it"] if before else []
    near += [f"{after[0]!r} after it"] if after else []
    return f"nearest cut points: {', '.join(near)}" if near else "no layer is one"


def resolve_cuts(
    model: keras.Model, after: Sequence[str | int | CutPoint]
) -> list[str]:
    """The names of the layers after which a model is to be cut.

    Args:
        model: As for `cut_points`.
        after: Names of layers, indices into `model.layers` (negative ones count from
            the end) or `CutPoint`s, in the order of execution.

    Returns:
        Names of layers.

    Raises:
        ValueError: If a layer is unknown or no cut point, or if they are none, repeated
            or in another order; or if `cut_points` refuses the model.
    """
    received = f"Received: after={after!r}"
    if not isinstance(after, (list, tuple)) or not after:
        raise ValueError(f"`after` must be a non-empty list of layers. {received}")
    places = _places(model)
    names = [_name_of(item, model, places, received) for item in after]
    for name in names:
        if problem := places[name].problem:
            raise ValueError(
                f"`after` must hold cut points; {name!r} is none: {problem} "
                f"({_nearest(name, places)}). {received}"
            )
    ordered = [name for name in places if name in names]
    if names != ordered:
        raise ValueError(
            "`after` must hold each layer once, in the order of execution: "
            f"{ordered}. {received}"
        )
    return names


def split(model: keras.Model, names: Sequence[str]) -> list[Part]:
    """Cut a model into stages that share its layers and weights.

    The model itself stays as it is, and can be split again, elsewhere too.

    Args:
        model: As for `cut_points`.
        names: Of the layers to cut after, as `resolve_cuts` returns them.

    Returns:
        One model more than `names`: from the model's input to the output of the first
        layer, from there to the second, ..., and from the last to the model's output.

    Raises:
        ValueError: If `resolve_cuts` refuses the model or the names.
    """
    graph, places = flat_graph(model), _places(model)
    assert graph is not None
    # Of another reading of the model: the calls are the same, their tensors are not.
    ends = [places[name].index + 1 for name in resolve_cuts(model, names)]
    ends.append(len(graph.calls))
    parts, start, inputs = [], 0, graph.inputs
    for number, end in enumerate(ends):
        last = end == len(graph.calls)
        output = graph.outputs[0] if last else graph.calls[end - 1].outputs[0]
        stretch = Stretch(inputs, graph.calls[start:end], output)
        parts.append(Part(stretch, name=f"{model.name}_stage_{number}"))
        start, inputs = end, (output,)
    return parts
