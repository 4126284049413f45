"""Nets of inverted residuals: what MobileNetV2 and EfficientNet-Lite have in common.

Names of layers: `stem_conv`, `stem_bn`; blocks `stage2_block1` that may be gated, and
`stage1_block1_depthwise_conv` and so on, plain layers, where a block does not widen;
`head_conv`, `head_bn`, `predictions`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from keras_dyngate._checks import fraction
from keras_dyngate.layers.gated_block import conv_bn
from keras_dyngate.layers.gated_inverted_residual import (
    GatedInvertedResidual,
    depthwise_bn,
)
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.parts import apply_head, check_sizes, normalize
from keras_dyngate.models.weight_files import load_weights

EPSILON, MOMENTUM = 1e-3, 0.99  # of every batch normalization


class Stage(NamedTuple):
    """Blocks of one width.

    Attributes:
        kernel_size: Of the depthwise convolutions.
        blocks: How many.
        filters: Channels they put out.
        strides: Of the first block.
        expansion: Wide channels per channel of a block's input; 1: none.
    """

    kernel_size: int
    blocks: int
    filters: int
    strides: int
    expansion: int


def divisible(channels: float) -> int:
    """The multiple of 8 nearest to so many channels, and not below 0.9 of them."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def build_inverted_residuals(
    stem: int,
    stages: Sequence[Stage],
    head: int,
    *,
    gates: Gates | None,
    side: int,
    mean: float,
    std: float,
    include_top: bool,
    weights: str | os.PathLike[str] | None,
    input_shape: Sequence[int | None] | None,
    pooling: str | None,
    classes: int,
    classifier_activation: Any,
    name: str | None,
    include_preprocessing: bool,
    dropout_rate: float = 0.0,
    theirs: Callable[[int | None], keras.Model] | None = None,
) -> keras.Model:
    """Build a net; what is not said here is as in the constructors.

    Args:
        stem: Channels of the first convolution.
        stages: The blocks.
        head: Channels of the last convolution.
        side: Of the images, by default.
        mean, std: By which RGB is normalised, of images from 0 to 1.
        theirs: See `load_weights`.
    """
    if gates is not None and not isinstance(gates, Gates):
        raise ValueError(
            f"`gates` must be a `Gates` or None. Received: gates={gates!r}"
        )
    shape, classes = check_sizes(side, input_shape, pooling, classes)
    image = x = keras.Input(shape, name="image")
    if include_preprocessing:
        channels = shape[-1] or 1
        x = normalize(x, [mean] * channels, [std] * channels)
    x = _activated(x, conv_bn(stem, 3, 2, "stem_conv", *_NORM, padding="same"), "stem")
    for number, stage in enumerate(stages, 1):
        for index in range(1, stage.blocks + 1):
            place = f"stage{number}_block{index}"
            x = _block(x, stage, stage.strides if index == 1 else 1, gates, place)
    x = _activated(x, conv_bn(head, 1, 1, "head_conv", *_NORM), "head")
    rate = fraction("dropout_rate", dropout_rate)
    x = apply_head(x, include_top, pooling, classes, classifier_activation, rate)
    model = keras.Model(image, x, name=name)
    if weights is not None:
        load_weights(model, weights, theirs)
    return model


_NORM = EPSILON, MOMENTUM


def _activated(x: Any, pair: tuple[Any, Any], name: str) -> Any:
    """A convolution, its BN and ReLU6."""
    conv, norm = pair
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(norm(conv(x)))


def _block(x: Any, stage: Stage, strides: int, gates: Gates | None, name: str) -> Any:
    """One inverted residual, gated where there is something to gate."""
    channels = x.shape[-1]
    adds = strides == 1 and channels == stage.filters
    if stage.expansion == 1:
        parts = depthwise_bn(
            stage.kernel_size, strides, f"{name}_depthwise_conv", *_NORM
        )
        y = _activated(x, parts, f"{name}_depthwise")
        conv, norm = conv_bn(stage.filters, 1, 1, f"{name}_project_conv", *_NORM)
        y = norm(conv(y))
        return keras.layers.Add(name=f"{name}_add")([x, y]) if adds else y
    inner = channels * stage.expansion
    return GatedInvertedResidual(
        stage.filters,
        inner,
        stage.kernel_size,
        strides,
        channel_gate=None if gates is None else gates.for_channels([inner], name),
        layer_gate=gates.for_layer() if gates is not None and adds else None,
        bn_epsilon=EPSILON,
        bn_momentum=MOMENTUM,
        name=name,
    )(x)
