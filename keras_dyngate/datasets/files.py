"""Pictures read from files as they are needed, and what to do with broken ones.

    split = split_of(len(paths), lambda index: (Path(paths[index]), labels[index]))

A picture that cannot be read is an error that names its file, or, with `skip`, a gap
that the split passes over. Its name is added to `split.unreadable` either way.
"""

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_dyngate.datasets.label_maps import IGNORE
from keras_dyngate.datasets.split import Augment, Load, Prepare, Split, as_they_are
from keras_dyngate.pictures import (
    Source,
    Unreadable,
    is_hidden,
    need_pillow,
    read_label_map,
    read_picture,
)


class Record(NamedTuple):
    """A picture that was found in a larger file."""

    name: str
    content: bytes

    def read_bytes(self) -> bytes:
        return self.content

    def __str__(self) -> str:
        return self.name


def split_of(
    size: int,
    fetch: Callable[[int], tuple[Source, Any]],
    skip: bool = False,
    table: np.ndarray | None = None,
    prepare: Prepare = as_they_are,
    augment: Augment | None = None,
) -> Split:
    """A split of pictures that are read when they are needed.

    Args:
        size: How many.
        fetch: From an index to a picture and its class, or, with a `table`, to a
            picture and its label map.
        skip: Whether a picture that cannot be read is passed over.
        table: Label of each value of a label map; of values beyond it 255, no class.
        prepare, augment: See `Split`.

    Raises:
        ImportError: If Pillow is not installed.
    """
    need_pillow()
    unreadable: list[str] = []
    load = _reader(fetch, unreadable, skip, table)
    return Split(size, load, prepare, augment, unreadable, gaps=skip)


def _end_reading() -> None:
    """Frees iterators that an error keeps, while pictures can still be read.

    An iterator waits for pictures that are being read when it goes, and these for Python.
    Freed as late as with the modules of a process that ends, it waits for ever.
    """
    for name in ("last_exc", "last_value", "last_traceback"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    gc.collect()


atexit.register(_end_reading)


def _reader(
    fetch: Callable[[int], tuple[Source, Any]],
    unreadable: list[str],
    skip: bool,
    table: np.ndarray | None,
) -> Load:
    lock = threading.Lock()

    def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, label = fetch(int(index))
        try:
            pixels = read_picture(image)
            if table is None:
                return pixels, np.asarray(label, "int32")
            return pixels, _labels(label, table, pixels.shape[:2])
        except Unreadable as error:
            with lock:
                if error.name not in unreadable:
                    unreadable.append(error.name)
            if not skip:
                raise
            shape = () if table is None else (0, 0)
            return np.zeros((0, 0, 3), "uint8"), np.zeros(shape, "int32")

    def load(index: Any) -> tuple[Any, Any]:
        image, label = tf.numpy_function(
            read, [index], (tf.uint8, tf.int32), stateful=False
        )
        image.set_shape((None, None, 3))
        label.set_shape(() if table is None else (None, None))
        return image, label

    return load


def _labels(source: Source, table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The classes of a label map, of which there must be one at least."""
    values = read_label_map(source)
    if values.shape != shape:
        raise Unreadable(source, f"{values.shape} for {shape} pixels")
    labels = np.append(table, IGNORE)[np.minimum(values, len(table))]
    if (labels == IGNORE).all():
        found = ", ".join(map(str, np.unique(values)[:8]))
        raise Unreadable(
            source, f"no pixel of the label map has a known class. Received: {found}"
        )
    return labels.astype("int32")


def existing_folder(data_dir: Any, expected: str) -> Path:
    """`data_dir` as a path.

    Args:
        data_dir: What a user gave.
        expected: What it must be, and where to get it.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if data_dir is None or not Path(data_dir).is_dir():
        raise missing(data_dir, expected)
    return Path(data_dir)


def missing(data_dir: Any, expected: str) -> FileNotFoundError:
    """The error that says in one line what to get and where to put it."""
    given = None if data_dir is None else os.fspath(data_dir)
    return FileNotFoundError(
        f"`data_dir` must be {expected}. Received: data_dir={given!r}"
    )


def folders(folder: Path) -> list[str]:
    """Names of the folders in it, sorted; hidden ones are not counted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not is_hidden(entry.name)
        )
