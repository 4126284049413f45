"""MobileNetV2, plain and gated.

model = gated_mobilenet_v2(gates=Gates(groups=2, layer="binary"))
plain = mobilenet_v2(weights="mobilenet_v2.weights.h5")
"""

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._checks import positive_number
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.inverted_residuals import (
    Stage,
    build_inverted_residuals,
    divisible,
)

STAGES = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 2, 6),
    Stage(3, 3, 32, 2, 6),
    Stage(3, 4, 64, 2, 6),
    Stage(3, 3, 96, 1, 6),
    Stage(3, 3, 160, 2, 6),
    Stage(3, 1, 320, 1, 6),
)


def gated_mobilenet_v2(
    *,
    alpha: float = 1.0,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.0,
    name: str | None = "gated_mobilenet_v2",
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """MobileNetV2 with gates, for 224x224 images.

    Channel gates are on the wide channels of every block that widens, layer gates around
    every block of these that has a shortcut. With all gates open the net computes what
    `keras.applications.MobileNetV2` does. The gates are a design of this library.

    Args:
        alpha: Multiplies the channels of every layer, in multiples of 8. Default 1.
        include_top: Whether to end in average pooling and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5` or `.h5`, of a net made
            here or by `keras.applications.MobileNetV2`.
        input_shape: (height, width, channels); default (224, 224, 3).
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. Default 1000.
        classifier_activation: Of the dense layer; None for logits.
        dropout_rate: Before the dense layer. Default 0.
        name: Of the model.
        include_preprocessing: Whether the model brings its input, RGB from 0 to 255, to
            -1 to 1.
        gates: Which gates. Default: one for each channel, none for layers.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    References:
        Sandler et al.: MobileNetV2, CVPR 2018, arXiv 1801.04381.

    Example:
        ```python
        gates = kd.Gates(groups=2, layer="binary")
        model = kd.gated_mobilenet_v2(
            gates=gates, alpha=0.35, input_shape=(32, 32, 3), classes=10
        )
        ```
    """
    positive_number("alpha", alpha)

    def theirs(classes: int | None) -> keras.Model:
        return keras.applications.MobileNetV2(
            input_shape=(224, 224, (input_shape or (3,))[-1]),
            alpha=alpha,
            include_top=classes is not None,
            weights=None,
            classes=classes or 1,
        )

    return build_inverted_residuals(
        divisible(32 * alpha),
        [s._replace(filters=divisible(int(s.filters * alpha))) for s in STAGES],
        divisible(1280 * max(1.0, alpha)),
        gates=gates,
        side=224,
        mean=0.5,
        std=0.5,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        include_preprocessing=include_preprocessing,
        dropout_rate=dropout_rate,
        theirs=theirs,
    )


def mobilenet_v2(
    *,
    alpha: float = 1.0,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.0,
    name: str | None = "mobilenet_v2",
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain MobileNetV2, for 224x224 images: `gated_mobilenet_v2` without gates.

    Args, returns, errors: See `gated_mobilenet_v2`.

    Example:
        ```python
        model = kd.mobilenet_v2(alpha=0.35, input_shape=(32, 32, 3), classes=10)
        ```
    """
    return gated_mobilenet_v2(
        alpha=alpha,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
        gates=None,
    )
