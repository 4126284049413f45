"""Views of pictures with label maps: both are resized, cut and mirrored together.

prepare, augment = segmentation_views((512, 1024), (384, 384))
"""

from typing import Any

import tensorflow as tf

from keras_dyngate._checks import positive_int
from keras_dyngate.datasets.split import Augment, Prepare

IGNORE = 255
MEAN_COLOUR = (123.675, 116.28, 103.53)  # of ImageNet, on which trunks are trained


def side_pair(name: str, value: Any) -> tuple[int, int]:
    """`value` as (height, width), or a `ValueError` naming the argument `name`."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(
            f"`{name}` must be (height, width). Received: {name}={value!r}"
        )
    return positive_int(name, value[0]), positive_int(name, value[1])


def segmentation_views(
    image_size: tuple[int, int], crop_size: tuple[int, int]
) -> tuple[Prepare, Augment]:
    """How pictures and label maps are shown for judging, and varied for training.

    For judging, both are resized to `image_size`. For training they are resized to .5
    to 2 times that, and a random part is cut out and mirrored half the time. Where it
    does not fill `crop_size`, the mean colour and label 255 surround it. Labels are
    from 0 to 255.

    Args:
        image_size: (height, width).
        crop_size: (height, width) of the part.
    """

    def prepare(image: Any, label_map: Any) -> tuple[Any, Any]:
        return _resize(image, label_map, image_size)

    def augment(image: Any, label_map: Any, seed: Any) -> tuple[Any, Any]:
        seeds = tf.random.split(seed, 3)
        scale = tf.random.stateless_uniform((), seeds[0], 0.5, 2.0)
        both = tf.concat((image, tf.cast(label_map, image.dtype)[..., None]), -1)
        # The part is cut out first, so that no more than it is resized.
        sides = tf.shape(both)[:2]
        scales = scale * tf.cast(image_size, tf.float32) / tf.cast(sides, tf.float32)
        part = tf.minimum(_whole(tf.cast(crop_size, tf.float32) / scales), sides)
        size = tf.minimum(_whole(tf.cast(part, tf.float32) * scales), crop_size)
        both = tf.image.stateless_random_crop(both, (part[0], part[1], 4), seeds[1])
        both = tf.image.stateless_random_flip_left_right(both, seeds[2])
        image, label_map = _resize(both[..., :3], both[..., 3], size)

        lacking = crop_size - size
        margins = tf.stack((lacking // 2, lacking - lacking // 2), 1)
        label_map = tf.pad(label_map, margins, constant_values=IGNORE)
        image = tf.pad(image - MEAN_COLOUR, tf.pad(margins, ((0, 1), (0, 0))))
        return (
            tf.ensure_shape(image + MEAN_COLOUR, (*crop_size, 3)),
            tf.ensure_shape(label_map, crop_size),
        )

    return prepare, augment


def _whole(sides: Any) -> Any:
    return tf.maximum(tf.cast(tf.round(sides), tf.int32), 1)


def _resize(image: Any, label_map: Any, size: Any) -> tuple[Any, Any]:
    image = tf.image.resize(image, size, antialias=True)
    label_map = tf.image.resize(label_map[..., None], size, method="nearest")
    return image, tf.cast(label_map[..., 0], tf.int32)
