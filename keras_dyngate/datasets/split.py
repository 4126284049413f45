"""Labelled pictures one by one, and the streams of batches made of them.

    for images, labels in split.batches(128):  # in order, once, as they are
        ...
    stream = split.stream(128, seed=0, start=1000)  # shuffled, augmented, without end

Batch `n` of a stream depends on the seed and on `n` alone: the order of an epoch is a
permutation that is computed, not drawn, and an augmentation draws from a seed of its own
for every picture. So entering a stream late gives what going through it would have given.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate._checks import positive_int
from keras_dyngate.pictures import check_pixels

_ENDLESS = np.iinfo(np.int64).max

Load = Callable[[Any], tuple[Any, Any]]
Prepare = Callable[[Any, Any], tuple[Any, Any]]
Augment = Callable[[Any, Any, Any], tuple[Any, Any]]


def as_they_are(image: Any, label: Any) -> tuple[Any, Any]:
    """Pictures of one size need no preparation."""
    return image, label


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled pictures of one kind of use: training, validation or test.

    Attributes:
        size: How many.
        load: From an index, int64 scalar, to (image, label), in TensorFlow: RGB 0 to 255
            `[height, width, 3]`, and a class index or a label map `[height, width]`.
        prepare: From (image, label) to what a model is shown when it is judged.
        augment: From (image, label, seed `[2]`) to what it is trained on; None: the
            same as `prepare`.
        unreadable: Names of files that could not be read so far, shared by the parts a
            split is divided into.
        gaps: Whether `load` may give an image without pixels, for one that cannot be
            read. A stream has the next readable picture instead; batches leave it out.
    """

    size: int
    load: Load
    prepare: Prepare = as_they_are
    augment: Augment | None = None
    unreadable: list[str] = dataclasses.field(default_factory=list)
    gaps: bool = False

    @classmethod
    def of_arrays(
        cls, images: np.ndarray, labels: np.ndarray, augment: Augment | None = None
    ) -> "Split":
        """A split of pictures in memory: `[N, height, width, 3]`, 0 to 255, and `[N]`.

        Raises:
            ValueError: Unless there are as many labels as images, one at least; labels
                are class indices, from 0 on; and images are of 0 to 255, not of 0 to 1.
        """
        if len(images) != len(labels) or not len(images):
            raise ValueError(
                "`images` and `labels` must be equally many, one at least. "
                f"Received: {len(images)} images, {len(labels)} labels"
            )
        whole = labels.dtype.kind in "iuf" and (np.floor(labels) == labels).all()
        if labels.size != len(labels) or not whole or not np.isfinite(labels).all():
            raise ValueError(
                "`labels` must be class indices, whole numbers [N] or [N, 1]. "
                f"Received: {labels.dtype} {list(labels.shape)}, {labels.ravel()[0]} "
                "first"
            )
        if labels.min() < 0:
            raise ValueError(
                f"`labels` must be class indices, from 0 on. Received: {labels.min()}"
            )
        check_pixels("`images`", images)
        with tf.device("CPU"):
            x = tf.constant(images)
            y = tf.constant(labels.reshape(len(labels)).astype("int32"))
        return cls(
            len(images), lambda i: (tf.gather(x, i), tf.gather(y, i)), augment=augment
        )

    def __len__(self) -> int:
        return self.size

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch of `stream`; what does not fill one is left for others.

        Raises:
            ValueError: If not even one batch can be filled.
        """
        steps = self.size // positive_int("batch_size", batch_size)
        if not steps:
            raise ValueError(
                f"`batch_size` must not exceed the {self.size} training images. "
                f"Received: batch_size={batch_size}"
            )
        return steps

    def uint8_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All pictures as a model is judged on them, uint8 `[N, ...]`, and labels.

        Raises:
            ValueError: If a picture cannot be read.
        """
        try:
            pairs = [(np.rint(x), y) for x, y in self.batches(64).as_numpy_iterator()]
        except Exception as error:  # TensorFlow's: with a traceback, and ours within it
            reason = str(error).rpartition("Unreadable: ")[2].splitlines()[0]
            raise ValueError(reason) from error
        x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return x.astype("uint8"), y

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """All pictures in order, once, not augmented; the last batch may be short."""
        positive_int("batch_size", batch_size)
        pairs = tf.data.Dataset.range(self.size).map(self.load, tf.data.AUTOTUNE)
        if self.gaps:
            pairs = pairs.filter(lambda image, label: tf.size(image) > 0)
        pairs = pairs.map(
            lambda image, label: _as_float(*self.prepare(image, label)),
            tf.data.AUTOTUNE,
        )
        return pairs.batch(batch_size).prefetch(2)

    def stream(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        start: int = 0,
        augment: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Shuffled batches without end, anew in every epoch of `steps(batch_size)`.

        Args:
            batch_size: Images per step, over all hosts.
            seed: Of order and augmentation.
            start: The step to begin with.
            augment: Whether pictures are augmented.
            shard: (index, count): this host's rows of every batch.

        Raises:
            ValueError: If the batch is larger than the split, or not a multiple of the
                number of shards.
        """
        steps = self.steps(batch_size)
        index, count = shard
        if batch_size % count or not 0 <= index < count:
            raise ValueError(
                "`shard` must be (index, count) with a count that divides the batch. "
                f"Received: shard={shard} for batch_size={batch_size}"
            )
        rows = batch_size // count

        def fetch(position: Any) -> tuple[Any, Any]:
            place = (position // rows) * batch_size + index * rows + position % rows
            epoch = place // (steps * batch_size)
            chosen = tf.random.experimental.index_shuffle(
                place % (steps * batch_size),
                seed=tf.stack([np.int64(seed), epoch]),
                max_index=np.int64(self.size - 1),
            )
            image, label = self._load_readable(chosen)
            if self.augment is None or not augment:
                return _as_float(*self.prepare(image, label))
            return _as_float(
                *self.augment(image, label, tf.stack([np.int64(seed), place]))
            )

        return (
            tf.data.Dataset.range(start * rows, _ENDLESS)
            .map(fetch, tf.data.AUTOTUNE, deterministic=True)
            .batch(rows, drop_remainder=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def _load_readable(self, index: Any) -> tuple[Any, Any]:
        """The picture of this index, or the next one that can be read."""
        image, label = self.load(index)
        if not self.gaps:
            return image, label

        def following(index: Any, *unread: Any) -> tuple[Any, Any, Any]:
            index = (index + 1) % self.size
            return index, *self.load(index)

        _, image, label = tf.while_loop(
            lambda index, image, label: tf.equal(tf.size(image), 0),
            following,
            (index, image, label),
            maximum_iterations=self.size - 1,
        )
        message = f"None of {self.size} pictures can be read."
        with tf.control_dependencies(
            [tf.debugging.assert_positive(tf.size(image), message)]
        ):
            return tf.identity(image), label

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """The pictures of these indices, in this order."""
        with tf.device("CPU"):
            chosen = tf.constant(np.asarray(indices, "int64"))
        load = self.load
        return dataclasses.replace(
            self, size=len(indices), load=lambda i: load(tf.gather(chosen, i))
        )

    def hold_out(self, count: int, seed: int = 0) -> tuple["Split", "Split"]:
        """(the rest, `count` pictures chosen by `seed`); those are not augmented.

        Raises:
            ValueError: Unless `count` leaves a picture on both sides.
        """
        if not 0 < count < self.size:
            raise ValueError(
                f"`validation` must be from 1 to {self.size - 1}. Received: {count}"
            )
        order = np.random.default_rng(seed).permutation(self.size)
        held = dataclasses.replace(self, augment=None).subset(np.sort(order[:count]))
        return self.subset(np.sort(order[count:])), held

    def arrays(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The first `limit` pictures as they are shown for judging, and their labels."""
        count = self.size if limit is None else min(limit, self.size)
        found = list(self.subset(range(count)).batches(256).as_numpy_iterator())
        return np.concatenate([x for x, _ in found]), np.concatenate(
            [y for _, y in found]
        )


def _as_float(image: Any, label: Any) -> tuple[Any, Any]:
    return tf.cast(image, tf.float32), label


@dataclasses.dataclass(frozen=True)
class Data:
    """A dataset: three disjoint splits and what their labels mean.

    Attributes:
        name: For results: which data these are.
        classes: Names of the classes.
        train, validation, test: The splits. Choose on validation, report on test, once.
        image_shape: (height, width, 3) of what a model is shown.
        ignore_class: Of label maps, the label that stands for no class; None otherwise.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    image_shape: tuple[int, int, int]
    ignore_class: int | None = None
