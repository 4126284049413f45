"""A quantize-aware net without its roundings."""

import dataclasses
from typing import Any

import keras

from keras_dyngate._copying import made_anew
from keras_dyngate._graph import Call, flat_graph, graph_of, run_calls
from keras_dyngate.layers import ExitHead, GatedResidual
from keras_dyngate.layers.gated_chain import GatedChain
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.gating.rebuilding import Copies
from keras_dyngate.quantization.copies import own_weights
from keras_dyngate.quantization.fake_quantize import FakeQuantize, is_quantize_aware
from keras_dyngate.quantization.quantized_layer import FloatLayer, QuantizedLayer


def strip_quantization(model: keras.Model) -> keras.Model:
    """The net that `quantize_aware` was given, with the weights learned since.

    Args:
        model: Of `quantize_aware`; it stays as it is.

    Returns:
        A model in float32, flat as that one.

    Raises:
        ValueError: For a model that is not quantize-aware.

    Example:
        ```python
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        convs = [keras.layers.Conv2D(8, 3), keras.layers.ReLU()]
        net = keras.Sequential([keras.Input((8, 8, 3)), *convs, *top])
        model = kd.quantize_aware(net)
        plain = kd.strip_quantization(model)  # computes what `net` does
        ```
    """
    if not isinstance(model, keras.Model) or not is_quantize_aware(model):
        raise ValueError(
            "`model` must be one that `quantize_aware` made. "
            f"Received: {getattr(model, 'name', model)!r}"
        )
    copies = BareCopies()
    if isinstance(model, EarlyExitModel):
        made = _bare_exits(model, copies)
    else:
        made = copies.net(model)[0]
    copies.fill()
    return made


class BareCopies(Copies):
    """Copies of layers without roundings."""

    def layer(self, layer: Any, name: str) -> Any:
        if isinstance(layer, GatedResidual):
            gate = made_anew(layer.layer_gate, lambda config: config)
            self.note(gate, layer.layer_gate)
            return GatedResidual(self.inner(layer.body), gate, name=name)
        if not isinstance(layer, GatedChain):
            return super().layer(layer, name)
        made = made_anew(layer, lambda c: {**c, "name": name, "quantized": False})
        self.note(made, layer)
        return made

    def inner(self, model: keras.Model) -> keras.Model:
        """A net inside another, names of its own."""
        inside = type(self)()
        made, _ = inside.net(model)
        self._pairs += inside._pairs
        return made

    def net(self, model: keras.Model) -> tuple[keras.Model, dict[str, str]]:
        """A functional net, and by each rounding's path the layer that it was behind."""
        graph = flat_graph(model)
        assert graph is not None
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)
            for x in graph.inputs
        ]
        table = {id(x): y for x, y in zip(graph.inputs, inputs, strict=True)}
        ends = {id(x): x.name for x in graph.inputs}
        names: dict[str, str] = {}
        for call in map(_bare, graph.calls):
            (output,) = call.outputs
            if isinstance(call.operation, FakeQuantize):
                table[id(output)] = table[id(call.inputs[0])]
                ends[id(output)] = names[call.path] = ends[id(call.inputs[0])]
            else:
                run_calls([call], table, self.of)
                ends[id(output)] = self.of(call).name
        found: Any = graph_of(model)
        made = keras.Model(
            keras.tree.pack_sequence_as(found.input, inputs),
            keras.tree.pack_sequence_as(
                found.output, [table[id(x)] for x in graph.outputs]
            ),
            name=model.name,
        )
        return made, names

    def fill(self) -> None:
        for made, layer in self._pairs:
            for ours, theirs in zip(made.weights, own_weights(layer), strict=True):
                ours.assign(theirs)


def _bare(call: Call) -> Call:
    """A call of a quantized layer as one of what that holds."""
    if not isinstance(call.operation, (FloatLayer, QuantizedLayer)):
        return call
    layer = call.operation.layer
    return dataclasses.replace(call, operation=layer, path=layer.name)


def _bare_gate(gate: Any, copies: BareCopies) -> Any:
    """A gate or head without roundings."""
    if isinstance(gate, ExitHead):
        body = copies.inner(gate.body)
        return made_anew(gate, lambda config: {**config, "body": body})
    made = made_anew(gate, lambda config: config)
    copies.note(made, gate)
    return made


def _bare_exits(model: EarlyExitModel, copies: BareCopies) -> EarlyExitModel:
    """A net with exits."""
    trunk, names = copies.net(model.trunk)
    gates = [_bare_gate(gate, copies) for gate in model.gates]
    after = [
        trunk.inputs[0].name if stage.at_input else names.get(path, path)
        for path, stage in zip(model.after, model.stages, strict=False)
    ]
    made = EarlyExitModel(trunk, after, gates, combine=model.combine, name=model.name)
    made.thresholds, made.mixing = model.thresholds.tolist(), model.mixing
    return made
