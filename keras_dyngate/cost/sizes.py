"""Calls at the sizes of one image: the batch is 1 and every axis is known.

An operator may mix the batch with other axes (windows of a map, steps of a sequence):
only with a batch of 1 is that seen in the shapes.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_dyngate._graph import Call
from keras_dyngate.cost.operators import einsum_labels
from keras_dyngate.cost.registry import of_keras


def one_image(calls: Iterable[Call], whole: bool = True) -> Iterator[Call]:
    """The same calls, one after the other, for a batch of 1.

    Args:
        calls: In the order of execution, as `keras_dyngate._graph.flat_graph` has them.
        whole: Whether they start with images: their batch is 1 then. Otherwise a batch
            that is known stays as it is.
    """
    table: dict[int, keras.KerasTensor] = {}

    def known(x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor):
            return x
        if id(x) not in table:
            table[id(x)] = _batched(x, 1 if whole or not x.shape else x.shape[0])
        return table[id(x)]

    for call in calls:
        args, kwargs = keras.tree.map_structure(known, (call.args, call.kwargs))
        inputs = tuple(known(x) for x in call.inputs)
        sized = dataclasses.replace(call, args=args, kwargs=kwargs, inputs=inputs)
        outputs = _outputs(call, sized)
        table |= {id(x): y for x, y in zip(call.outputs, outputs, strict=True)}
        yield dataclasses.replace(sized, outputs=outputs)


def _batched(x: keras.KerasTensor, batch: int | None = 1) -> keras.KerasTensor:
    shape = (batch or 1, *x.shape[1:]) if x.shape else ()
    return keras.KerasTensor(shape, dtype=x.dtype)


def _outputs(call: Call, sized: Call) -> tuple[keras.KerasTensor, ...]:
    """What a call gives, at the sizes of its inputs."""
    operation = call.operation
    if isinstance(operation, keras.layers.EinsumDense):  # may not know all of its axes
        shapes = sized.inputs[0].shape, operation.kernel.shape
        _, output, sizes = einsum_labels(operation.equation, shapes)
        return (keras.KerasTensor([sizes[x] for x in output], call.outputs[0].dtype),)
    plain = isinstance(operation, keras.Layer) and of_keras(operation)
    if plain and not isinstance(operation, (keras.layers.Lambda, keras.Model)):
        pairs = list(zip(call.inputs, sized.inputs, strict=True))
        batches = {y.shape[0] for _, y in pairs if y.shape}
        # A layer of Keras leaves the batch where it is.
        if len(batches) == 1 and all(x.shape[1:] == y.shape[1:] for x, y in pairs):
            return tuple(_batched(x, *batches) for x in call.outputs)
    try:
        spec = operation.compute_output_spec(*sized.args, **sized.kwargs)
    except Exception:  # a layer's own code, which knows another batch only
        return tuple(map(_batched, call.outputs))
    outputs = tuple(keras.tree.flatten(spec))
    same = len(outputs) == len(call.outputs)
    return outputs if same else tuple(map(_batched, call.outputs))
