"""One counter for every model, static or dynamic.

Plain Keras layers are counted from their kernels and the shapes they were called with;
a dynamic layer gives its own rows (`mac_rows`). Nothing is run.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras

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
_FREE = (keras.layers.BatchNormalization, keras.layers.Normalization)


def _positions(layer: Any, shape: Any, name: str) -> int:
    """Spatial positions of a channels-last or channels-first feature map."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    sides = shape[2:] if first else shape[1:-1]
    if any(side is None for side in sides):
        raise ValueError(
            "MACs can be counted only for a known image size; build the model with "
            f"`input_shape=(height, width, 3)`. Received: shape {tuple(shape)} at layer "
            f"{name!r}"
        )
    return math.prod(sides)


def kernel_macs(layer: keras.Layer, input_shape: Any) -> int | None:
    """MACs of one plain Keras layer for one image.

    Args:
        layer: A built layer.
        input_shape: Shape it is called with, batch first.

    Returns:
        An int; 0 for a layer without kernels; None for a kernel of an unknown kind.
    """
    output_shape = layer.compute_output_shape(input_shape)
    if isinstance(layer, _TRANSPOSED):
        return math.prod(layer.kernel.shape) * _positions(
            layer, input_shape, layer.name
        )
    if isinstance(layer, _SEPARABLE):
        size = math.prod(layer.depthwise_kernel.shape)
        size += math.prod(layer.pointwise_kernel.shape)
        return size * _positions(layer, output_shape, layer.name)
    if isinstance(layer, (*_CONVS, *_DEPTHWISE)):
        size = math.prod(layer.kernel.shape)
        return size * _positions(layer, output_shape, layer.name)
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape) * _positions(
            keras.layers.Identity(), output_shape, layer.name
        )
    if any(len(weight.shape) > 1 for weight in layer.trainable_weights):
        return None
    return 0


def _calls(model: Any) -> Iterator[tuple[Any, Any]]:
    """(layer, input shape) of every call, nested models opened up."""
    own_nodes = getattr(model, "_nodes", ())
    for layer in model.layers:
        shapes = [
            node.input_tensors[0].shape
            for node in layer._inbound_nodes
            if node in own_nodes and node.input_tensors
        ]
        if not shapes and layer.get_build_config():  # a layer of a subclassed model
            shapes = [layer.get_build_config().get("input_shape")]
        for shape in shapes:
            if isinstance(layer, keras.Model):
                yield from _calls(layer)
            elif shape is not None:
                yield layer, tuple(shape)


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
    rows: list[MacRow] = []
    unknown = []
    for layer, shape in _calls(model):
        if hasattr(layer, "mac_rows"):
            _positions(layer, shape, layer.name)
            rows.extend(layer.mac_rows(shape))
        elif not isinstance(layer, _FREE):
            macs = kernel_macs(layer, shape)
            if macs is None:
                unknown.append(layer.name)
            elif macs:
                rows.append(MacRow(layer.name, "", macs))
    if unknown:
        warnings.warn(
            f"MACs of these layers are not counted, their kind is unknown: {unknown}",
            stacklevel=2,
        )
    return MacProfile(tuple(rows))
