"""How pictures are varied while a net learns, and the names users know it by.

    vary = resolve_augmentation("strong", model.input_shape)
    images = vary(images, np.random.default_rng(0))

Design of this library.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

SMALLEST = 64  # pixels of a side from which "auto" varies pictures as photos

Augmentation = Callable[[np.ndarray, np.random.Generator], Any]


@dataclasses.dataclass(frozen=True)
class PhotoVariation:
    """Crops that are mirrored half the time, and other light; values keep their range.

    Attributes:
        part: The smallest share of the sides that a crop has.
        aspect: A crop is up to exp(2 aspect) times as wide for its height, or as high.
        bright: An image is up to this share brighter or darker.
        contrast: Its contrast is up to this share higher or lower.
        tint: Each channel is up to this share brighter or darker.
    """

    part: float = 0.7
    aspect: float = 0.0
    bright: float = 0.2
    contrast: float = 0.0
    tint: float = 0.0

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Vary a batch `[N, height, width, channels]` of 0 to 255 or any other range."""
        count, height, width, channels = images.shape
        part = rng.uniform(self.part, 1.0, count)
        mirror = rng.random(count) < 0.5
        ratio: Any = 1.0
        if self.aspect:
            ratio = np.exp(rng.uniform(-self.aspect, self.aspect, count))
        down, across = np.minimum(part * ratio, 1), np.minimum(part / ratio, 1)
        top = rng.random(count) * (1 - down) * height
        left = rng.random(count) * (1 - across) * width
        zero = np.zeros(count)
        # From a place of the result to one of the picture: x' = a x + b, y' = a y + c.
        start = np.where(mirror, left + across * (width - 1), left)
        across = np.where(mirror, -across, across)
        rows = np.stack([across, zero, start, zero, down, top, zero, zero], axis=1)
        found = keras.ops.image.affine_transform(
            images,
            rows.astype("float32"),
            fill_mode="nearest",
            data_format="channels_last",
        )

        def around_one(share: float, *shape: int) -> np.ndarray:
            drawn = rng.uniform(1 - share, 1 + share, (count, *shape))
            return np.asarray(drawn, "float32")

        varied = keras.ops.convert_to_numpy(found)
        if self.contrast:
            mean = varied.mean((1, 2, 3), keepdims=True)
            varied = mean + (varied - mean) * around_one(self.contrast, 1, 1, 1)
        varied = varied * around_one(self.bright, 1, 1, 1)
        if self.tint:
            varied = varied * around_one(self.tint, 1, 1, channels)
        return np.clip(varied, images.min(), images.max())


PHOTOS = PhotoVariation()
STRONG = PhotoVariation(part=0.45, aspect=0.2, bright=0.35, contrast=0.3, tint=0.12)
NAMED = {"photos": PHOTOS, "strong": STRONG}


def resolve_augmentation(
    augmentation: Any, shape: Sequence[int | None]
) -> Augmentation | None:
    """What varies batches of a shape, from what a user named it by."""
    if augmentation == "auto":
        sides = [side or 0 for side in shape[1:3]]
        photos = len(shape) == 4 and min(sides) >= SMALLEST
        return PHOTOS if photos else None
    if augmentation is None:
        return None
    if isinstance(augmentation, str) and augmentation in NAMED:
        if len(shape) != 4:
            raise ValueError(
                f"`augmentation={augmentation!r}` is for pictures. "
                f"Received: inputs of shape {tuple(shape)}"
            )
        return NAMED[augmentation]
    if isinstance(augmentation, PhotoVariation):
        return augmentation
    if isinstance(augmentation, keras.Layer):
        return lambda images, rng: augmentation(images, training=True)
    if callable(augmentation):
        return lambda images, rng: augmentation(images)
    raise ValueError(
        "`augmentation` must be 'auto', 'photos', 'strong', a Keras layer, a function of "
        f"a batch of pictures, or None. Received: augmentation={augmentation!r}"
    )


def described(augmentation: Any, shape: Sequence[int | None]) -> str | None:
    """What a checkpoint knows it by, JSON-able: numbers, or a function's name."""
    found = resolve_augmentation(augmentation, shape)
    if found is None:
        return None
    if isinstance(found, PhotoVariation):
        return repr(found)
    return str(getattr(augmentation, "__qualname__", type(augmentation).__name__))
