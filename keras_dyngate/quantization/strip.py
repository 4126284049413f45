"""A quantize-aware net without its roundings."""

import dataclasses
from collections.abc import Collection
from typing import Any

import keras

from keras_dyngate._graph import Call, flat_graph, run_calls
from keras_dyngate.layers import ExitHead
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.gating.rebuilding import inputs_like, model_like
from keras_dyngate.quantization.copies import SwitchedCopies
from keras_dyngate.quantization.fake_quantize import FakeQuantize, is_quantize_aware
from keras_dyngate.quantization.quantized_layer import FloatLayer, QuantizedLayer
from keras_dyngate.quantization.slices import switched_slices


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
    if not is_quantize_aware(model):
        raise ValueError(
            "`model` must be one that `quantize_aware` made. "
            f"Received: {getattr(model, 'name', model)!r}"
        )
    copies = BareCopies()
    if isinstance(model, EarlyExitModel):
        made = _bare_exits(model, copies)
    elif isinstance(model, AnytimeModel):
        made = switched_slices(model, False)
    else:
        made = copies.net(model)[0]
    copies.fill()
    return made


class BareCopies(SwitchedCopies):
    """Copies of layers without roundings."""

    quantized = False

    def net_inside(
        self, model: keras.Model, copies: Any, keep_float: Collection[str]
    ) -> keras.Model:
        return copies.net(model)[0]

    def net(self, model: keras.Model) -> tuple[keras.Model, dict[str, str]]:
        """A functional net, and by each rounding's path the layer that it was behind."""
        graph = flat_graph(model)
        assert graph is not None
        inputs = inputs_like(graph)
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
        outputs = [table[id(x)] for x in graph.outputs]
        return model_like(model, inputs, outputs), names


def _bare(call: Call) -> Call:
    """A call of a quantized layer as one of what that holds."""
    if not isinstance(call.operation, (FloatLayer, QuantizedLayer)):
        return call
    layer = call.operation.layer
    return dataclasses.replace(call, operation=layer, path=layer.name)


def _bare_exits(model: EarlyExitModel, copies: BareCopies) -> EarlyExitModel:
    """A net with exits."""
    trunk, names = copies.net(model.trunk)
    gates = [
        copies.head(gate) if isinstance(gate, ExitHead) else copies.same(gate)
        for gate in model.gates
    ]
    after = [
        trunk.inputs[0].name if stage.at_input else names.get(path, path)
        for path, stage in zip(model.after, model.stages, strict=False)
    ]
    made = EarlyExitModel(trunk, after, gates, combine=model.combine, name=model.name)
    made.thresholds, made.mixing = model.thresholds.tolist(), model.mixing
    return made
