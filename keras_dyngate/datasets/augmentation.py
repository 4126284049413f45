"""Augmentations: functions of (image, label, seed) that draw from the seed alone."""

from typing import Any

import tensorflow as tf

from keras_dyngate.datasets.split import Augment


def shift_and_mirror(padding: int = 4, mirror: bool = True) -> Augment:
    """Zeros around the picture, a random crop of its size, and a mirror image half the time.

    Args:
        padding: Zeros on each side. Default 4, CIFAR's usual.
        mirror: Whether to mirror; digits and letters must not be.
    """

    def augment(image: Any, label: Any, seed: Any) -> tuple[Any, Any]:
        seeds = tf.random.split(seed, 2)
        padded = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
        image = tf.image.stateless_random_crop(padded, image.shape, seeds[0])
        if mirror:
            image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        return image, label

    return augment
