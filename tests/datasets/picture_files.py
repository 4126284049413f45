"""Pictures in folders, each of one colour that tells which it is; and checks of splits."""

import numpy as np
import tensorflow as tf


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def write_jpeg(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_jpeg(pixels, quality=100).numpy())


def plain(value, height=8, width=8):
    return np.full((height, width, 3), value, "uint8")


def write_classes(folder, numbers, first=0):
    """`<folder>/<class>/*.png`, their colours counted from `first`; the next colour."""
    for name, count in numbers.items():
        for _ in range(count):
            write_png(folder / name / f"{first:03}.png", plain(first))
            first += 1
    return first


def colours(split):
    """The colours of all pictures of a split, in order."""
    images, _ = split.arrays()
    assert np.ptp(images, (1, 2, 3)).max() == 0
    return images[:, 0, 0, 0].astype(int).tolist()


def take(stream, count):
    """The first batches, as arrays."""
    batches = list(stream.take(count).as_numpy_iterator())
    return [np.stack([batch[part] for batch in batches]) for part in (0, 1)]


def check_stream(split, batch_size=4):
    """The same again when it is entered late, in an epoch or the next, and in shards."""
    steps = split.steps(batch_size)
    images, labels = take(split.stream(batch_size, seed=3), steps + 2)
    assert images.dtype == "float32"
    late = take(split.stream(batch_size, seed=3, start=steps), 2)
    shards = [
        take(split.stream(batch_size, seed=3, start=1, shard=(i, 2)), steps)
        for i in (0, 1)
    ]
    for part, whole in enumerate((images, labels)):
        np.testing.assert_array_equal(late[part], whole[steps:])
        joined = np.concatenate([shard[part] for shard in shards], 1)
        np.testing.assert_array_equal(joined, whole[1 : steps + 1])
