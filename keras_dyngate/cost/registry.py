"""Who knows what a layer or an operator costs: one entry for each kind.

    @register_macs(MyLayer)
    def macs(call):
        return math.prod(call.outputs[0].shape) * 9

Layers without an entry are opened: the layers and operators in their `call` are counted
in their place. So most layers of one's own need none; one that calls what Keras does
not see (`tf.nn`, `jax.numpy`) does, or a method `kernel_macs(input_shape)`.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np

from keras_dyngate._graph import Call

Count = Callable[[Call], int]
_C = TypeVar("_C", bound=Count)

_ENTRIES: dict[type, Count] = {}
OPERATORS: dict[str, Count] = {}  # of `keras.ops`, whose classes Keras keeps private


class NotCounted(Exception):
    """Nobody knows what this call costs."""


def free(call: Call) -> int:
    """Biases, normalization, activations, pooling, moves of data cost nothing."""
    return 0


def uncounted(call: Call) -> int:
    """An operator that is known to multiply and add, how often is not."""
    raise NotCounted(call.path)


def register_macs(*classes: type) -> Callable[[_C], _C]:
    """Decorator: `count(call)` gives the MACs of one call of such a layer.

    Args:
        *classes: Of `keras.Layer` or `keras.Operation`. A subclass with a `call` of its
            own is not meant.

    Returns:
        The decorator of a function that takes a call, for one image: `call.operation`
        is the layer, `call.inputs` and `call.outputs` are `keras.KerasTensor`s whose
        sizes are known, the batch (1) included; it returns an int.

    Raises:
        ValueError: For what is no such class.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.Operation)):
            raise ValueError(
                "`classes` must be classes of keras.Layer or keras.Operation. "
                f"Received: {cls!r}"
            )

    def register(count: _C) -> _C:
        _ENTRIES.update(dict.fromkeys(classes, count))
        return count

    return register


def of_keras(operation: Any) -> bool:
    """Whether Keras itself brings this layer or operator."""
    return type(operation).__module__.startswith("keras.")


def entry_of(operation: Any, inherited: bool = False) -> Count | None:
    """What counts a layer or an operator; None where it has to be opened.

    Args:
        operation: A layer or an operator.
        inherited: Whether a class with a `call` of its own is taken for its parent.
    """
    kind = type(operation)
    if of_keras(operation) and not isinstance(operation, keras.Layer):
        usual = uncounted if ".linalg" in kind.__module__ else free
        return OPERATORS.get(kind.__name__, usual)
    for cls in kind.__mro__:
        if cls in _ENTRIES:
            same = kind.call is cls.call  # type: ignore[attr-defined]
            return _ENTRIES[cls] if same or inherited or cls is kind else None
    return None


def volume(x: Any) -> int:
    """Numbers in a tensor, a weight or an array."""
    return math.prod(shape_of(x))


def shape_of(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def arguments(call: Call) -> dict[str, Any]:
    """What a call was made with, by the names in the signature of `call`."""
    signature = inspect.signature(call.operation.call)
    return dict(signature.bind(*call.args, **call.kwargs).arguments)


def first_argument(call: Call) -> Any:
    """What a layer is called on: a tensor, or several."""
    return call.args[0] if call.args else next(iter(call.kwargs.values()))
