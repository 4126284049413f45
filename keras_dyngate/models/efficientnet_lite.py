"""EfficientNet-Lite 0 to 4, plain and gated: EfficientNets for phones.

    model = gated_efficientnet_lite0(gates=Gates(groups=2, layer="binary"))
    plain = efficientnet_lite0(weights="efficientnet_lite0.npz")

No squeeze-and-excite, ReLU6 throughout; stem and head have one size, and the first and
the last stage one block, in all five. The originals' stochastic depth, a matter of
training, is left out.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_dyngate.models.gates import Gates
from keras_dyngate.models.inverted_residuals import (
    Stage,
    build_inverted_residuals,
    divisible,
)

STAGES = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 2, 6),
    Stage(5, 2, 40, 2, 6),
    Stage(3, 3, 80, 2, 6),
    Stage(5, 3, 112, 1, 6),
    Stage(5, 4, 192, 2, 6),
    Stage(3, 1, 320, 1, 6),
)


class Scale(NamedTuple):
    """What a size of the family is: factors of channels and of blocks, side of images."""

    width: float
    depth: float
    side: int

    def stages(self) -> list[Stage]:
        """Its blocks; the first and the last stage are not repeated."""
        ends = (STAGES[0], STAGES[-1])
        return [
            stage._replace(
                filters=divisible(stage.filters * self.width),
                blocks=1 if stage in ends else math.ceil(stage.blocks * self.depth),
            )
            for stage in STAGES
        ]


SCALES = (
    Scale(1.0, 1.0, 224),
    Scale(1.0, 1.1, 240),
    Scale(1.1, 1.2, 260),
    Scale(1.2, 1.4, 280),
    Scale(1.4, 1.8, 300),
)


def _build(scale: Scale, **arguments: Any) -> keras.Model:
    return build_inverted_residuals(
        32,
        scale.stages(),
        1280,
        side=scale.side,
        mean=127 / 255,
        std=128 / 255,
        **arguments,
    )


def gated_efficientnet_lite0(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.2,
    name: str | None = "gated_efficientnet_lite0",
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """EfficientNet-Lite0 with gates, for 224x224 images.

    Channel gates are on the wide channels of every block that widens, layer gates around
    every block of these that has a shortcut. The gates are a design of this library.

    Args:
        include_top: Whether to end in average pooling, dropout and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with the
            names and layouts of the PyTorch package efficientnet-lite-pytorch.
        input_shape: (height, width, channels); default (224, 224, 3).
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. Default 1000.
        classifier_activation: Of the dense layer; None for logits.
        dropout_rate: Before the dense layer. Default 0.2.
        name: Of the model.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to 255,
            to `(x - 127) / 128`.
        gates: Which gates. Default: one for each channel, none for layers.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    References:
        Tan, Le: EfficientNet, ICML 2019, arXiv 1905.11946; its Lite variants, 2020.
    """
    return _build(
        SCALES[0],
        gates=gates,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def gated_efficientnet_lite1(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.2,
    name: str | None = "gated_efficientnet_lite1",
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """EfficientNet-Lite1 with gates; images of 240, else as Lite0's."""
    return _build(
        SCALES[1],
        gates=gates,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def gated_efficientnet_lite2(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.3,
    name: str | None = "gated_efficientnet_lite2",
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """EfficientNet-Lite2 with gates; images of 260, else as Lite0's."""
    return _build(
        SCALES[2],
        gates=gates,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def gated_efficientnet_lite3(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.3,
    name: str | None = "gated_efficientnet_lite3",
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """EfficientNet-Lite3 with gates; images of 280, else as Lite0's."""
    return _build(
        SCALES[3],
        gates=gates,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def gated_efficientnet_lite4(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.3,
    name: str | None = "gated_efficientnet_lite4",
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """EfficientNet-Lite4 with gates; images of 300, else as Lite0's."""
    return _build(
        SCALES[4],
        gates=gates,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def efficientnet_lite0(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.2,
    name: str | None = "efficientnet_lite0",
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain EfficientNet-Lite0: `gated_efficientnet_lite0` without gates."""
    return _build(
        SCALES[0],
        gates=None,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def efficientnet_lite1(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.2,
    name: str | None = "efficientnet_lite1",
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain EfficientNet-Lite1: `gated_efficientnet_lite1` without gates."""
    return _build(
        SCALES[1],
        gates=None,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def efficientnet_lite2(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.3,
    name: str | None = "efficientnet_lite2",
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain EfficientNet-Lite2: `gated_efficientnet_lite2` without gates."""
    return _build(
        SCALES[2],
        gates=None,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def efficientnet_lite3(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.3,
    name: str | None = "efficientnet_lite3",
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain EfficientNet-Lite3: `gated_efficientnet_lite3` without gates."""
    return _build(
        SCALES[3],
        gates=None,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )


def efficientnet_lite4(
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float = 0.3,
    name: str | None = "efficientnet_lite4",
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain EfficientNet-Lite4: `gated_efficientnet_lite4` without gates."""
    return _build(
        SCALES[4],
        gates=None,
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        name=name,
        include_preprocessing=include_preprocessing,
    )
