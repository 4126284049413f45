"""Files of weights in Keras' own form, and those that keras.applications' nets wrote."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

UNLIKE = (ValueError, KeyError, OSError)  # what Keras raises for a file that is unlike


def load_quietly(model: keras.Model, path: Path) -> None:
    """`model.load_weights`, without what Keras says of an index of layers."""
    with warnings.catch_warnings():
        # The layers are loaded already; some files lack it, some nets' ends elsewhere.
        warnings.filterwarnings("ignore", ".*nested container at '_operations_by_depth")
        model.load_weights(path)


def _read(path: Path, look: Callable[[Any], Any]) -> Any:
    """What `look` finds in a file, or one error that names it."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return look(file)
    except OSError as error:
        raise ValueError(
            f"`weights` must be a readable HDF5 file. Received: {path} ({error})"
        ) from error


def written_by_theirs(path: Path) -> bool:
    """Whether there is no block of this library in a file."""
    ours = _read(path, lambda file: "gated_inverted_residual" in file.get("layers", ()))
    return not ours


def read_theirs(path: Path, theirs: Callable[[int | None], keras.Model]) -> keras.Model:
    """The net of keras.applications that wrote a file, with as many classes.

    Args:
        path: Of a `.weights.h5`, or of the older `.h5`.
        theirs: See `load_weights`.

    Raises:
        ValueError: If the file is damaged or of another net.
    """
    kernels: list[int] = []  # of dense layers: outputs

    def note(_: str, item: Any) -> None:
        if len(getattr(item, "shape", ())) == 2:
            kernels.append(int(item.shape[-1]))

    _read(path, lambda file: file.visititems(note))
    model = theirs(kernels[0] if len(kernels) == 1 else None)
    try:
        load_quietly(model, path)
    except UNLIKE as error:
        raise ValueError(
            f"The weights file {path} is not of {model.name!r} of keras.applications: "
            f"{error}"
        ) from error
    return model
