"""One counter for every model, static or dynamic.

Plain Keras layers are counted from their kernels and the shapes they were called with;
a dynamic layer gives its own rows (`mac_rows`). Nothing is run.
"""

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_dyngate._graph import Call, flat_graph
from keras_dyngate.cost.mac_row import MacRow
from keras_dyngate.cost.profile import MacProfile

_CONVS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_OPTIONS = ("k", "first", "last")  # arguments of a call that its cost depends on
_FREE = (keras.layers.BatchNormalization, keras.layers.Normalization)


def _positions(layer: Any, shape: Any, name: str) -> int:
    """Spatial positions of a channels-last or channels-first feature map."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    sides = shape[2:] if first else shape[1:-1]
    if any(side is None for side in sides):
        raise ValueError(
            "MACs can be counted only for a known image size; build the model with "
            f"`input_shape=(height, width, 3)`. Received: shape {tuple(shape)} at "
            f"layer {name!r}"
        )
    return math.prod(sides)


def kernel_macs(
    layer: keras.Layer, input_shape: Any, options: Mapping[str, int] | None = None
) -> int | None:
    """MACs of one layer for one image.

    Args:
        layer: A built layer.
        input_shape: Shape it is called with, batch first.
        options: Which sub-network or slices a nested or sliced layer is called for.

    Returns:
        An int; 0 for a layer without kernels; None for a kernel of an unknown kind.
    """
    if hasattr(layer, "kernel_macs"):
        _positions(layer, input_shape, layer.name)
        return int(layer.kernel_macs(input_shape, **options or {}))
    if isinstance(layer, _TRANSPOSED):
        size, shape = math.prod(layer.kernel.shape), input_shape
    elif isinstance(layer, _SEPARABLE):
        size = math.prod(layer.depthwise_kernel.shape)
        size += math.prod(layer.pointwise_kernel.shape)
        shape = layer.compute_output_shape(input_shape)
    elif isinstance(layer, (*_CONVS, *_DEPTHWISE)):
        size = math.prod(layer.kernel.shape)
        shape = layer.compute_output_shape(input_shape)
    elif isinstance(layer, keras.layers.Dense):
        size, shape = math.prod(layer.kernel.shape), input_shape
    elif any(len(weight.shape) > 1 for weight in layer.trainable_weights):
        return None
    else:
        return 0
    return size * _positions(layer, shape, layer.name)


_Called = tuple[Any, Any, dict[str, int]]


def _calls(model: Any) -> Iterator[_Called]:
    """(layer, input shape, options) of every call as executed, nested models too."""
    graph = flat_graph(model)
    if graph is not None:
        for call in graph.calls:
            yield from _called(call)
        return
    for layer in model.layers:  # subclassed: each layer once, as it was built
        config = layer.get_build_config() or {}
        if isinstance(layer, keras.Model):
            yield from _calls(layer)
        elif config.get("input_shape") is not None:
            yield layer, tuple(config["input_shape"]), {}


def _called(call: Call) -> Iterator[_Called]:
    if isinstance(call.operation, keras.Layer) and call.inputs:
        options = {name: call.kwargs[name] for name in _OPTIONS if name in call.kwargs}
        yield call.operation, tuple(call.inputs[0].shape), options


def _rows(layer: Any, shape: Any, options: dict[str, int]) -> list[MacRow] | None:
    """The rows of one call; None for a kernel of an unknown kind."""
    if hasattr(layer, "mac_rows"):
        _positions(layer, shape, layer.name)
        return list(layer.mac_rows(shape))
    macs = 0 if isinstance(layer, _FREE) else kernel_macs(layer, shape, options)
    if macs is None:
        return None
    return [MacRow(layer.name, "", macs)] if macs else []


def call_macs(call: Call) -> int:
    """MACs of one call of a flat graph for one image.

    Args:
        call: As `keras_dyngate._graph.flat_graph` returns it.

    Returns:
        The sum of its rows in `count_macs`: everything open, controllers included.

    Raises:
        ValueError: If the image size is unknown.
    """
    return sum(row.macs for called in _called(call) for row in _rows(*called) or ())


def used_parameters(model: keras.Model) -> int:
    """Trainable parameters that a model reads.

    Of nested and sliced layers only the part that the calls in this model are for. A
    layer that is called several times counts once, by its first call.

    Args:
        model: A built Keras model.
    """
    found: dict[int, int] = {}
    for layer, shape, options in _calls(model):
        if hasattr(layer, "used_parameters"):
            count = layer.used_parameters(shape, **options)
        else:
            count = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        found.setdefault(id(layer), count)
    return sum(found.values())


def count_macs(model: keras.Model) -> MacProfile:
    """Count the multiply-adds of a model for one image.

    Convolution and dense kernels count; biases, normalization, activations and pooling
    cost 0. Controllers are listed apart.

    Args:
        model: A built Keras model whose image size is known.

    Returns:
        A `MacProfile`.

    Raises:
        ValueError: If the model is not built, or its image size is unknown.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built keras.Model. Received: {type(model).__name__}"
        )
    if hasattr(model, "mac_profile"):
        return model.mac_profile()
    return calls_profile(_calls(model))


def part_profile(calls: Iterable[Call]) -> MacProfile:
    """MACs of some calls of a flat graph for one image."""
    return calls_profile(found for call in calls for found in _called(call))


def calls_profile(called: Iterable[_Called]) -> MacProfile:
    rows: list[MacRow] = []
    unknown = []
    calls: Counter[str] = Counter()
    for layer, shape, options in called:
        found = _rows(layer, shape, options)
        if found is None:
            unknown.append(layer.name)
            continue
        if hasattr(layer, "mac_rows"):
            calls[layer.name] += 1  # named as `_hooks.record` names decisions
            name = layer.name
            if calls[name] > 1:
                name = f"{name}:{calls[name]}"
            found = [dataclasses.replace(row, layer=name) for row in found]
        rows.extend(found)
    if unknown:
        warnings.warn(
            f"MACs of these layers are not counted, their kind is unknown: {unknown}",
            stacklevel=2,
        )
    return MacProfile(tuple(rows))
