"""Cutting a classifier at chosen cut points: what a user means, and the stages.

names = resolve_cuts(model, [base.get_layer("block_6_expand_relu"), "top_relu"])
first, second, last = split(model, names)
"""

import difflib
import numbers
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._graph import FlatGraph, Part, Stretch
from keras_dyngate.models.exits.cut_points import (
    NOTHING,
    CutPoint,
    Place,
    checked_graph,
    input_place,
    listed,
    places,
)


class _Resolver:
    """Finds the path that an item of `after` means."""

    def __init__(self, model: Any, graph: FlatGraph, received: str) -> None:
        self.model, self.graph, self.received = model, graph, received
        self.places = places(graph)
        # Who makes a tensor; a nested model stands for its last one.
        self.maker = {id(x): c.path for c in graph.calls for x in c.outputs}
        self.maker |= {id(x): input_place(graph) for x in graph.inputs}

    def path_of(self, item: Any) -> str:
        if isinstance(item, CutPoint):
            item = item.layer
        if isinstance(item, numbers.Integral) and not isinstance(item, bool):
            item = self._layer_at(int(item))
        if isinstance(item, str):
            return self._named(item)
        if isinstance(item, keras.KerasTensor):
            return self._of_tensor(item)
        if isinstance(item, keras.Operation):
            return self._of_object(item)
        raise ValueError(
            "`after` must hold names or paths of layers, layers, their tensors, indices "
            f"into `model.layers` or `CutPoint`s; {item!r} is none. {self.received}"
        )

    def _layer_at(self, index: int) -> Any:
        count = len(self.model.layers)
        if not -count <= index < count:
            raise ValueError(
                f"`after` must hold indices from {-count} to {count - 1}, those of "
                f"`model.layers`. {self.received}"
            )
        return self.model.layers[index]

    def _named(self, name: str) -> str:
        """A path, or the end of one that is the only one to end so."""
        if name == self.graph.inputs[0].name:
            name = input_place(self.graph)
        paths = [*self.places, *self.graph.models]
        if name in paths:
            return self._end(name)
        ends = [path for path in paths if path.endswith(f"/{name}")]
        if len(ends) > 1:
            raise ValueError(
                f"`after` must say which {name!r} it means, by path: {listed(ends)}. "
                f"{self.received}"
            )
        if ends:
            return self._end(ends[0])
        held = [path for path in paths if path.endswith(f"_{name}")]  # gated_..., say
        close = held[:3] or difflib.get_close_matches(name, paths, n=3)
        hint = f"; close to it: {listed(close)}" if close else ""
        raise ValueError(
            f"`after` must name layers of the model {self.model.name!r}, which has no "
            f"{name!r}{hint}. {self.received}"
        )

    def _end(self, path: str) -> str:
        """The layer at a nested model's end; any other path as it is."""
        if path in self.places:
            return path
        ends = self.graph.nested[path]
        if len(ends) > 1:
            raise self._called_often(path, len(ends))
        if len(ends[0]) > 1:
            raise ValueError(
                f"`after` must hold cut points; {path!r} is none: it has "
                f"{len(ends[0])} outputs. {self.received}"
            )
        return self.maker[id(ends[0][0])]

    def _of_object(self, layer: Any) -> str:
        paths = [call.path for call in self.graph.calls if call.operation is layer]
        paths += [path for path, held in self.graph.models.items() if held is layer]
        if isinstance(layer, keras.layers.InputLayer):
            return self._of_tensor(layer.output)
        if len(set(paths)) > 1:
            raise self._called_often(layer.name, len(paths))
        if not paths:
            raise ValueError(
                f"`after` must hold layers of the model {self.model.name!r}, which "
                f"does not call {layer.name!r}. {self.received}"
            )
        return self._end(paths[0])

    def _of_tensor(self, tensor: Any) -> str:
        found = self.graph.known_as.get(id(tensor), [])
        if len(found) > 1:
            raise self._called_often(self.maker[id(found[0])], len(found))
        if not found:
            raise ValueError(
                f"`after` must hold tensors of the model {self.model.name!r}, which "
                f"does not compute {tensor!r}. {self.received}"
            )
        return self.maker[id(found[0])]

    def _called_often(self, name: str, times: int) -> ValueError:
        return ValueError(
            f"`after` must hold cut points; {name!r} is none: it is called {times} "
            f"times. {self.received}"
        )


