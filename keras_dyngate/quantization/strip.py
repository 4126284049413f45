"""A quantize-aware net without its roundings."""

import dataclasses
from typing import Any

import keras

from keras_dyngate._graph import Call, flat_graph, graph_of, run_calls
from keras_dyngate.models.gating.rebuilding import Copies
from keras_dyngate.quantization.fake_quantize import FakeQuantize, is_quantize_aware
from keras_dyngate.quantization.quantized_layer import QuantizedLayer


def strip_quantization(model: keras.Model) -> keras.Model:
    """The net that `quantize_aware` was given, with the weights learned since.

    Args:
        model: Of `quantize_aware`; it stays as it is.

    Returns:
        A functional model in float32, flat as that one.

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
    graph = flat_graph(model) if isinstance(model, keras.Model) else None
    if graph is None or not is_quantize_aware(model):
        raise ValueError(
            "`model` must be one that `quantize_aware` made. "
            f"Received: {getattr(model, 'name', model)!r}"
        )
    copies = Copies()
    inputs = [
        keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)
        for x in graph.inputs
    ]
    table = {id(x): y for x, y in zip(graph.inputs, inputs, strict=True)}

    def plain(call: Call) -> Any:
        if isinstance(call.operation, FakeQuantize):
            return lambda x, **kwargs: x
        return copies.of(call)

    run_calls(map(_bare, graph.calls), table, plain)
    found: Any = graph_of(model)
    made = keras.Model(
        keras.tree.pack_sequence_as(found.input, inputs),
        keras.tree.pack_sequence_as(
            found.output, [table[id(x)] for x in graph.outputs]
        ),
        name=model.name,
    )
    copies.fill()
    return made


def _bare(call: Call) -> Call:
    """A call of a quantized layer as one of what that holds."""
    if not isinstance(call.operation, QuantizedLayer):
        return call
    layer = call.operation.layer
    return dataclasses.replace(call, operation=layer, path=layer.name)
