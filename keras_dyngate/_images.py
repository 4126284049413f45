"""Images from what users pass: arrays, or datasets of images or (image, label)."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np


def _alone(name: str, item: Any) -> Any:
    """The image, or the batch of them, of what a dataset or a function yields."""
    if isinstance(item, Mapping):
        if len(item) != 1:
            raise ValueError(
                f"`{name}` must give one input, the image. Received: a dict of "
                f"{sorted(item)}"
            )
        return next(iter(item.values()))
    return item[0] if isinstance(item, (tuple, list)) else item


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def finite_images(name: str, images: np.ndarray) -> np.ndarray:
    """The images, or a `ValueError` if a number of theirs is none."""
    if not np.isfinite(images).all():
        raise ValueError(
            f"`{name}` must hold finite numbers. Received: a NaN or infinity in images "
            f"of shape {images.shape}"
        )
    return images


def take_images(
    name: str, data: Any, shape: tuple[int | None, ...], limit: int | None = None
) -> np.ndarray:
    """Up to `limit` images, all if None: of an array evenly spaced, else the first.

    Args:
        name: Of the argument, for errors.
        data: An array `[N, height, width, channels]`; a tuple of two, (images, labels);
            or an iterable, or a function that returns one, of images, of batches of
            them, of (image, label), or of lists or dicts of one of these.
        shape: Of one image; None stands for any side.
        limit: Most images to take.

    Raises:
        ValueError: If there are none, or they have another shape.
    """
    rank = len(shape) + 1
    if callable(data) and not _is_array(data) and not isinstance(data, Iterable):
        data = data()
    if isinstance(data, tuple) and len(data) == 2 and all(map(_is_array, data)):
        data = data[0] if len(data[0].shape) == rank else data
    if _is_array(data):
        if len(data.shape) == len(shape):
            raise ValueError(
                f"`{name}` must hold several images, [N, ...]: of one alone make "
                f"`image[None]`. Received: an array of shape {tuple(data.shape)}"
            )
        step = 1 if limit is None else max(1, len(data) // limit)
        images = np.asarray(data[::step])
        if limit is not None and len(images) > limit:
            images = images[np.linspace(0, len(images) - 1, limit).astype(int)]
    else:
        if not isinstance(data, (Iterable, Iterator)) or isinstance(data, (str, bytes)):
            raise ValueError(
                f"`{name}` must be images of shape {shape}: an array, a dataset, or a "
                f"function that yields batches. Received: a {type(data).__name__}"
            )
        found: list[np.ndarray] = []
        for item in data:
            image = np.asarray(_alone(name, item))
            found.extend(image if image.ndim == rank else [image])
            if limit is not None and len(found) >= limit:
                break
        sizes = sorted({image.shape for image in itertools.islice(found, limit)})
        if len(sizes) > 1:
            raise ValueError(
                f"`{name}` must hold images of shape {shape}. "
                f"Received: images of shapes {sizes[:3]}"
            )
        images = np.asarray(found[:limit])
    fits = images.ndim == rank and all(
        wanted in (None, side)
        for side, wanted in zip(images.shape[1:], shape, strict=True)
    )
    if len(images) == 0 or not fits or images.dtype.kind not in "biuf":
        kind = "" if images.dtype.kind in "biuf" else f" of {images.dtype}"
        raise ValueError(
            f"`{name}` must hold images of shape {shape}. "
            f"Received: an array of shape {images.shape}{kind}"
        )
    return images
