"""Variables of any functional net by its layers' names, wherever gates hold the layers.

`wide.kernel` is that of the layer `wide`, in a plain net as within a `GatedSequence` or
the body of a `GatedResidual`; of a second layer of the name, `wide:2.kernel`. The last
kernel's layer is called `fc`, as the classifier is elsewhere.
"""

from collections.abc import Iterator
from typing import Any

import keras

from keras_dyngate._graph import flat_graph
from keras_dyngate.layers import DynamicLayer
from keras_dyngate.layers.links import mixes


def layer_slots(model: keras.Model) -> dict[str, Any]:
    """The variables of a net's trunk by name, in the order of execution.

    Raises:
        ValueError: For a model without a graph of layers.
    """
    if flat_graph(model) is None:
        raise ValueError(
            "Expected a functional or Sequential model. "
            f"Received: {model.name!r}, a {type(model).__name__}"
        )
    found: dict[int, Any] = {}
    for layer in _executed(model):
        found.setdefault(id(layer), layer)
    layers = list(found.values())
    last = [layer for layer in layers if mixes(layer) or _is_dense(layer)][-1:]
    counts: dict[str, int] = {}
    slots = {}
    for layer in layers:
        name = layer.name
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            name = f"{name}:{counts[name]}"
        for variable in layer.weights:
            slots[f"{'fc' if layer in last else name}.{variable.name}"] = variable
    return slots


def _is_dense(layer: Any) -> bool:
    """Whether it is a dense layer, also one that ends in a softmax."""
    return isinstance(layer, keras.layers.Dense)


def _executed(model: keras.Model) -> Iterator[Any]:
    """The layers with weights, in the order of execution, gates apart."""
    graph = flat_graph(model)
    assert graph is not None
    for call in graph.calls:
        yield from _opened(call.operation)


def _opened(operation: Any) -> Iterator[Any]:
    """A layer, or those inside where a gate or a model holds them."""
    if isinstance(operation, keras.Model):
        yield from _executed(operation)
    elif isinstance(operation, DynamicLayer):
        for part in operation.parts():
            yield from _opened(part)
    elif isinstance(operation, keras.Layer) and operation.weights:
        held = operation._flatten_layers(include_self=False, recursive=False)
        models = [layer for layer in held if isinstance(layer, keras.Model)]
        if not models:
            yield operation
        for model in models:
            yield from _executed(model)
