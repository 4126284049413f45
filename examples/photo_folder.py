"""Photos in folders, train, val and test with a folder per class, as arrays."""

import os
from pathlib import Path

import keras
import numpy as np


def photos(
    folder: str | os.PathLike[str], part: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centre crops uint8 `[N, size, size, 3]` and class indices `[N]`.

    Args:
        folder: Of the parts. Classes are the folders in `train`, by name.
        part: "train", "val" or "test".
        size: Pixels of a side.
    """
    classes = sorted(path.name for path in (Path(folder) / "train").iterdir())
    data = keras.utils.image_dataset_from_directory(
        Path(folder) / part,
        class_names=[name for name in classes if (Path(folder) / part / name).is_dir()],
        image_size=(size, size),
        crop_to_aspect_ratio=True,
        shuffle=False,
        batch_size=64,
        verbose=False,
    )
    held = np.array([classes.index(name) for name in data.class_names])
    pairs = [(np.rint(x).astype("uint8"), held[np.asarray(y)]) for x, y in data]
    x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return x, y
