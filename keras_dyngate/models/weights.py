"""Weights from other nets, matched by name.

Every trunk variable of the library's residual nets has one name, PyTorch's
(`layer1.0.conv1.weight`, of mobile nets `_blocks.1._expand_conv.weight`), whatever the
source: an `.npz`, a plain net, a gated one. Those of a dense net have its layers' own
names.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import copy_variable
from keras_dyngate._checks import built_model
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.models.layer_names import layer_slots
from keras_dyngate.models.mobile_names import MOBILE, mobile_layers

_BN = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
HEAD = "fc."  # how the names of the classifier begin
# Layers of a dense net's trunk.
_DENSE = re.compile(r"(block\d+_layer\d+_|transition\d+_|final_)?(conv|bn)\d*")


def _layer_slots(prefix: str, layer: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(layer, keras.layers.BatchNormalization):
        for theirs, ours in _BN.items():
            yield f"{prefix}.{theirs}", getattr(layer, ours)
    else:
        yield f"{prefix}.weight", layer.kernel
        if layer.use_bias:
            yield f"{prefix}.bias", layer.bias


def _layers_of(links: Iterable[Any]) -> Iterator[Any]:
    """The layers among the links of a chain."""
    return (link for link in links if isinstance(link, keras.layers.Layer))


def trunk_slots(model: keras.Model) -> dict[str, Any]:
    """The trunk's variables by PyTorch name, in the order of the model.

    Raises:
        ValueError: If the model was not made by this library's builders, and is no
            MobileNetV2 of keras.applications either.
    """
    names = {layer.name for layer in model.layers}
    slots: dict[str, Any] = {}
    if any(some <= names for some in MOBILE):
        for name, layer in mobile_layers(model):
            slots.update(_layer_slots(name, layer))
    elif "block1_layer1_conv1" in names:
        for layer in model.layers:
            if _DENSE.fullmatch(layer.name):
                slots.update(_layer_slots(layer.name, layer))
    elif {"conv1", "bn1", "stage1_block1"} <= names:
        for name in ("conv1", "bn1"):
            slots.update(_layer_slots(name, model.get_layer(name)))
        for block in dynamic_layers(model):
            stage, index = block.name.removeprefix("stage").split("_block")
            prefix = f"layer{stage}.{int(index) - 1}"
            for layer in _layers_of(block.links()):
                slots.update(_layer_slots(f"{prefix}.{layer.name}", layer))
            for number, layer in enumerate(_layers_of(block.shortcut_links())):
                slots.update(_layer_slots(f"{prefix}.downsample.{number}", layer))
    else:
        raise ValueError(
            "Expected a ResNet built by keras_dyngate, a DenseNet, a MobileNetV2 or an "
            f"EfficientNet-Lite. Received: {model.name!r} with layers "
            f"{sorted(names)[:5]}..."
        )
    if "predictions" in names:
        slots.update(_layer_slots("fc", model.get_layer("predictions")))
    return slots


def check_arrays(
    slots: dict[str, Any],
    arrays: dict[str, np.ndarray],
    of: str,
    spell: Callable[[str], str] = str,
    shape: Callable[[str, tuple[int, ...]], tuple[int, ...]] = lambda _, own: own,
) -> None:
    """Raise naming the first array that does not fit, as its source spells it.

    Args:
        slots: Variables by name.
        arrays: By name, in the layout of their source.
        of: The source, as a sentence begins.
        spell: From a name to the source's own.
        shape: From a name and its variable's shape to that of its array in the source.
    """
    if not slots.keys() & arrays.keys():
        raise ValueError(
            f"{of} is of another architecture: this net has arrays such as "
            f"{next(iter(slots))!r}. Received: {len(arrays)} arrays, such as "
            f"{[spell(name) for name in list(arrays)[:3]]}"
        )
    for name, variable in slots.items():
        wanted = shape(name, tuple(variable.shape))
        received = arrays[name].shape if name in arrays else "no such array"
        if received != wanted:
            raise ValueError(
                f"{of} is of another architecture: {spell(name)!r} must have shape "
                f"{wanted}. Received: {received}"
            )
        check_finite(arrays[name], of, spell(name))
    spare = [n for n in arrays if n not in slots and not n.startswith(HEAD)]
    if spare:
        raise ValueError(
            f"{of} is of another architecture: this net has no {spell(spare[0])!r}. "
            f"Received: {len(spare)} arrays too many"
        )


def check_finite(array: np.ndarray, of: str, name: str) -> None:
    """Raise unless all numbers of an array of any float type are float32 numbers."""
    with np.errstate(over="ignore"):
        wrong = array.size - np.isfinite(np.asarray(array, "float32")).sum()
    if wrong:
        raise ValueError(
            f"{of} must hold finite float32 numbers. Received: {name!r} with {wrong} "
            f"of {array.size} that are NaN, infinite or too large"
        )


def without_head(slots: dict[str, Any]) -> dict[str, Any]:
    """The variables but for the classifier's."""
    return {name: slot for name, slot in slots.items() if not name.startswith(HEAD)}


