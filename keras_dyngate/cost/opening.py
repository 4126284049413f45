"""The calls that a call is made of: those of a layer that holds layers.

A layer's `call` is run once with symbolic tensors, as Keras runs it for a functional
model; what it calls is read from their history. Nothing is computed, and the marks that
Keras leaves at the layers are taken away again.
"""

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

from keras_dyngate._graph import Call, flat_graph, graph_of
from keras_dyngate.cost.registry import first_argument

_LOCK = threading.RLock()  # Keras writes down calls at layers that threads may share


def opened(call: Call) -> list[tuple[Call, int]] | None:
    """What a call of a layer calls, and how many times it does.

    Args:
        call: Of a layer or an operator, for one image: sizes with the batch, 1.

    Returns:
        Calls in the order of execution, named behind this one's path; None where a
        `call` cannot be run with symbolic tensors: it uses a backend's own functions.
    """
    layer = call.operation
    if isinstance(layer, keras.Model) and graph_of(layer) is not None:
        return [(_behind(call.path, x), 1) for x in _graph_calls(call)]
    if isinstance(layer, (keras.layers.TimeDistributed, keras.layers.RNN)):
        batch, steps, *rest = call.inputs[0].shape
        step = keras.KerasTensor((batch, *rest), dtype=call.inputs[0].dtype)
    if isinstance(layer, keras.layers.TimeDistributed):
        return [(call_of(layer.layer, step, path=_path(call, layer.layer)), steps)]
    if isinstance(layer, keras.layers.RNN):
        states = keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype),
            layer.get_initial_state(batch),
        )
        cell = call_of(layer.cell, step, states, path=_path(call, layer.cell))
        return [(cell, steps)]
    found = _traced(call)
    return None if found is None else [(x, 1) for x in found]


def call_of(operation: Any, *args: Any, path: str = "", **kwargs: Any) -> Call:
    """A call with these symbolic tensors; its outputs where they can be told."""
    tensors = tuple(x for x in keras.tree.flatten((args, kwargs)) if _symbolic(x))
    outputs: tuple[Any, ...] = ()
    with contextlib.suppress(Exception):  # then it is opened without them
        spec = operation.compute_output_spec(*args, **kwargs)
        outputs = tuple(keras.tree.flatten(spec))
    return Call(operation, path, args, kwargs, tensors, outputs, outputs)


def as_built(layer: keras.Layer, path: str) -> list[Call]:
    """The layers that a layer holds, each called once as it was built."""
    calls = []
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        shape = (inner.get_build_config() or {}).get("input_shape") or ()
        if shape and not any(isinstance(side, (tuple, list)) for side in shape):
            x = keras.KerasTensor((1, *shape[1:]))
            calls.append(call_of(inner, x, path=f"{path}/{inner.name}".lstrip("/")))
    return calls


def built_for(model: Any) -> list[Any]:
    """The shapes of a subclassed model's inputs, argument by argument."""
    config = model.get_build_config() or {}
    if config.get("input_shape") is not None:
        return [config["input_shape"]]
    return list(config.get("shapes_dict", {}).values())


def _graph_calls(call: Call) -> tuple[Call, ...]:
    """Those of a nested functional model."""
    given = keras.tree.flatten(first_argument(call))
    graph = flat_graph(call.operation, [tuple(x.shape) for x in given])
    assert graph is not None
    return graph.calls


def _path(call: Call, inner: Any) -> str:
    return f"{call.path}/{getattr(inner, 'name', type(inner).__name__)}".lstrip("/")


def _behind(path: str, call: Call) -> Call:
    return dataclasses.replace(call, path=f"{path}/{call.path}".lstrip("/"))


def _symbolic(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


def _fresh(x: Any) -> Any:
    if not _symbolic(x):
        return x
    return keras.KerasTensor(x.shape, dtype=x.dtype)


def _traced(call: Call) -> list[Call] | None:
    """The calls inside, up to the outputs."""
    args, kwargs = keras.tree.map_structure(_fresh, (call.args, call.kwargs))
    with _LOCK, _without_marks(call.operation):
        try:
            with keras.StatelessScope():  # what is assigned inside is forgotten
                outputs = call.operation.call(*args, **kwargs)
        except Exception:  # of any kind: it is the layer's own code that ran
            return None
        return list(_named(call.path, _history(keras.tree.flatten(outputs))))


@contextlib.contextmanager
def _without_marks(operation: Any) -> Iterator[None]:
    """Calls made inside are not kept at the layers."""
    layers: list[Any] = []  # a cell of a recurrent layer may be any object
    if isinstance(operation, keras.Layer):
        layers = list(operation._flatten_layers())
    marks = [marks for x in layers for marks in (x._inbound_nodes, x._outbound_nodes)]
    before = [len(x) for x in marks]
    try:
        yield
    finally:
        for found, count in zip(marks, before, strict=True):
            del found[count:]


def _history(outputs: list[Any]) -> Iterator[Any]:
    """Keras's records of the calls behind some tensors, the first call first."""
    stack: list[tuple[Any, bool]] = [(_maker(x), False) for x in reversed(outputs)]
    done = set()
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node is not None and id(node) not in done:
            done.add(id(node))
            stack.append((node, True))
            makers = [_maker(x) for x in node.arguments.keras_tensors]
            stack += [(maker, False) for maker in reversed(makers)]


def _maker(x: Any) -> Any:
    history = getattr(x, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    return history.operation._inbound_nodes[history.node_index]


def _named(path: str, nodes: Iterator[Any]) -> Iterator[Call]:
    """Layers by their names, operators by their kinds: "matmul", "matmul_2"."""
    times: Counter[str] = Counter()
    for node in nodes:
        name = node.operation.name
        if not isinstance(node.operation, keras.Layer):
            kind = type(node.operation).__name__.lower()
            times[kind] += 1
            name = kind if times[kind] == 1 else f"{kind}_{times[kind]}"
        given, outputs = node.arguments, tuple(node.outputs)
        inputs = tuple(given.keras_tensors)
        path_of = f"{path}/{name}".lstrip("/")
        yield Call(
            node.operation, path_of, given.args, given.kwargs, inputs, outputs, outputs
        )
