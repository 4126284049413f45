"""Raw class scores of a classifier: what it computes before its softmax or sigmoid."""

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_dyngate._copying import same_but
from keras_dyngate._graph import Call, FlatGraph

# By name of the function, of the layer and of the operator.
_SQUASHING = ("softmax", "sigmoid", "hard_sigmoid")
_HANDED_THROUGH = ("Identity", "Dropout", "ActivityRegularization")


def _activation(operation: Any) -> Any:
    return getattr(operation, "activation", None)


def _squashes(operation: Any) -> bool:
    """Whether a whole operation is nothing but a softmax or sigmoid."""
    if isinstance(operation, keras.layers.Activation):
        return _named(_activation(operation))
    name = type(operation).__name__.lower().replace("hardsigmoid", "hard_sigmoid")
    return name in _SQUASHING and len(operation_weights(operation)) == 0


def operation_weights(operation: Any) -> list[Any]:
    """Weights of a layer; an operator has none."""
    return list(getattr(operation, "weights", []))


def _named(function: Any) -> bool:
    return getattr(function, "__name__", "") in _SQUASHING


def _hands_through(operation: Any) -> bool:
    if type(operation).__name__ in _HANDED_THROUGH:
        return True
    linear = getattr(_activation(operation), "__name__", "") == "linear"
    return isinstance(operation, keras.layers.Activation) and linear


def last_calls(graph: FlatGraph) -> Iterator[Call]:
    """From the output backwards: what squashes or hands through, and the call before."""
    tensor = graph.outputs[0]
    made = {id(x): call for call in graph.calls for x in call.outputs}
    while (call := made.get(id(tensor))) is not None:
        yield call
        if not (_squashes(call.operation) or _hands_through(call.operation)):
            return
        if len(call.inputs) != 1:
            return
        (tensor,) = call.inputs


def squashing_call(graph: FlatGraph) -> Call | None:
    """The call that turns raw scores into probabilities at a model's end, if any.

    Looked for from the output backwards, through what hands numbers through: in nested
    heads, and before an Identity.
    """
    for call in last_calls(graph):
        if _squashes(call.operation) or _named(_activation(call.operation)):
            return call
    return None


def is_softmax(operation: Any) -> bool:
    """Whether what `squashing_call` found makes its outputs sum to 1."""
    names = type(operation).__name__, getattr(_activation(operation), "__name__", "")
    return "softmax" in (name.lower() for name in names)


def without_activation(operation: Any) -> Any:
    """The same layer, its variables shared, without its activation."""
    if _squashes(operation):
        return lambda x, **kwargs: x
    return same_but(operation, activation=keras.activations.linear)


def raw_operation(graph: FlatGraph) -> Callable[[Call], Any]:
    """What `Part` and `run_calls` are to run, so that the net ends in raw scores.

    The model itself stays as it is.
    """
    last = squashing_call(graph)
    raw = None if last is None else without_activation(last.operation)
    return lambda call: raw if call is last else call.operation
