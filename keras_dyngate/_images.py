"""Images from what users pass: an array, or a dataset of images or (image, label)."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np


def take_images(
    name: str, data: Any, shape: tuple[int | None, ...], limit: int | None = None
) -> np.ndarray:
    """Up to `limit` images, all if None.

    Args:
        name: Of the argument, for errors.
        data: An array `[N, height, width, channels]`, or an iterable of images, of
            batches of them, or of (image, label).
        shape: Of one image; None stands for any side.
        limit: Most images to take.

    Raises:
        ValueError: If there are none, or they have another shape.
    """
    if isinstance(data, np.ndarray):
        images = data[:limit]
    else:
        found: list[np.ndarray] = []
        for item in data:
            image = np.asarray(item[0] if isinstance(item, (tuple, list)) else item)
            found.extend(image if image.ndim == len(shape) + 1 else [image])
            if limit is not None and len(found) >= limit:
                break
        images = np.asarray(found[:limit])
    fits = images.ndim == len(shape) + 1 and all(
        wanted in (None, side)
        for side, wanted in zip(images.shape[1:], shape, strict=True)
    )
    if len(images) == 0 or not fits:
        raise ValueError(
            f"`{name}` must hold images of shape {shape}. "
            f"Received: an array of shape {images.shape}"
        )
    return images


class RangeWatch:
    """Notices images from 0 to 1, or -1 to 1, where 0 to 255 is meant.

    One dark picture may have such values; so all that are looked at are judged together.
    """

    def __init__(self) -> None:
        self._fraction = False
        self._beyond = False
        self._low, self._high = float("inf"), float("-inf")

    def look(self, images: np.ndarray) -> None:
        """Take in one image or several."""
        if self._beyond or not images.size:
            return
        self._low = min(self._low, float(images.min()))
        self._high = max(self._high, float(images.max()))
        self._beyond = not -1 <= self._low <= self._high <= 1
        if images.dtype.kind == "f" and not self._beyond:
            self._fraction |= bool((images != np.rint(images)).any())

    def warn(self, name: str, stacklevel: int = 1) -> None:
        """Warn if all values were within -1 and 1, and some no whole numbers."""
        if self._fraction and not self._beyond:
            warnings.warn(
                f"`{name}` must hold images from 0 to 255: the net normalises inside. "
                f"Received: values from {self._low:.3g} to {self._high:.3g}, as if they "
                "were divided already",
                stacklevel=stacklevel + 1,
            )


def warn_unit_range(name: str, images: Iterable[Any], stacklevel: int = 1) -> None:
    """Warn if images seem to be from 0 to 1 (or -1 to 1) where 0 to 255 is meant."""
    watch = RangeWatch()
    for image in images:
        watch.look(np.asarray(image))
    watch.warn(name, stacklevel + 1)
