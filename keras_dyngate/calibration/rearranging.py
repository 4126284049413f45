"""A copy of a net whose gated channels are reordered, and some of them left out.

The gated activations are inner ones: a channel is a filter of the convolution before, a
unit of the gate and an input slice of the convolution after. Moving all three together
changes nothing outside the block.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import copy_variable
from keras_dyngate._walk import dynamic_layers


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """The new channels of one gated activation.

    Attributes:
        order: For each new channel its old index, int `[new channels]`.
        held_open: New channels whose gate is to be open on any input.
    """

    order: np.ndarray
    held_open: np.ndarray


def _resize(config: Any, sizes: Mapping[str, int]) -> None:
    """Set the channels of the blocks named in `sizes`, anywhere inside a config."""
    if isinstance(config, list):
        for item in config:
            _resize(item, sizes)
    elif isinstance(config, dict):
        if "channel_gate" in config and config.get("name") in sizes:
            gate = config["channel_gate"]["config"]
            new, old = sizes[config["name"]], config["inner_filters"]
            gate["units"] = gate["units"] // old * new
            config["inner_filters"] = new
        for item in config.values():
            _resize(item, sizes)


def reorder_channels(target: Any, source: Any, orders: list[Arrangement]) -> None:
    """Fill a block's branch from another's, or from its own, the channels reordered.

    Args:
        target: The block to fill; its gates are left alone.
        source: A block of the same kind, or `target` itself.
        orders: One `Arrangement` per mask.
    """
    arrays = keras.ops.convert_to_numpy
    sides: list[Any] = [slice(None)] * (len(source.convs) + 1)
    for index, item in zip(source.masked, orders, strict=True):
        sides[index + 1] = item.order
    for i, (conv, norm) in enumerate(zip(target.convs, target.norms, strict=True)):
        kernel = arrays(source.convs[i].kernel)
        conv.kernel.assign(kernel[:, :, sides[i]][..., sides[i + 1]])
        for ours, theirs in zip(norm.weights, source.norms[i].weights, strict=True):
            ours.assign(arrays(theirs)[sides[i + 1]])


def _take_units(target: Any, source: Any, orders: list[Arrangement]) -> None:
    """Fill a block's gate, which has one unit per channel."""
    old, new = source.inner_filters, target.inner_filters
    units = np.concatenate([i * old + item.order for i, item in enumerate(orders)])
    held = np.concatenate([i * new + item.held_open for i, item in enumerate(orders)])
    target.channel_gate.take_units(source.channel_gate, units, held)


def rearrange(
    model: keras.Model, arrangements: Mapping[str, list[Arrangement]]
) -> keras.Model:
    """Copy a model with the channels of its gated blocks rearranged.

    The copy is made from the model's config, so that it keeps names, dtype policies and
    layer arguments, then filled; it is not compiled. `model` is left as it is.

    Args:
        model: A built model that Keras can make from its config.
        arrangements: By the name of the block, one per mask, of equal length.

    Returns:
        The new model.
    """
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    sizes = {name: len(masks[0].order) for name, masks in arrangements.items()}
    _resize(config, sizes)
    copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
    if not copy.built:
        copy.build(model.input_shape)
    moved: set[int] = set()
    for target, source in zip(dynamic_layers(copy), dynamic_layers(model), strict=True):
        if source.name in arrangements:
            reorder_channels(target, source, arrangements[source.name])
            _take_units(target, source, arrangements[source.name])
            for layer in (*target.convs, *target.norms, target.channel_gate):
                moved.update(id(variable) for variable in layer.weights)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        if id(ours) not in moved:
            copy_variable(ours, theirs)
    return copy
