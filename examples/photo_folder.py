"""Photos in folders as arrays: the largest square in the middle of each."""

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np

import keras_dyngate as kd
from keras_dyngate.datasets.split import Data, Split


def photo_folder(folder: str | os.PathLike[str], size: int) -> Data:
    """A folder of photos, one folder per class, judged by the whole width or height.

    Args:
        folder: See `kd.datasets.image_folder`.
        size: Pixels of a side.
    """
    return kd.datasets.image_folder(folder, size, augmentation="shift")


def arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of a split as a net is judged on them, uint8, and labels."""
    try:
        pairs = [(np.rint(x), y) for x, y in split.batches(64).as_numpy_iterator()]
    except Exception as error:  # TensorFlow's: with a traceback, and ours within it
        reason = str(error).rpartition("Unreadable: ")[2].splitlines()[0]
        raise ValueError(reason) from error
    x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return x.astype("uint8"), y


def photos(
    folder: str | os.PathLike[str], part: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of "train", "val" or "test"."""
    data = photo_folder(folder, size)
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    return arrays(splits[part])


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """What a user can mend ends a script with a line, not with a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")
