"""Images from what users pass: an array, or a dataset of images or (image, label)."""

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
