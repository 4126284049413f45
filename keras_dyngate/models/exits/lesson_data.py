"""Pictures for teaching exits: varied, mixed, without end, from any place of the run.

    stream = Stream(x, y, batch_size=32, mixtures=0.5, augmentation=vary, seed=0)
    for images, labels, weights in stream(start=0):    # labels of -1 are unknown

A mixture of two pictures has no label, but a teacher has an answer to it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import fraction
from keras_dyngate.models.exits.data import Batch, batches
from keras_dyngate.models.exits.variation import Augmentation

UNKNOWN = -1  # the label of a picture that has none
MIXTURES = 0.5  # of the batches, where there is a teacher


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
        augmentation: See `variation.resolve_augmentation`.
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
