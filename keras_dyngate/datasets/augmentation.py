"""Views of pictures: how they are shown for judging, and varied for training.

An augmentation is a function of (image, label, seed) that draws from the seed alone.
"""

from typing import Any

import tensorflow as tf

from keras_dyngate.datasets.split import Augment, Prepare


def shift_and_mirror(padding: int = 4, mirror: bool = True) -> Augment:
    """Zeros around the picture, a random crop of its size, mirrored half the time.

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


def crop_and_mirror(size: int) -> Augment:
    """A random part of the picture, resized to `[size, size]`, mirrored half the time.

    The part has .08 to 1 of the area and sides of a ratio from 3/4 to 4/3.
    """

    def augment(image: Any, label: Any, seed: Any) -> tuple[Any, Any]:
        seeds = tf.random.split(seed, 2)
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            seeds[0],
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        part = tf.slice(image, begin, extent)
        part = tf.image.resize(part, (size, size), antialias=True)
        return tf.image.stateless_random_flip_left_right(part, seeds[1]), label

    return augment


def resize_and_crop(size: int, shorter: int) -> Prepare:
    """The centre `[size, size]` of the picture, its shorter side resized to `shorter`."""

    def prepare(image: Any, label: Any) -> tuple[Any, Any]:
        sides = tf.cast(tf.shape(image)[:2], tf.float64)
        target = tf.cast(tf.round(sides * shorter / tf.reduce_min(sides)), tf.int32)
        image = tf.image.resize(image, target, antialias=True)
        top, left = tf.unstack((target - size) // 2)
        image = image[top : top + size, left : left + size]
        return tf.ensure_shape(image, (size, size, 3)), label

    return prepare


def classification_views(size: int, shift: bool) -> tuple[Prepare, Augment]:
    """How `[size, size]` pictures are made for judging, and for training.

    Args:
        size: Of the side.
        shift: Whether pictures are small and about one thing: judged whole and shifted
            by an eighth. If not, judged by their centre, 224 of 256 pixels, and
            trained on random parts.
    """
    if not shift:
        return resize_and_crop(size, round(size * 256 / 224)), crop_and_mirror(size)
    whole = resize_and_crop(size, size)
    vary = shift_and_mirror(size // 8)

    def augment(image: Any, label: Any, seed: Any) -> tuple[Any, Any]:
        return vary(*whole(image, label), seed)

    return whole, augment
