"""Pictures for a net of any size, from a folder or an .npz; without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyngate._files import NOT_AN_NPZ
from keras_dyngate.pictures import (
    check_pixels,
    find_pictures,
    need_pillow,
    read_picture,
)


def read_pictures(
    path: str, shape: Sequence[int | None], limit: int | None = None
) -> np.ndarray:
    """Images for a net, float32 `[N, height, width, channels]`, 0 to 255.

    Args:
        path: A folder of pictures, with or without subfolders, which are read as
            `keras_dyngate.pictures` does, resized and cropped to the net's size; or an
            .npz with an array `images` of that size, 0 to 255.
        shape: (height, width, channels) of the net's images; None where any will do.
        limit: How many at most: the first ones of an .npz, and of a folder some from
            everywhere in it. None: all.

    Raises:
        ValueError, OSError: There are none, or they cannot be read or do not fit.
        ImportError: Pictures are to be read, and Pillow is not installed.
    """
    source = Path(path)
    if source.is_file():
        return _from_npz(source, shape, limit)
    found = find_pictures(source, subfolders=True)
    if not found:
        raise FileNotFoundError(
            f"{path} must be an .npz file or a folder of pictures. Received: "
            f"{'a folder without any' if source.is_dir() else 'no such file'}"
        )
    if len(shape) != 3 or not shape[0] or not shape[1] or shape[2] != 3:
        raise ValueError(
            "The net must take images of a fixed size and 3 channels, for pictures from "
            f"a folder. Received: {list(shape)}"
        )
    chosen = np.linspace(0, len(found) - 1, min(limit or len(found), len(found)))
    size = (shape[1], shape[0])
    return np.stack([_picture(Path(found[int(i)]), size) for i in chosen])


def _from_npz(source: Path, shape: Sequence[int | None], limit: int | None) -> Any:
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as held:
            images = held["images"]
    except NOT_AN_NPZ as error:
        raise ValueError(
            f"{source} must be an .npz file with an array `images`. Received: {error}"
        ) from error
    fits = images.ndim == len(shape) + 1 and all(
        wanted in (None, size)
        for wanted, size in zip(shape, images.shape[1:], strict=True)
    )
    if not fits or not len(images) or images.dtype.kind not in "biuf":
        raise ValueError(
            f"{source} must hold numbers `images` of the shape "
            f"{['N', *shape]}, at least one. Received: {images.dtype} "
            f"{list(images.shape)}"
        )
    check_pixels(f"`images` of {source}", images)
    return images[:limit].astype("float32")


def _picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture, as much of it as can be, float32 `[height, width, 3]`."""
    Image = need_pillow()
    from PIL import ImageOps

    picture = Image.fromarray(read_picture(path))
    fitted = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    return np.asarray(fitted, "float32")
