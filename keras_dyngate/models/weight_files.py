"""Weights from files: Keras' own, and arrays by PyTorch's names."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import copy_variable
from keras_dyngate._files import NOT_AN_NPZ
from keras_dyngate._warn import warn
from keras_dyngate.models.keras_files import (
    UNLIKE,
    load_quietly,
    read_theirs,
    written_by_theirs,
)
from keras_dyngate.models.torch_names import our_name
from keras_dyngate.models.weights import (
    HEAD,
    check_arrays,
    check_finite,
    copy_trunk,
    trunk_slots,
    without_head,
)


def load_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    theirs: Callable[[int | None], keras.Model] | None = None,
) -> None:
    """Load a file into a model of this library's builders.

    If the file has no classifier, or one for other classes, that of the net stays new
    and a warning says so.

    Args:
        model: The net to fill.
        path: `.keras` (a whole net of the same kind), `.weights.h5`, or `.npz` with
            PyTorch names and layouts, which fills the trunk and leaves gates alone.
            What stands before all of its names, as `module.` does, is passed over.
        theirs: Makes the net of keras.applications with the same trunk, for so many
            classes, or for None without a classifier. Then the path may also be a
            `.weights.h5` or `.h5` of such a net.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or of another architecture, or a
            number is not finite: the message names the first mismatch, with the file's
            own names and shapes, and nothing is changed.
    """
    path = Path(path)
    known = [".keras", ".weights.h5", ".npz", *([] if theirs is None else [".h5"])]
    if not path.name.endswith(tuple(known)):
        raise ValueError(
            f"`weights` must be None or the path of a {', '.join(known[:-1])} or "
            f"{known[-1]} file. Received: {str(path)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file. Received: {str(path)!r}")
    if path.suffix == ".npz":
        left = _load_npz(model, path)
    elif path.suffix == ".keras":
        source = keras.saving.load_model(path, compile=False)
        left = copy_trunk(model, source, f"The weights file {path}")
    elif theirs is not None and written_by_theirs(path):
        left = copy_trunk(model, read_theirs(path, theirs), f"The weights file {path}")
    else:
        left = _load_h5(model, path)
    if left:
        warn_of_new_layer(model, path, left, "predictions")


def warn_of_new_layer(model: keras.Model, path: Path, left: str, layer: str) -> None:
    """Say that a file has something else where a net keeps a layer as it was made."""
    warn(
        f"The weights file {path} has {left}: the layer {layer!r} of {model.name!r} "
        "keeps its new weights, all others are loaded.",
    )


def _axes(name: str, rank: int) -> tuple[int, ...]:
    """Of each axis of a variable of Keras, which one it is of PyTorch's array."""
    if rank == 4:  # OIHW -> HWIO; a depthwise kernel has its channels for O
        return (2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0)
    return tuple(reversed(range(rank)))


def _layout(name: str, array: np.ndarray) -> np.ndarray:
    """A PyTorch array in the layout of Keras."""
    return array.transpose(_axes(name, array.ndim))


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What `_layout` turns into `shape`."""
    found = dict(zip(_axes(name, len(shape)), shape, strict=True))
    return tuple(found[axis] for axis in range(len(shape)))


def _common_prefix(names: Iterable[str], slots: dict[str, Any]) -> str:
    """What stands before every name, as `module.`, if slots are named by the rest."""
    rest, prefix = list(names), ""
    while rest and not any(our_name(name) in slots for name in rest):
        first = {name.partition(".")[0] for name in rest}
        rest = [name.partition(".")[2] for name in rest]
        if len(first) != 1 or not all(rest):
            return ""
        prefix += f"{first.pop()}."
    return prefix


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {
                name: file[name]
                for name in file.files
                if not name.endswith("num_batches_tracked")
            }
    except NOT_AN_NPZ as error:
        raise ValueError(
            f"`weights` must be a readable .npz of arrays. Received: {path} ({error})"
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(
                f"The weights file {path} must hold arrays of numbers, as float32. "
                f"Received: {name!r} of dtype {array.dtype}"
            )
    return arrays


def _load_npz(model: keras.Model, path: Path) -> str:
    """Fill the trunk, and the classifier if it fits; else say which the file has."""
    found, slots = _read_npz(path), trunk_slots(model)
    prefix = _common_prefix(found, slots)
    theirs = {our_name(name.removeprefix(prefix)): name for name in found}
    arrays = {name: found[their] for name, their in theirs.items()}
    left = _other_classifier(slots, arrays)
    if left:
        slots = without_head(slots)
    check_arrays(
        slots,
        arrays,
        f"The weights file {path}",
        spell=lambda name: theirs.get(name, prefix + name),
        shape=_torch_shape,
    )
    for name, variable in slots.items():
        copy_variable(variable, _layout(name, arrays[name]))
    return left


def _other_classifier(slots: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """What a file has for a classifier, if that is none or a whole one for others."""
    head = [name for name in slots if name.startswith(HEAD)]
    found = [arrays[name].shape for name in head if name in arrays]
    if head and not found:
        return "no classifier"
    wanted = [_torch_shape(name, tuple(slots[name].shape)) for name in head]
    classes = {shape[:1] for shape in found}  # the kernel's and the bias's
    alike = [shape[1:] for shape in found] == [shape[1:] for shape in wanted]
    if not head or not alike or len(classes) > 1 or wanted[0][:1] in classes:
        return ""
    return f"a classifier for {found[0][0]} classes"


def _load_h5(model: keras.Model, path: Path) -> str:
    """Load wholly, or but for a classifier that does not fit, or not at all."""
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    try:
        left = _load_what_fits(model, path)
        for variable in model.variables:
            if keras.backend.is_float_dtype(variable.dtype):
                value = keras.ops.convert_to_numpy(variable)
                check_finite(value, f"The weights file {path}", variable.path)
    except BaseException:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        raise
    return left


def _load_what_fits(model: keras.Model, path: Path) -> str:
    try:
        load_quietly(model, path)
    except UNLIKE as error:
        if any(layer.name == "predictions" for layer in model.layers):
            for variable in without_head(trunk_slots(model)).values():
                variable.assign(np.full(variable.shape, np.nan))  # till it is there
            trunk = keras.Model(model.inputs, model.get_layer("predictions").input)
            with contextlib.suppress(*UNLIKE):
                load_quietly(trunk, path)
                return "another classifier, or none"
        raise ValueError(
            f"The weights file {path} does not fit {model.name!r}: {error}"
        ) from error
    return ""
