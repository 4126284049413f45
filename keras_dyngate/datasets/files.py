"""Pictures read from files as they are needed, and what to do with broken ones.

    split = split_of(len(paths), lambda index: (Path(paths[index]), labels[index]))

A picture that cannot be read is an error that names its file, or, with `skip`, a gap
that the split passes over. Its name is added to `split.unreadable` either way.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from keras_dyngate.datasets.split import Augment, Load, Prepare, Split, as_they_are

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


class Picture(Protocol):
    """A `pathlib.Path`, or what reads like one."""

    def read_bytes(self) -> bytes: ...


class Record(NamedTuple):
    """A picture that was found in a larger file."""

    name: str
    content: bytes

    def read_bytes(self) -> bytes:
        return self.content

    def __str__(self) -> str:
        return self.name


class Unreadable(ValueError):
    """A picture that is missing, broken or of another format."""

    def __init__(self, picture: Picture, reason: str) -> None:
        super().__init__(f"unreadable image: {str(picture)!r} ({reason})")
        self.name = str(picture)


def split_of(
    size: int,
    fetch: Callable[[int], tuple[Picture, Any]],
    skip: bool = False,
    table: np.ndarray | None = None,
    prepare: Prepare = as_they_are,
    augment: Augment | None = None,
) -> Split:
    """A split of pictures that are read when they are needed.

    Args:
        size: How many.
        fetch: From an index to a picture and its class, or, with a `table`, to a
            picture and that of its label map, in grey.
        skip: Whether a picture that cannot be read is passed over.
        table: Label of each of the 256 values of a label map.
        prepare, augment: See `Split`.
    """
    unreadable: list[str] = []
    load = _reader(fetch, unreadable, skip, table)
    return Split(size, load, prepare, augment, unreadable, gaps=skip)


def _reader(
    fetch: Callable[[int], tuple[Picture, Any]],
    unreadable: list[str],
    skip: bool,
    table: np.ndarray | None,
) -> Load:
    lock = threading.Lock()

    def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, label = fetch(int(index))
        try:
            pixels = _decode(image, 3)
            if table is None:
                return pixels, np.asarray(label, "int32")
            values = _decode(label, 1)[..., 0]
            if values.shape != pixels.shape[:2]:
                raise Unreadable(label, f"{values.shape} for {pixels.shape[:2]} pixels")
            return pixels, table[values].astype("int32")
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


def _decode(picture: Picture, channels: int) -> np.ndarray:
    try:
        content = picture.read_bytes()
        # TensorFlow gives a BMP the channels of its file, or refuses it.
        wanted = 0 if content.startswith(b"BM") else channels
        with tf.device("CPU"):
            pixels = tf.io.decode_image(
                content, wanted, expand_animations=False
            ).numpy()
    except (OSError, tf.errors.InvalidArgumentError) as error:
        raise Unreadable(picture, str(error)) from error
    if pixels.shape[-1] < channels:
        return np.repeat(pixels, channels, -1)
    return pixels[..., :channels]


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
            if entry.is_dir() and not entry.name.startswith(".")
        )


def pictures(folder: Path) -> list[str]:
    """Paths of what is named like a picture in it, sorted; hidden ones do not count."""
    if not folder.is_dir():
        return []
    return [
        os.path.join(folder, name)
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
