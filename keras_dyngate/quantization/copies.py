"""Copies of a net's layers, in which those that decide are rounded too."""

from collections.abc import Collection
from typing import Any

import keras

from keras_dyngate._copying import made_anew
from keras_dyngate._graph import flat_graph
from keras_dyngate.layers import GatedResidual
from keras_dyngate.layers.dynamic_layer import DynamicLayer
from keras_dyngate.layers.gated_chain import GatedChain
from keras_dyngate.models.gating.rebuilding import Copies
from keras_dyngate.quantization.fake_quantize import FakeQuantize


class RoundedCopies(Copies):
    """Copies whose gated blocks compute as an int8 file will."""

    def layer(self, layer: Any, name: str) -> Any:
        if isinstance(layer, GatedResidual):
            return self.residual(layer, name)
        if isinstance(layer, GatedChain):
            made = made_anew(layer, lambda c: {**c, "name": name, "quantized": True})
            self.note(made, layer)
            return made
        if isinstance(layer, DynamicLayer):
            raise ValueError(
                "`model` must hold gated blocks that are a GatedChain or GatedResidual, "
                "or name others in `keep_float`. "
                f"Received: {layer.name!r}, a {type(layer).__name__}"
            )
        return super().layer(layer, name)

    def residual(self, layer: GatedResidual, name: str) -> GatedResidual:
        """A gated residual whose body is rounded."""
        gate = made_anew(layer.layer_gate, lambda config: config)
        self.note(gate, layer.layer_gate)
        body = self.body(layer.body)
        return GatedResidual(body, gate, quantized=True, name=name)

    def body(self, model: keras.Model, keep_float: Collection[str] = ()) -> keras.Model:
        """A net inside another, rounded; what it takes is rounded already."""
        from keras_dyngate.quantization.rewriting import Rewriting

        graph = flat_graph(model)
        assert graph is not None
        inside = type(self)()  # names of its own
        x = keras.Input(batch_shape=graph.inputs[0].shape, dtype=graph.inputs[0].dtype)
        rewriting = Rewriting(graph, inside, keep_float)
        rewriting.grid.add(id(graph.inputs[0]))
        rewriting.squashing = None  # nothing ends here
        made = keras.Model(x, rewriting.run([x])[0], name=model.name)
        self._pairs += inside._pairs
        return made

    def fill(self) -> None:
        for made, layer in self._pairs:
            pairs = zip(own_weights(made), layer.weights, strict=True)
            for ours, theirs in pairs:
                ours.assign(theirs)


def own_weights(layer: keras.Layer) -> list[Any]:
    """The weights of a layer but for the ranges of roundings in it."""
    ranges = {
        id(weight)
        for inner in layer._flatten_layers()
        if isinstance(inner, FakeQuantize)
        for weight in inner.weights
    }
    return [weight for weight in layer.weights if id(weight) not in ranges]
