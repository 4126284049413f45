"""Heads of exits: small nets from a feature map to class scores, sized for their place.

    head = separable_head(shape=(10, 10, 80), classes=81, macs=2_000_000)

All sizes here are designs of this library: see `add_decision_gates`.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate.cost import count_macs

HEAD_SHARE = 0.02  # of the net's MACs that a head may cost
ROWS = 6  # of the last map at most
DROPOUT = 0.2
MOMENTUM = 0.97  # of normalization: few steps have to do
WIDTHS = (192, 160, 128, 96, 64, 48, 32, 24, 16)  # of the first, tried in turn


def _strides(shape: Sequence[int], convolutions: int) -> tuple[int, list[int]]:
    """Averaging before the convolutions, and their strides, to at most `ROWS` rows."""
    rows = min(shape[0], shape[1])
    strides = []
    for _ in range(convolutions):
        strides.append(2 if rows > ROWS else 1)
        rows = -(-rows // strides[-1])
    pool = 1
    while -(-rows // pool) > ROWS:
        pool *= 2
    return pool, strides


def _checked(kind: str, shape: Sequence[int | None]) -> list[int]:
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"`head={kind!r}` needs feature maps of known height and width. "
            f"Received: features of shape {tuple(shape)}"
        )
    return [int(side) for side in shape if side is not None]


def _conv_body(shape: Sequence[int], classes: int, width: int) -> keras.Model:
    layers = keras.layers
    image = keras.Input(shape)
    x = layers.Conv2D(2 * width, 1, use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=MOMENTUM)(x))
    x = layers.Dropout(DROPOUT)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes)(x))


def _separable_body(shape: Sequence[int], classes: int, width: int) -> keras.Model:
    layers = keras.layers
    image = keras.Input(shape)
    pool, strides = _strides(shape, 2)
    x = layers.AveragePooling2D(pool, padding="same")(image) if pool > 1 else image
    for filters, stride in zip((width, 2 * width), strides, strict=True):
        x = layers.SeparableConv2D(
            filters, 3, strides=stride, padding="same", use_bias=False
        )(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=MOMENTUM)(x))
    x = layers.Dropout(DROPOUT)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes)(x))


_BODIES: dict[str, Any] = {"conv": _conv_body, "separable": _separable_body}
KINDS = ("linear", *_BODIES)


def head_body(
    kind: str, shape: Sequence[int | None], classes: int, macs: float
) -> keras.Model:
    """A head of a kind, as wide as a budget allows.

    Args:
        kind: "conv", one 1x1 convolution, pooling and a linear layer; "separable", two
            3x3 separable convolutions before those, with strides until the map has at
            most 6 rows.
        shape: Of the features, `(height, width, channels)`.
        classes: Number of outputs.
        macs: Most multiply-adds that it may cost. The narrowest head is made where even
            that costs more.

    Returns:
        A functional model, untrained.

    Raises:
        ValueError: For features that are no maps of known size.
    """
    sides = _checked(kind, shape)
    for width in WIDTHS:
        body = _BODIES[kind](sides, classes, width)
        if count_macs(body).total <= macs:
            break
    return body
