"""A copy of a net whose gated channels are reordered, and some of them left out.

The gated activations are inner ones: a channel is a filter of the kernel before, a unit
of the gate and an input slice of the kernel after. Moving all three together changes
nothing outside the layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import copy_variable
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.controllers import Controller


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """The new channels of one gated activation.

    Attributes:
        order: For each new channel its old index, int `[new channels]`.
        held_open: New channels whose gate is to be open on any input.
    """

    order: np.ndarray
    held_open: np.ndarray


def _resize(config: Any, layers: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """Set the channels of the layers named in `sizes`, anywhere inside a config."""
    if isinstance(config, list):
        for item in config:
            _resize(item, layers, sizes)
    elif isinstance(config, dict):
        if "channel_gate" in config and config.get("name") in sizes:
            widths = sizes[config["name"]]
            config["channel_gate"]["config"]["units"] = sum(widths)
            layer = layers[config["name"]]
            if tuple(widths) != layer.widths():
                config.update(layer.narrowed(dict(config), widths))
        for item in config.values():
            _resize(item, layers, sizes)


def reorder_channels(
    target: Any, source: Any, orders: Mapping[str, np.ndarray]
) -> list[Any]:
    """Fill a layer's weights from another's, or from its own, the channels reordered.

    Args:
        target: The layer to fill; its gates are left alone.
        source: A layer of the same kind, or `target` itself.
        orders: By the key of a decision, for each new channel its old index.

    Returns:
        The weights that were filled.
    """
    filled: dict[int, tuple[Any, np.ndarray]] = {}
    ours, theirs = target.channel_weights(), source.channel_weights()
    for key, order in orders.items():
        for (weight, axis), (other, _) in zip(ours[key], theirs[key], strict=True):
            known = filled.get(id(weight))
            array = keras.ops.convert_to_numpy(other) if known is None else known[1]
            filled[id(weight)] = weight, np.take(array, order, axis=axis)
    for weight, array in filled.values():
        weight.assign(array)
    return [weight for weight, _ in filled.values()]


def _take_units(
    target: Any, source: Any, orders: Mapping[str, Arrangement]
) -> Controller:
    """Fill a layer's gate, which has one unit per channel."""
    units, held = [], []
    pairs = zip(target.decisions(), source.decisions(), strict=True)
    for ours, theirs in pairs:
        if not ours.whole:
            units.append(theirs.units.start + orders[ours.key].order)
            held.append(ours.units.start + orders[ours.key].held_open)
            gate, other = ours.controller, theirs.controller
    gate.take_units(other, np.concatenate(units), np.concatenate(held))
    return gate


def rearrange(
    model: keras.Model, arrangements: Mapping[str, Mapping[str, Arrangement]]
) -> keras.Model:
    """Copy a model with the channels of its gated layers rearranged.

    The copy is made from the model's config, so that it keeps names, dtype policies and
    layer arguments, then filled; it is not compiled. `model` is left as it is.

    Args:
        model: A built model that Keras can make from its config.
        arrangements: By the name of the layer and the key of the decision.

    Returns:
        The new model.
    """
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    sizes = {
        name: [len(item.order) for item in masks.values()]
        for name, masks in arrangements.items()
    }
    _resize(config, {layer.name: layer for layer in dynamic_layers(model)}, sizes)
    copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
    if not copy.built:
        copy.build(model.input_shape)
    moved: set[int] = set()
    for target, source in zip(dynamic_layers(copy), dynamic_layers(model), strict=True):
        if source.name in arrangements:
            masks = arrangements[source.name]
            orders = {key: item.order for key, item in masks.items()}
            filled = reorder_channels(target, source, orders)
            filled += _take_units(target, source, masks).weights
            moved.update(id(variable) for variable in filled)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        if id(ours) not in moved:
            copy_variable(ours, theirs)
    return copy
