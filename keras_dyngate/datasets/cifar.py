"""CIFAR-10 and CIFAR-100, from `keras.datasets` or from a file.

data = kd.datasets.cifar10()  # downloads once
data = kd.datasets.cifar10("cifar10.npz")
"""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._files import NOT_AN_NPZ
from keras_dyngate.datasets.augmentation import shift_and_mirror
from keras_dyngate.datasets.split import Data, Split
from keras_dyngate.pictures import check_pixels

CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def cifar10(
    data_dir: str | os.PathLike[str] | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Data:
    """50,000 training and 10,000 test images of 10 classes, 32x32.

    Training images are shifted by up to 4 pixels and mirrored.

    Args:
        data_dir: None: `keras.datasets.cifar10`, downloaded once. Or an `.npz`, or a
            folder that holds `cifar10.npz`, with `x_train`, `y_train`, `x_test`,
            `y_test` (images `[N, 32, 32, 3]`, 0 to 255) and optionally `name`, a string
            that says what these data are.
        validation: Training images kept for validation. Default a tenth.
        seed: Of their choice.

    Raises:
        FileNotFoundError: If there is no such file, or nothing can be downloaded.
        ValueError: If the file holds something else.
    """
    return _cifar("cifar10", "CIFAR-10", CIFAR10, data_dir, validation, seed)


def cifar100(
    data_dir: str | os.PathLike[str] | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Data:
    """50,000 training and 10,000 test images of 100 classes, 32x32.

    Args, errors: See `cifar10`; the file in a folder is `cifar100.npz`. Classes are
        named by their numbers.
    """
    classes = tuple(str(index) for index in range(100))
    return _cifar("cifar100", "CIFAR-100", classes, data_dir, validation, seed)


def _cifar(
    module: str,
    name: str,
    classes: tuple[str, ...],
    data_dir: Any,
    validation: int | None,
    seed: int,
) -> Data:
    if data_dir is None:
        try:
            (x, y), (x_test, y_test) = getattr(keras.datasets, module).load_data()
        except Exception as error:  # urllib's, and whatever a broken archive raises
            raise FileNotFoundError(
                f"{name} could not be downloaded ({error}). Download it by hand, make an "
                f".npz of the arrays {', '.join(ARRAYS)}, and give its path as "
                "`data_dir`. Received: data_dir=None"
            ) from error
    else:
        x, y, x_test, y_test, name = _read(module, name, Path(data_dir))
    whole = Split.of_arrays(x, y, shift_and_mirror())
    test = Split.of_arrays(x_test, y_test)
    for labels in (y, y_test):
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(
                f"Labels must be from 0 to {len(classes) - 1}. "
                f"Received: {labels.min()} to {labels.max()}"
            )
    count = len(x) // 10 if validation is None else validation
    train, held = whole.hold_out(count, seed)
    return Data(name, classes, train, held, test, (32, 32, 3))


def _read(module: str, name: str, path: Path) -> tuple[Any, ...]:
    if path.is_dir():
        path = path / f"{module}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"`data_dir` must be an .npz of {name}, or a folder that holds "
            f"{module}.npz. Received: data_dir={str(path)!r}"
        )
    try:
        # Opened here, as NumPy leaves a damaged archive open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = [file[key] for key in ARRAYS]
            title = (
                str(file["name"]) if "name" in file.files else f"{name} ({path.name})"
            )
    except NOT_AN_NPZ as error:
        raise ValueError(
            f"`data_dir` must name an .npz of the arrays {', '.join(ARRAYS)}. "
            f"Received: {path} ({error})"
        ) from error
    for images in arrays[::2]:
        if images.ndim != 4 or images.shape[1:] != (32, 32, 3):
            raise ValueError(
                "Images must be of shape [N, 32, 32, 3]. "
                f"Received: {images.shape} in {path}"
            )
        if len(images):
            check_pixels(f"Images of {path}", images)
    return (*arrays, title)
