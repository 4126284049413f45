"""Copies of a net's layers in which those that decide are rounded too, or none is."""

from collections.abc import Collection
from typing import Any

import keras

from keras_dyngate._copying import made_anew
from keras_dyngate._graph import flat_graph
from keras_dyngate.layers import ExitHead, GatedResidual
from keras_dyngate.layers.dynamic_layer import DynamicLayer
from keras_dyngate.layers.gated_chain import GatedChain
from keras_dyngate.models.gating.rebuilding import Copies
from keras_dyngate.quantization.fake_quantize import FakeQuantize
from keras_dyngate.quantization.rewriting import rounded_inside


class SwitchedCopies(Copies):
    """Copies whose gated blocks are all `quantized`, or all are not.

    A subclass says which, and gives `net_inside`: a copy of a net inside another, whose
    layers have names of their own, from the net, copies for it, and names to keep.
    """

    quantized: bool

    def rounds(self, layer: Any) -> bool:
        """Whether the copy of a gated block is rounded."""
        return self.quantized and id(layer) not in self.in_float

    def net_inside(
        self, model: keras.Model, copies: Any, keep_float: Collection[str]
    ) -> keras.Model:
        raise NotImplementedError

    def layer(self, layer: Any, name: str) -> Any:
        if isinstance(layer, GatedResidual):
            stays = [] if self.rounds(layer) else _names(layer.body)
            gate, body = self.same(layer.layer_gate), self.body(layer.body, stays)
            return GatedResidual(body, gate, quantized=self.rounds(layer), name=name)
        if isinstance(layer, GatedChain):
            changed = {"name": name, "quantized": self.rounds(layer)}
            made = made_anew(layer, lambda config: {**config, **changed})
            self.note(made, layer)
            return made
        return super().layer(layer, name)

    def same(self, layer: Any) -> Any:
        """A layer of the same config and name."""
        made = made_anew(layer, lambda config: config)
        self.note(made, layer)
        return made

    def head(self, gate: ExitHead, keep_float: Collection[str] = ()) -> ExitHead:
        """A head of an exit; layers of it that stay in float32 may be named."""
        body = self.body(gate.body, keep_float)
        return made_anew(gate, lambda config: {**config, "body": body})

    def body(self, model: keras.Model, keep_float: Collection[str] = ()) -> keras.Model:
        """A net inside another."""
        inside = type(self)()
        made = self.net_inside(model, inside, keep_float)
        self._pairs += inside._pairs
        return made

    def fill(self) -> None:
        for made, layer in self._pairs:
            pairs = zip(own_weights(made), own_weights(layer), strict=True)
            for ours, theirs in pairs:
                ours.assign(theirs)


class RoundedCopies(SwitchedCopies):
    """Copies whose gated blocks compute as an int8 file will."""

    quantized = True

    def layer(self, layer: Any, name: str) -> Any:
        known = isinstance(layer, (GatedChain, GatedResidual))
        if isinstance(layer, DynamicLayer) and not known and self.rounds(layer):
            raise ValueError(
                "`model` must hold gated blocks that are a GatedChain or GatedResidual, "
                "or name others in `keep_float`. "
                f"Received: {layer.name!r}, a {type(layer).__name__}"
            )
        return super().layer(layer, name)

    def net_inside(
        self, model: keras.Model, copies: Any, keep_float: Collection[str]
    ) -> keras.Model:
        return rounded_inside(model, copies, keep_float, model.name)


def _names(model: keras.Model) -> list[str]:
    """Of all that a net calls."""
    graph = flat_graph(model)
    return [call.operation.name for call in graph.calls] if graph else []


def own_weights(layer: keras.Layer) -> list[Any]:
    """The weights of a layer but for the ranges of roundings in it."""
    ranges = {
        id(weight)
        for inner in layer._flatten_layers()
        if isinstance(inner, FakeQuantize)
        for weight in inner.weights
    }
    return [weight for weight in layer.weights if id(weight) not in ranges]