def _learned(controller: Any) -> list[Any]:
    """A controller's variables without those of its penalties."""
    penalties = {id(variable) for variable in controller.penalties}
    return [v for v in controller.weights if id(v) not in penalties]


def _gate_values(target: Any, source: Any, of: str) -> list[tuple[Any, np.ndarray]]:
    """A controller's variables, and what each gets from another controller.

    Per-channel logits are averaged into those of a group.
    """
    values = [keras.ops.convert_to_numpy(v) for v in _learned(source)]
    variables = _learned(target)
    if source.units != target.units and source.units % target.units == 0:
        values = [
            value.reshape(*value.shape[:-1], target.units, -1).mean(axis=-1)
            if tuple(ours.shape) != value.shape and value.shape[-1] == source.units
            else value
            for ours, value in zip(variables, values, strict=True)
        ]
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise ValueError(
            f"The gate of {of!r} does not fit: {target.units} units wanted, of the "
            f"shapes {[tuple(v.shape) for v in variables]}. "
            f"Received: {source.units} units, {[value.shape for value in values]}"
        )
    for variable, value in zip(variables, values, strict=True):
        if value.dtype.kind not in "biu":  # the state of a random generator is
            check_finite(value, f"The gate of {of!r}", variable.name)
    return list(zip(variables, values, strict=True))


def copy_trunk(target: keras.Model, source: keras.Model, of: str) -> str:
    """Do as `load_trunk_weights`, wholly or not at all.

    Returns:
        What `source`, named `of` in errors, has for a classifier, if `target` keeps
        its own; "" if it does not.
    """
    slots, given = _slots_of_both(target, source)
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in given.items()}
    head = [name for name in slots if name.startswith(HEAD)]
    left = ""
    if not all(name in arrays for name in head):
        left = "no classifier"
    elif any(tuple(slots[name].shape) != arrays[name].shape for name in head):
        left = f"a classifier for {arrays[head[0]].shape[-1]} classes"
    if left:
        slots = without_head(slots)
    check_arrays(slots, arrays, of)
    pairs = [(variable, arrays[name]) for name, variable in slots.items()]
    others = {block.name: block.decisions() for block in dynamic_layers(source)}
    for block in dynamic_layers(target):
        known = {item.key: item.controller for item in others.get(block.name, ())}
        ours = {id(item.controller): item for item in block.decisions()}
        for item in ours.values():
            if type(item.controller) is type(known.get(item.key)):
                theirs = known[item.key]
                pairs += _gate_values(item.controller, theirs, block.name)
    for variable, value in pairs:
        copy_variable(variable, value)
    return left


def _slots_of_both(
    target: keras.Model, source: keras.Model
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trunks' variables by names that both have: PyTorch's, or their layers' own."""
    try:
        return trunk_slots(target), trunk_slots(source)
    except ValueError:
        slots, given = layer_slots(target), layer_slots(source)
    if slots.keys() == given.keys():
        return slots, given
    kinds = [
        [(name.rpartition(".")[2], tuple(v.shape)) for name, v in found.items()]
        for found in (slots, given)
    ]
    if kinds[0] == kinds[1]:  # names may differ where two layers had the same
        return slots, dict(zip(slots, given.values(), strict=True))
    return slots, given


def load_trunk_weights(target: keras.Model, source: keras.Model) -> keras.Model:
    """Start a net from another of the same trunk.

    Convolutions, batch normalizations and the classifier are copied by name, of nets of
    this library and of any functional net, gated by `add_channel_gates` or
    `add_layer_gates` or not; `target` keeps its own classifier, the last kernel, if the
    numbers of classes differ. Where both nets have
    controllers of one kind, these are copied too; from per-channel to per-group
    gates, a group starts with the mean logit of its channels (design of this library).

    Args:
        target: Net to fill, gated or plain.
        source: Net to read, gated or plain; for a MobileNetV2 also that of
            keras.applications.

    Returns:
        `target`.

    Raises:
        ValueError: If the trunks differ or a number is not finite: the message names
            the first mismatch, and nothing is changed.

    Example:
        ```python
        plain = kd.resnet20(input_shape=(16, 16, 3), width=0.25)
        gated = kd.gated_resnet20(input_shape=(16, 16, 3), width=0.25)
        kd.load_trunk_weights(gated, plain)  # starts from the plain net, with new gates
        ```
    """
    built_model("target", target)
    built_model("source", source)
    copy_trunk(target, source, f"The net {source.name!r}")
    return target
