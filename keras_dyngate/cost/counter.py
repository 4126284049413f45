"""One counter for every model, static or dynamic.

Nothing is run, and nothing in the model is changed. What a layer or an operator costs
stands in a registry, see `keras_dyngate.cost.registry`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_dyngate._checks import built_model
from keras_dyngate._graph import Call, flat_graph
from keras_dyngate._warn import warn
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.counting import Counting, options_of
from keras_dyngate.cost.opening import as_built, built_for, call_of, opened
from keras_dyngate.cost.sizes import one_image


def kernel_macs(
    layer: keras.Layer, input_shape: Any, options: Mapping[str, int] | None = None
) -> int | None:
    """MACs of one layer for one image.

    Args:
        layer: A built layer.
        input_shape: Shape it is called with, batch first.
        options: Which sub-network or slices a nested or sliced layer is called for.

    Returns:
        An int, everything inside summed up; 0 for a layer without kernels; None where
        something in it cannot be counted.

    Raises:
        ValueError: If the image size is unknown.
    """
    x = keras.KerasTensor((1, *input_shape[1:]), dtype=layer.input_dtype)
    counting = Counting()
    counting.add_all([call_of(layer, x, path=layer.name, **options or {})])
    return None if counting.unknown else sum(row.macs for row in counting.rows)


def each_macs(calls: Iterable[Call]) -> list[int]:
    """MACs of each call of a flat graph for one image, everything open.

    Args:
        calls: In the order of execution, from the model's inputs on, as
            `keras_dyngate._graph.flat_graph` returns them.

    Returns:
        For each call the sum of its rows in `count_macs`, controllers included.

    Raises:
        ValueError: If the image size is unknown.
    """
    counting, found = Counting(), []
    for call in one_image(calls):
        start = len(counting.rows)
        counting.add(call)
        found.append(sum(row.macs for row in counting.rows[start:]))
    return found


def call_macs(call: Call) -> int:
    """MACs of one call of a flat graph for one image; see `each_macs`."""
    return each_macs([call])[0]


def part_profile(calls: Iterable[Call]) -> CostTable:
    """MACs of some calls of a flat graph for one image, without a warning."""
    counting = Counting()
    counting.add_all(calls)
    return counting.profile()


def _model_calls(model: Any) -> tuple[list[Call], tuple[str, ...]]:
    """The calls a model is made of; its name where they cannot be told for certain."""
    graph = flat_graph(model)
    if graph is not None:
        return list(graph.calls), ()
    args = [
        keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor((1, *shape[1:]), dtype=model.input_dtype),
            shapes,
        )
        for shapes in built_for(model)
    ]
    if args:
        tensors = tuple(keras.tree.flatten(args))
        found = opened(Call(model, "", tuple(args), {}, tensors, (), ()))
        if found is not None:
            return [call for call, _ in found], ()
    return as_built(model, ""), (model.name,)


def used_parameters(model: keras.Model) -> int:
    """Trainable parameters that a model reads.

    Of nested and sliced layers only the part that the calls in this model are for. A
    layer that is called several times counts once, by its first call.

    Args:
        model: A built Keras model.
    """
    found: dict[int, int] = {}
    for call in _model_calls(model)[0]:
        layer = call.operation
        if not isinstance(layer, keras.Layer):
            continue
        if hasattr(layer, "used_parameters"):
            shape = tuple(call.inputs[0].shape)
            options = options_of(call, layer.used_parameters)
            count = layer.used_parameters(shape, **options)
        else:
            count = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        found.setdefault(id(layer), count)
    return sum(found.values())


def model_profile(model: Any) -> CostTable:
    """`count_macs` without checks and without a warning."""
    if hasattr(model, "mac_profile"):
        return model.mac_profile()
    calls, unknown = _model_calls(model)
    profile = part_profile(calls)
    return dataclasses.replace(profile, unknown=(*unknown, *profile.unknown))


def count_macs(model: keras.Model) -> CostTable:
    """Count the multiply-adds (MACs) of a model for one image.

    Kernels count (convolutions, dense and recurrent layers), and products of tensors
    that are summed up (attention, `matmul`, `einsum`). Biases, normalization,
    activations, pooling and element by element arithmetic cost 0. Layers that hold
    layers, and nested models, are opened. Controllers are listed apart. Whether a layer
    is trainable makes no difference.

    A layer of one's own that calls what Keras does not see is counted with
    `keras_dyngate.cost.register_macs`, or by a method
    `kernel_macs(input_shape)` that returns its MACs for one image.

    Args:
        model: A built Keras model whose image size is known; of any rank, with any
            number of inputs.

    Returns:
        A `CostTable`; its `unknown` names what could not be counted, and one warning
        says so.

    Raises:
        ValueError: If the model is not built, its image size is unknown, or it holds a
            net with early exits.

    Example:
        ```python
        net = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None)
        print(kd.count_macs(net).total)
        ```
    """
    built_model("model", model)
    profile = model_profile(model)
    if profile.unknown:
        warn(
            "MACs of these are not counted, their kind is unknown (see "
            f"keras_dyngate.cost.register_macs): {list(profile.unknown)}",
        )
    return profile
