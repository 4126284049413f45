"""Calibration of int8 files: which images, with which branches forced open."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def take_images(name: str, data: Any, shape: tuple[int, ...], limit: int) -> np.ndarray:
    """Up to `limit` images from an array or a dataset of images or (image, label).

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
            if len(found) >= limit:
                break
        images = np.asarray(found[:limit])
    if len(images) == 0 or tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"`{name}` must hold images of shape {shape}. "
            f"Received: an array of shape {images.shape}"
        )
    return images


def calibration_feed(
    images: np.ndarray, blocks: int, dtype: str
) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Inputs that reach every branch of `explain`, without distorting its ranges.

    Each image runs as the net decides, and once more with all of one block's branches
    forced open, the blocks taking turns: a rarely taken branch is calibrated on many
    images, and the blocks around it see what they see in use (design of this library).
    """

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index in range(max(len(images), blocks)):
            image = images[index % len(images)][None].astype(dtype)
            inputs = {"image": image}
            if blocks:
                force = np.zeros(blocks, np.int32)
                if index < len(images):
                    yield "explain", {**inputs, "force": force}
                force = force.copy()
                force[index % blocks] = 1
                inputs["force"] = force
            yield "explain", inputs

    return feed
