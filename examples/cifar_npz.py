"""What the CIFAR-10 examples share: an .npz of images, split and augmented.

The file holds `x_train`, `y_train`, `x_test`, `y_test`; images are [N, 32, 32, 3], 0 to
255. The last tenth of the training images is kept for validation; the test images are
for one look, at the end.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Split(NamedTuple):
    """Images, float32, and their class indices."""

    x: np.ndarray
    y: np.ndarray


def load(path: str) -> tuple[Split, Split, Split]:
    """Training, validation and test images of a file."""
    with np.load(path, allow_pickle=False) as file:
        x, y = file["x_train"].astype("float32"), file["y_train"].ravel()
        test = Split(file["x_test"].astype("float32"), file["y_test"].ravel())
    held = len(x) // 10
    return Split(x[:-held], y[:-held]), Split(x[-held:], y[-held:]), test


def augmented(data: Split, seed: int, batch_size: int = 128) -> tf.data.Dataset:
    """Batches of shifted and mirrored pictures, as these nets were trained."""

    def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.random_flip_left_right(tf.pad(image, [[4, 4], [4, 4], [0, 0]]))
        return tf.image.random_crop(image, (32, 32, 3)), label

    pairs = tf.data.Dataset.from_tensor_slices(tuple(data)).shuffle(len(data.x), seed)
    return pairs.map(augment, tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def copies(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each picture shifted by up to 4 pixels, and mirrored half of the time."""
    padded = np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)])
    found = np.empty_like(x)
    for i, (row, column) in enumerate(rng.integers(0, 9, (len(x), 2))):
        cut = padded[i, row : row + 32, column : column + 32]
        found[i] = cut[:, ::-1] if rng.random() < 0.5 else cut
    return found
