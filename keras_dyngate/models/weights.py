"""Weights from files and from other nets, matched by name.

Every trunk variable of the library's residual nets has one name, PyTorch's
(`layer1.0.conv1.weight`), whatever the source: an `.npz`, a plain net, a gated one.
Those of a dense net have its layers' own names.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import copy_variable
from keras_dyngate._files import NOT_AN_NPZ
from keras_dyngate._walk import dynamic_layers

_BN = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
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


def trunk_slots(model: keras.Model) -> dict[str, Any]:
    """The trunk's variables by PyTorch name, in the order of the model.

    Raises:
        ValueError: If the model was not made by this library's builders.
    """
    names = {layer.name for layer in model.layers}
    dense = "block1_layer1_conv1" in names
    if not dense and not {"conv1", "bn1", "stage1_block1"} <= names:
        raise ValueError(
            "Expected a ResNet built by keras_dyngate, or a DenseNet. "
            f"Received: {model.name!r} with layers {sorted(names)[:5]}..."
        )
    slots: dict[str, Any] = {}
    for layer in model.layers:
        if layer.name in ("conv1", "bn1") or (dense and _DENSE.fullmatch(layer.name)):
            slots.update(_layer_slots(layer.name, layer))
    for block in dynamic_layers(model):
        stage, index = block.name.removeprefix("stage").split("_block")
        prefix = f"layer{stage}.{int(index) - 1}"
        for layer in (*block.convs, *block.norms):
            slots.update(_layer_slots(f"{prefix}.{layer.name}", layer))
        if block.shortcut_conv is not None:
            slots.update(_layer_slots(f"{prefix}.downsample.0", block.shortcut_conv))
            slots.update(_layer_slots(f"{prefix}.downsample.1", block.shortcut_norm))
    if "predictions" in names:
        slots.update(_layer_slots("fc", model.get_layer("predictions")))
    return slots


def _layout(array: np.ndarray) -> np.ndarray:
    """A PyTorch array in the layout of Keras: OIHW -> HWIO, [out, in] -> [in, out]."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T


def _assign_all(slots: dict[str, Any], arrays: dict[str, np.ndarray], of: str) -> None:
    """Assign every slot, or raise naming the first that does not fit; all or nothing."""
    for name, variable in slots.items():
        received = arrays[name].shape if name in arrays else "no such array"
        if received != tuple(variable.shape):
            raise ValueError(
                f"{of} is of another architecture: {name!r} must have shape "
                f"{tuple(variable.shape)}. Received: {received}"
            )
    spare = [n for n in arrays if n not in slots and not n.startswith("fc.")]
    if spare:
        raise ValueError(
            f"{of} is of another architecture: this net has no {spare[0]!r}. "
            f"Received: {len(spare)} arrays too many"
        )
    for name, variable in slots.items():
        copy_variable(variable, arrays[name])


def _load_npz(model: keras.Model, path: Path) -> None:
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {
                name.replace("linear.", "fc."): _layout(file[name])
                for name in file.files
                if not name.endswith("num_batches_tracked")
            }
    except NOT_AN_NPZ as error:
        raise ValueError(
            f"`weights` must be a readable .npz of arrays. Received: {path} ({error})"
        ) from error
    _assign_all(trunk_slots(model), arrays, f"The weights file {path}")


def load_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Load a file into a model of this library's builders.

    Args:
        model: The net to fill.
        path: `.keras` (a whole net of the same kind), `.weights.h5`, or for a ResNet
            `.npz` with PyTorch names and layouts, which fills the trunk and leaves
            gates alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or of another architecture; the
            message names the first mismatch.
    """
    path = Path(path)
    if not path.name.endswith((".keras", ".weights.h5", ".npz")):
        raise ValueError(
            "`weights` must be None or the path of a .keras, .weights.h5 or .npz file. "
            f"Received: {str(path)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file. Received: {str(path)!r}")
    if path.suffix == ".npz":
        _load_npz(model, path)
    elif path.suffix == ".keras":
        load_trunk_weights(model, keras.saving.load_model(path, compile=False))
    else:
        try:
            model.load_weights(path)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"The weights file {path} does not fit {model.name!r}: {error}"
            ) from error


def _learned(controller: Any) -> list[Any]:
    """A controller's variables without the coefficients of its penalties."""
    coefficients = {id(variable) for variable in controller.coefficients}
    return [v for v in controller.weights if id(v) not in coefficients]


def _copy_gate(target: Any, source: Any, of: str) -> None:
    """Copy a controller; per-channel logits are averaged into those of a group."""
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
    for ours, value in zip(variables, values, strict=True):
        copy_variable(ours, value)


def load_trunk_weights(target: keras.Model, source: keras.Model) -> keras.Model:
    """Start a net from another of the same trunk.

    Convolutions, batch normalizations and the classifier are copied by name; `target`
    keeps its own classifier if the numbers of classes differ. Where both nets have
    controllers of one kind, these are copied too; from per-channel to per-group
    gates, a group starts with the mean logit of its channels (design of this library).

    Args:
        target: Net to fill, gated or plain.
        source: Net to read, gated or plain.

    Returns:
        `target`.

    Raises:
        ValueError: If the trunks differ; the message names the first mismatch.
    """
    slots = trunk_slots(target)
    arrays = {
        name: keras.ops.convert_to_numpy(value)
        for name, value in trunk_slots(source).items()
    }
    head = [name for name in slots if name.startswith("fc.")]
    if any(
        name not in arrays or tuple(slots[name].shape) != arrays[name].shape
        for name in head
    ):
        slots = {name: value for name, value in slots.items() if name not in head}
    _assign_all(slots, arrays, f"The net {source.name!r}")
    for block, other in zip(
        dynamic_layers(target), dynamic_layers(source), strict=True
    ):
        for ours, theirs in (
            (block.channel_gate, other.channel_gate),
            (block.layer_gate, other.layer_gate),
        ):
            if ours is not None and type(ours) is type(theirs):
                _copy_gate(ours, theirs, block.name)
    return target
