"""A functional model made anew from its calls, with other layers in some places."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_dyngate._copying import made_anew, same_but
from keras_dyngate._graph import Call, FlatGraph, graph_of, run_calls
from keras_dyngate.layers import SqueezeExcite
from keras_dyngate.models.gating.regions import Link


class Copies:
    """Copies of layers and operators, each with a name of its own, made once.

    `fill` gives them their weights, when they are built.

    Attributes:
        in_float: Ids of what is not rounded in copies that are.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._pairs: list[tuple[Any, Any]] = []
        self._names: set[str] = set()
        self.in_float: set[int] = set()

    def name(self, wanted: str) -> str:
        """A name that nobody has yet."""
        found, number = wanted, 1
        while found in self._names:
            number += 1
            found = f"{wanted}_{number}"
        self._names.add(found)
        return found

    def of(self, call: Call) -> Any:
        """The copy of what a call calls."""
        operation = call.operation
        if id(operation) in self._made:
            return self._made[id(operation)]
        own = operation.name
        name = self.name(own if own not in self._names else call.path.replace("/", "_"))
        if isinstance(operation, keras.layers.Layer):
            made = self.layer(operation, name)
        else:
            made = same_but(operation, name=name, _inbound_nodes=[], _outbound_nodes=[])
        self._made[id(operation)] = made
        return made

    def layer(self, layer: Any, name: str) -> Any:
        """The copy of a layer."""
        made = _layer_copy(layer, name)
        self.note(made, layer)
        return made

    def linear(self, layer: Any) -> Any:
        """The copy of a layer, without its activation."""
        named = {"name": self.name(layer.name), "activation": "linear"}
        made = made_anew(layer, lambda config: {**config, **named})
        self.note(made, layer)
        return made

    def note(self, made: Any, layer: Any) -> None:
        """Let a layer that was made otherwise get another's weights too."""
        self._pairs.append((made, layer))

    def fill(self) -> None:
        """Give the copies their originals' weights."""
        for made, layer in self._pairs:
            made.set_weights(layer.get_weights())


class Sharing(Copies):
    """No copies: layers and operators themselves, in another graph."""

    def of(self, call: Call) -> Any:
        return call.operation

    def linear(self, layer: Any) -> Any:
        return same_but(layer, activation=keras.activations.linear)

    def fill(self) -> None:
        pass


def _layer_copy(layer: Any, name: str) -> Any:
    """A layer of the same config, without weights yet."""
    try:
        return made_anew(layer, lambda config: {**config, "name": name})
    except Exception as error:
        raise ValueError(
            "`model` must hold layers that `get_config` can make anew. Received: layer "
            f"{layer.name!r}, a {type(layer).__name__} ({type(error).__name__}: {error})"
        ) from error


def small_model(
    copies: Copies, calls: Sequence[Call], start: Any, end: Any, name: str
) -> keras.Model:
    """Some calls from one tensor to one other as a functional model of copies."""
    x = keras.Input(batch_shape=(None, *start.shape[1:]), dtype=start.dtype)
    table = {id(start): x}
    run_calls(calls, table, copies.of)
    return keras.Model(x, table[id(end)], name=copies.name(name))


def inputs_like(graph: FlatGraph) -> list[keras.KerasTensor]:
    """New inputs as those of a graph."""
    return [
        keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)
        for x in graph.inputs
    ]


def model_like(
    model: Any, inputs: list[Any], outputs: list[Any], name: str | None = None
) -> keras.Model:
    """A functional model whose inputs and outputs are nested as another's, and named so.

    Args:
        model: The other one.
        inputs, outputs: In order.
        name: Of the new model. None: the other one's.
    """
    found: Any = graph_of(model)
    return keras.Model(
        keras.tree.pack_sequence_as(found.input, inputs),
        keras.tree.pack_sequence_as(found.output, outputs),
        name=name or model.name,
    )


def rebuilt(
    model: keras.Model,
    graph: FlatGraph,
    copies: Copies,
    replaced: Iterable[tuple[Sequence[Call], Any, Callable[[Any], Any]]],
    name: str | None = None,
) -> keras.Model:
    """A copy of a model in which some calls are one other call each.

    Args:
        model: Functional.
        graph: Of its calls.
        copies: Makes the copies.
        replaced: Of each place its calls, the tensor they start from, and what makes,
            from that, the last call's output.
        name: Of the new model. None: the old one's.
    """
    begins = {id(calls[0]): (calls, start, make) for calls, start, make in replaced}
    left_out = {id(call) for calls, _, _ in begins.values() for call in calls[1:]}
    inputs = inputs_like(graph)
    table = {id(x): y for x, y in zip(graph.inputs, inputs, strict=True)}
    for call in graph.calls:
        if id(call) in begins:
            calls, start, make = begins[id(call)]
            table[id(calls[-1].outputs[0])] = make(table[id(start)])
        elif id(call) not in left_out:
            run_calls([call], table, copies.of)
    outputs = [table[id(x)] for x in graph.outputs]
    return model_like(model, inputs, outputs, name)


def as_layers(copies: Copies, start: Any, links: Iterable[Link]) -> list[Any]:
    """Links that follow a tensor as layers."""
    found = []
    for link in links:
        first, last = link.calls[0], link.calls[-1]
        if link.kind == "layer":
            found.append(copies.of(first))
        elif link.kind == "weigh":
            name = f"{first.path.replace('/', '_')}_body"
            means = first.outputs[0]
            body = small_model(
                copies, link.inside, means, link.inside[-1].outputs[0], name
            )
            found.append(SqueezeExcite(body, name=copies.name(f"{name}_weigh")))
        else:
            name = f"{first.path.replace('/', '_')}_each"
            found.append(small_model(copies, link.calls, start, last.outputs[0], name))
        start = link.output
    return found
