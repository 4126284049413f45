"""What the builders share: checks of arguments, the image, the stem, the head."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._checks import channels_last, one_of, positive_int
from keras_dyngate.layers.gated_block import conv_bn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Side of the images and number of classes that a stem is made for.
STEMS = {"imagenet": (224, 1000), "cifar": (32, 10)}


def check_arguments(
    stem: str,
    input_shape: Sequence[int | None] | None,
    pooling: str | None,
    classes: int | None,
) -> tuple[tuple[int | None, ...], int]:
    """The shape of the images and the number of classes, by the stem if not given.

    Raises:
        ValueError: For a bad argument, or if Keras is set to channels first.
    """
    side, default_classes = STEMS[one_of("stem", stem, tuple(STEMS))]
    classes = default_classes if classes is None else classes
    return check_sizes(side, input_shape, pooling, classes)


def check_sizes(
    side: int,
    input_shape: Sequence[int | None] | None,
    pooling: str | None,
    classes: int,
) -> tuple[tuple[int | None, ...], int]:
    """The shape of the images, RGB of `side` if not given, and the number of classes.

    Raises:
        ValueError: For a bad argument, or if Keras is set to channels first.
    """
    channels_last(None)
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}"
        )
    shape = tuple(input_shape or (side, side, 3))
    turned = shape[0] in (1, 3) and shape[-1] not in (1, 3)  # channels first
    if len(shape) != 3 or shape[-1] is None or turned:
        raise ValueError(
            "`input_shape` must be (height, width, channels) with known channels. "
            f"Received: input_shape={input_shape!r}"
        )
    return shape, positive_int("classes", classes)


def normalization(mean: Sequence[float], std: Sequence[float]) -> keras.Layer:
    """Of RGB from 0 to 255, by `mean` and `std` of images from 0 to 1."""
    return keras.layers.Normalization(
        mean=[255.0 * m for m in mean],
        variance=[(255.0 * s) ** 2 for s in std],
        name="preprocessing",
        dtype="float32",  # its constants would be rounded with the weights' policy
    )


def normalize(x: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """`x` through a new `normalization`."""
    return normalization(mean, std)(x)


def apply_stem(x: Any, filters: int, stem: str) -> Any:
    """The first convolution, BN and ReLU; for "imagenet", 7x7, stride 2 and a pool."""
    large = stem == "imagenet"
    conv, norm = conv_bn(
        filters, 7 if large else 3, 2 if large else 1, "conv1", 1e-5, 0.9
    )
    if large:
        x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(x)
    x = keras.layers.ReLU(name="relu1")(norm(conv(x)))
    if large:
        x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    return x


def apply_head(
    x: Any,
    include_top: bool,
    pooling: str | None,
    classes: int,
    activation: Any,
    dropout_rate: float = 0.0,
) -> Any:
    """Average pooling and the classifier, or without the top the pooling asked for."""
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    if include_top and dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name="dropout")(x)
    if include_top:
        x = keras.layers.Dense(classes, activation=activation, name="predictions")(x)
    return x