def _nearest(name: str, found: dict[str, Place]) -> str:
    """The cut points on both sides of a layer, in words."""
    order = list(found)
    index = order.index(name)
    before = [other for other in order[:index] if not found[other].problem]
    after = [other for other in order[index + 1 :] if not found[other].problem]
    near = [f"{before[-1]!r} before it"] if before else []
    near += [f"{after[0]!r} after it"] if after else []
    return f"nearest cut points: {', '.join(near)}" if near else "no layer is one"


def resolve_cuts(
    model: keras.Model, after: Sequence[Any], at_input: bool = False
) -> list[str]:
    """The paths of the layers after which a model is to be cut.

    Args:
        model: As for `cut_points`.
        after: In the order of execution: names or paths of layers, operators and nested
            models ("block_6_expand_relu" will do for "mobilenetv2/block_6_expand_relu"
            where no other layer is called so), the layers themselves, tensors of the
            model or of a nested one, indices into `model.layers` (negative ones count
            from the end), or `CutPoint`s. A nested model stands for its last layer.
        at_input: Whether the model's input may be the first of them, and layers without
            MACs after it: places for nets of their own.

    Returns:
        Names of layers, paths inside nested models.

    Raises:
        ValueError: If a layer is unknown or no cut point, or if they are none, repeated
            or in another order; or if `cut_points` refuses the model.
    """
    return list(_resolved(model, checked_graph(model), after, at_input))


def _resolved(
    model: keras.Model, graph: FlatGraph, after: Sequence[Any], at_input: bool
) -> dict[str, Place]:
    received = f"Received: after={after!r}"
    if not isinstance(after, (list, tuple)) or not after:
        raise ValueError(f"`after` must be a non-empty list of layers. {received}")
    resolver = _Resolver(model, graph, received)
    found = resolver.places
    names = [resolver.path_of(item) for item in after]
    for name in names:
        if at_input and found[name].problem == NOTHING:
            continue
        if problem := found[name].problem:
            raise ValueError(
                f"`after` must hold cut points; {name!r} is none: {problem} "
                f"({_nearest(name, found)}). {received}"
            )
    ordered = [name for name in found if name in names]
    if names != ordered:
        raise ValueError(
            "`after` must hold each layer once, in the order of execution: "
            f"{ordered}. {received}"
        )
    return {name: found[name] for name in names}


def split(
    model: keras.Model, after: Sequence[Any], at_input: bool = False
) -> list[Part]:
    """Cut a model into stages that share its layers and weights.

    The model itself stays as it is, and can be split again, elsewhere too.

    Args:
        model: As for `cut_points`.
        after, at_input: As for `resolve_cuts`. A part that ends at the input hands it on.

    Returns:
        One part more than there are cuts: from the model's input to the output of the
        first layer, from there to the second, ..., and from the last to the model's
        output.

    Raises:
        ValueError: If `resolve_cuts` refuses the model or the layers.
    """
    graph = checked_graph(model)
    cuts = _resolved(model, graph, after, at_input)
    ends = [place.index + 1 for place in cuts.values()]
    parts, start, inputs = [], 0, graph.inputs
    for number, end in enumerate([*ends, len(graph.calls)]):
        last = end == len(graph.calls)
        output = graph.outputs[0] if last else graph.calls[end - 1].outputs[0]
        if not end:
            output = graph.inputs[0]
        stretch = Stretch(inputs, graph.calls[start:end], output)
        parts.append(Part(stretch, name=f"{model.name}_stage_{number}"))
        start, inputs = end, (output,)
    return parts
