"""Images, labels and weights in batches, from whatever Keras' own `fit` takes.

    for images, labels, weights in batches(x, y):
        ...

Arrays, `tf.data`, `keras.utils.PyDataset`, generators, lists of batches.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dyngate._graph import Call


class Batch(NamedTuple):
    """Some samples; labels and weights may be None."""

    x: np.ndarray
    y: Any
    weight: Any


def batches(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int = 32,
    steps: int | None = None,
) -> Iterator[Batch]:
    """Batches of arrays or of a dataset.

    Args:
        x: Images `[N, ...]`, or a dataset whose batches are images, (images, labels) or
            (images, labels, weights).
        y: Labels of all images, with images only.
        sample_weight: Weights of all images, with images only.
        batch_size: Of arrays; a dataset has its own.
        steps: How many batches to take. Default: all.

    Raises:
        ValueError: If labels or weights are not as many as images, or come twice; if a
            dataset goes on for ever.
    """
    if isinstance(x, dict) and len(x) == 1:
        (x,) = x.values()
    if isinstance(x, tuple) and all(hasattr(part, "shape") for part in x):
        raise ValueError(
            "`x` must be images or a dataset of batches; labels of images are `y`. "
            f"Received: a tuple of {len(x)} arrays"
        )
    if y is not None or sample_weight is not None or hasattr(x, "shape"):
        found = _of_arrays(x, y, sample_weight, batch_size)
    else:
        found = (_batch(item) for item in _items(x, steps))
    return itertools.islice(found, steps)


def _of_arrays(x: Any, y: Any, weight: Any, size: int) -> Iterator[Batch]:
    if not hasattr(x, "shape") and not isinstance(x, (list, tuple)):
        raise ValueError(
            "`y` and `sample_weight` go with an array `x`; a dataset has its own. "
            f"Received: x of type {type(x).__name__}"
        )
    images = np.asarray(x)
    rest: list[Any] = []
    for name, values, what in (("y", y, "label"), ("sample_weight", weight, "weight")):
        values = None if values is None else np.asarray(values)
        count = None if values is None else values.shape[:1]
        if values is not None and count != images.shape[:1]:
            raise ValueError(
                f"`{name}` must have a {what} for each of the {len(images)} samples. "
                f"Received: {f'{len(values)} {what}s' if count else f'one {what}'}"
            )
        rest.append(values)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield Batch(images[part], *(None if v is None else v[part] for v in rest))


def _items(x: Any, steps: int | None) -> Iterable[Any]:
    """The items of a dataset, once through."""
    if isinstance(x, keras.utils.PyDataset):
        count = x.num_batches
        endless = count is None
        found: Iterable[Any] = (
            x[i] for i in (itertools.count() if endless else range(count))
        )
    else:
        if callable(x) and not hasattr(x, "__iter__"):
            x = x()
        cardinality = getattr(x, "cardinality", None)
        endless = cardinality is not None and int(cardinality()) == -1
        if not hasattr(x, "__iter__"):
            raise ValueError(
                "`x` must be images or a dataset of batches. "
                f"Received: x of type {type(x).__name__}"
            )
        found = x
    if endless and steps is None:
        raise ValueError(
            f"`x` must come to an end: this dataset repeats for ever. Received: x={x!r}"
        )
    return found


def _batch(item: Any) -> Batch:
    parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            "`x` must have batches of images, (images, labels) or (images, labels, "
            f"weights). Received: a batch of {len(parts)} parts"
        )
    images, *rest = parts
    if isinstance(images, dict) and len(images) == 1:
        (images,) = images.values()
    images = np.asarray(images)
    y, weight = (*(None if v is None else np.asarray(v) for v in rest), None, None)[:2]
    for name, values in (("labels", y), ("weights", weight)):
        if values is not None and (values.ndim == 0 or len(values) != len(images)):
            raise ValueError(
                f"`x` must have as many {name} as images in each batch (is the dataset "
                f"batched?). Received: images of shape {images.shape}, {name} of shape "
                f"{values.shape}"
            )
    return Batch(images, y, weight)


def as_keras_data(x: Any, y: Any = None) -> Any:
    """A list of batches as a dataset that Keras takes; anything else as it is."""
    tuples = isinstance(x, list) and x and all(isinstance(b, tuple) for b in x)
    return _Listed(x) if tuples and y is None else x


class _Listed(keras.utils.PyDataset):
    """A list of batches."""

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__()
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def fitting(images: Any, shape: Sequence[int | None]) -> Any:
    """Images of a net's shape; grey ones get their channel, as Keras gives it to them.

    Args:
        images: A batch.
        shape: Of the net's input, batch first.

    Raises:
        ValueError: If they are of another shape.
    """
    found = tuple(images.shape)
    if len(found) == len(shape) - 1 and shape[-1] == 1:
        return images[..., None]
    known = zip(found[1:], shape[1:], strict=False)
    if len(found) != len(shape) or any(n is not None and a != n for a, n in known):
        raise ValueError(
            f"`x` must have batches of shape {tuple(shape)}. "
            f"Received: a batch of shape {found}"
        )
    return images


def class_indices(labels: Any, classes: int) -> np.ndarray:
    """Labels as int `[N]`.

    Args:
        labels: Class indices `[N]` or `[N, 1]`, or one-hot `[N, classes]`. For one
            class: 0 or 1.
        classes: How many there are.

    Raises:
        ValueError: If they are anything else.
    """
    found = np.asarray(labels)
    top = max(classes, 2) - 1
    wanted = f"`y` must hold class indices from 0 to {top}" + (
        ", or be one-hot" if classes > 1 else ""
    )
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{wanted}. Received: labels of type {found.dtype}")
    if found.ndim == 2 and found.shape[1] == classes and classes > 1:
        if not ((found > 0).sum(1) == 1).all():
            raise ValueError(f"{wanted}. Received: rows without one class above 0")
        return found.argmax(-1)
    if found.ndim > 2 or (found.ndim == 2 and found.shape[1] != 1):
        raise ValueError(f"{wanted}. Received: labels of shape {found.shape}")
    found = found.reshape(-1)
    if not (found == np.round(found)).all():  # NaN is no number either
        first = found[found != np.round(found)][0]
        raise ValueError(f"{wanted}. Received: {first}, not a whole number")
    if found.size and not (0 <= found.min() and found.max() <= top):
        raise ValueError(
            f"{wanted}. Received: values from {found.min()} to {found.max()}"
        )
    return found.astype("int64")


def takes_bytes(calls: Iterable[Call]) -> bool:
    """Whether a net scales its images down from 0..255 itself, as far as can be told."""
    for call in calls:
        layer = call.operation
        if isinstance(layer, keras.layers.Rescaling):
            return float(np.max(np.abs(layer.scale))) < 1 / 64
        if isinstance(layer, keras.layers.Normalization):
            return float(np.max(keras.ops.convert_to_numpy(layer.mean))) > 2.0
        if getattr(layer, "trainable_weights", None):
            return False
    return False
