"""Pictures for teaching exits: varied, mixed, without end, from any place of the run.

    stream = Stream(x, y, batch_size=32, mixtures=0.5, augmentation="photos", seed=0)
    for images, labels, weights in stream(start=0):    # labels of -1 are unknown

A mixture of two pictures has no label, but a teacher has an answer to it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import fraction
from keras_dyngate.models.exits.data import Batch, batches

UNKNOWN = -1  # the label of a picture that has none
MIXTURES = 0.5  # of the batches, where there is a teacher
SMALLEST = 64  # pixels of a side from which "auto" varies pictures as photos

Augmentation = Callable[[np.ndarray, np.random.Generator], Any]


def vary_photos(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crops of .7 to 1 of the sides, mirrored half the time, .8 to 1.2 as bright.

    Design of this library.

    Args:
        images: `[N, height, width, channels]`; values are kept within those there are.
        rng: What is random comes from it.
    """
    count, height, width, _ = images.shape
    part = rng.uniform(0.7, 1.0, count)
    mirror = rng.random(count) < 0.5
    top, left = (rng.random(count) * (1 - part) * side for side in (height, width))
    zero = np.zeros(count)
    # From a place of the result to one of the picture: x' = a x + b, y' = a y + c.
    start = np.where(mirror, left + part * (width - 1), left)
    across = np.where(mirror, -part, part)
    rows = np.stack([across, zero, start, zero, part, top, zero, zero], axis=1)
    found = keras.ops.image.affine_transform(
        images, rows.astype("float32"), fill_mode="nearest", data_format="channels_last"
    )
    bright = rng.uniform(0.8, 1.2, (count, 1, 1, 1)).astype("float32")
    varied = keras.ops.convert_to_numpy(found) * bright
    return np.clip(varied, images.min(), images.max())


def resolve_augmentation(
    augmentation: Any, shape: Sequence[int | None]
) -> Augmentation | None:
    """What varies batches of a shape, from what a user named it by."""
    if augmentation == "auto":
        sides = [side or 0 for side in shape[1:3]]
        photos = len(shape) == 4 and min(sides) >= SMALLEST
        return vary_photos if photos else None
    if augmentation is None:
        return None
    if augmentation == "photos":
        if len(shape) != 4:
            raise ValueError(
                "`augmentation='photos'` is for pictures. "
                f"Received: inputs of shape {tuple(shape)}"
            )
        return vary_photos
    if isinstance(augmentation, keras.Layer):
        return lambda images, rng: augmentation(images, training=True)
    if callable(augmentation):
        return lambda images, rng: augmentation(images)
    raise ValueError(
        "`augmentation` must be 'auto', 'photos', a Keras layer, a function of a batch "
        f"of pictures, or None. Received: augmentation={augmentation!r}"
    )


def resolve_mixtures(mixtures: float | None, teacher: Any, one_label: bool) -> float:
    """Share of batches that are mixtures; None: half, where a teacher can answer them.

    Args:
        mixtures: As a user gave it.
        teacher: None: there is none.
        one_label: Whether a picture has one label, and not one for each pixel.

    Raises:
        ValueError: For mixtures that nobody answers.
    """
    answered = teacher is not None and one_label
    if mixtures is None:
        return MIXTURES if answered else 0.0
    if mixtures and not answered:
        what = "" if one_label else ", labels of pixels"
        raise ValueError(
            "`mixtures` need a teacher, and images of one label: the teacher alone "
            f"answers them. Received: mixtures={mixtures!r}, teacher={teacher!r}{what}"
        )
    return fraction("mixtures", mixtures)


class Stream:
    """Batches for `fit`, epoch after epoch, the same ones for the same seed and step.

    Args:
        open_batches: From a batch size to checked batches: labels are class indices or
            None. Called for every epoch of a dataset; once for arrays.
        arrays: `(images, labels or None, weights or None)`, to be shuffled every epoch,
            or None for a dataset, which shuffles itself.
        batch_size: Of arrays.
        mixtures: Share of batches that are mixtures of two pictures.
        augmentation: See `resolve_augmentation`.
        seed: Of all that is random.
    """

    def __init__(
        self,
        open_batches: Callable[[], Iterator[Batch]],
        arrays: Batch | None,
        *,
        batch_size: int,
        mixtures: float,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.open_batches, self.arrays = open_batches, arrays
        self.batch_size, self.seed = batch_size, seed
        self.mixtures = fraction("mixtures", mixtures)
        self.augmentation = augmentation
        if arrays is not None:
            self.steps = -(-len(arrays.x) // batch_size)
        else:
            self.steps = sum(1 for _ in open_batches())
        if not self.steps:
            raise ValueError("`x` must hold at least one sample. Received: none")

    def _epoch(self, epoch: int, skip: int) -> Iterator[Batch]:
        if self.arrays is None:
            for number, batch in enumerate(self.open_batches()):
                if number >= skip:
                    yield batch
            return
        order = np.random.default_rng((self.seed, epoch)).permutation(
            len(self.arrays.x)
        )
        for number in range(skip, self.steps):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield _rows(self.arrays, rows)

    def __call__(self, start: int = 0) -> Iterator[tuple[Any, Any, Any]]:
        """(images float32, labels int32, weights float32) from a step on, without end."""
        epoch, skip = divmod(start, self.steps)
        step = start
        while True:
            for batch in self._epoch(epoch, skip):
                yield self._varied(batch, step)
                step += 1
            epoch, skip = epoch + 1, 0

    def _varied(self, batch: Batch, step: int) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng((self.seed, 1, step))
        images, labels, weights = plain(batch)
        if self.augmentation is not None:
            varied = keras.ops.convert_to_numpy(self.augmentation(images, rng))
            if varied.shape != images.shape:
                raise ValueError(
                    f"`augmentation` must keep the shape of a batch, {images.shape}. "
                    f"Received: one that makes {varied.shape}"
                )
            images = np.asarray(varied, "float32")
        if int((step + 1) * self.mixtures) > int(step * self.mixtures):
            part = rng.uniform(size=(len(images), *[1] * (images.ndim - 1)))
            part = part.astype("float32")
            images = part * images + (1 - part) * images[::-1]
            weights = (weights + weights[::-1]) / 2
            labels = np.full_like(labels, UNKNOWN)
        return images, labels, weights


def plain(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch as `fit` takes it, as it is."""
    images = np.asarray(batch.x, "float32")
    labels = np.full(len(images), UNKNOWN) if batch.y is None else batch.y
    weights = np.ones(len(images)) if batch.weight is None else batch.weight
    return images, labels.astype("int32"), np.asarray(weights, "float32").reshape(-1)


def held_out(data: Batch, share: float, seed: int) -> tuple[Batch, Batch]:
    """Arrays in two: most of them, and a random share."""
    order = np.random.default_rng((seed, 2)).permutation(len(data.x))
    count = max(1, round(share * len(order)))
    return _rows(data, np.sort(order[count:])), _rows(data, np.sort(order[:count]))


def _rows(data: Batch, rows: np.ndarray) -> Batch:
    y, weight = (None if v is None else v[rows] for v in data[1:])
    return Batch(data.x[rows], y, weight)


def as_arrays(x: Any, y: Any, sample_weight: Any) -> Batch | None:
    """Arrays as they were given, or None for a dataset."""
    if isinstance(x, dict) and len(x) == 1:
        (x,) = x.values()
    if y is None and sample_weight is None and not hasattr(x, "shape"):
        return None
    size = max(1, len(x)) if hasattr(x, "__len__") else 1
    return next(batches(x, y, sample_weight, batch_size=size), None)
