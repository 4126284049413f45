"""Photos in folders as arrays: the largest square in the middle of each."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import app, flags, logging

import keras_dyngate as kd
from keras_dyngate.datasets.split import Data
from keras_dyngate.export import quiet


def photo_folder(folder: str | os.PathLike[str], size: int) -> Data:
    """A folder of photos, one folder per class, judged by the whole width or height.

    Args:
        folder: See `kd.datasets.image_folder`.
        size: Pixels of a side.
    """
    return kd.datasets.image_folder(folder, size, augmentation="shift")


def photos(
    folder: str | os.PathLike[str], part: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of "train", "val" or "test"."""
    data = photo_folder(folder, size)
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    return splits[part].uint8_arrays()


class Task(NamedTuple):
    """A trained net, and the pictures and labels of its three parts."""

    net: keras.Model
    classes: Any
    train: Any
    validation: Any
    test: Any


def task(
    net: str | None,
    folder: str | None,
    small_net: Callable[[Any, int], keras.Model],
    seed: int,
    kept: Path | None = None,
) -> Task:
    """The net and the photos asked for; without, a small net trained on digits.

    Args:
        net: A .keras file, or None.
        folder: Of its photos; see `photo_folder`.
        small_net: Makes a net of digits from (their arrays, the number of classes).
        seed: Of the digits' parts.
        kept: Where that net is kept, and taken from the next time. None: nowhere.
    """
    model = None if net is None else keras.models.load_model(net, compile=False)
    if model is None:
        data = kd.datasets.digits(seed)
    else:
        data = photo_folder(str(folder), model.input_shape[1])
    parts = [part.uint8_arrays() for part in (data.train, data.validation, data.test)]
    sizes = " / ".join(str(len(labels)) for _, labels in parts)
    print(f"{data.name}: {sizes} pictures")
    if model is None and kept is not None and kept.exists():
        model = keras.models.load_model(kept, compile=False)
    elif model is None:
        model = small_net(parts[0], len(data.classes))
        if kept is not None:
            model.save(kept)
            model = keras.models.load_model(kept, compile=False)
    return Task(model, data.classes, *parts)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """What a user can mend ends a script with a line, not with a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")


def main_of(run: Callable[[], None], *data: str) -> Callable[[list[str]], None]:
    """The `main` of a script that has --net and --photos, for `absl.app.run`.

    Args:
        run: What it does.
        data: Flags that may stand in the place of --photos.
    """
    kinds = ("photos", *data)

    def main(argv: list[str]) -> None:
        given = flags.FLAGS
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
        pictures = [kind for kind in kinds if given[kind].value is not None]
        if len(pictures) != (given.net is not None):
            named = " or ".join(f"--{kind}" for kind in kinds)
            raise app.UsageError(f"--net and {named} go together.")
        quiet()
        logging.set_verbosity(logging.ERROR)
        with one_line():
            run()

    return main
