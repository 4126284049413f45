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

from keras_dyngate.models.depths import of_depth
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
    """What a size is: factors of channels and of blocks, side of images, dropout."""

    width: float
    depth: float
    side: int
    dropout: float

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
    Scale(1.0, 1.0, 224, 0.2),
    Scale(1.0, 1.1, 240, 0.2),
    Scale(1.1, 1.2, 260, 0.3),
    Scale(1.2, 1.4, 280, 0.3),
    Scale(1.4, 1.8, 300, 0.3),
)


def gated_efficientnet_lite(
    depth: int,
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float | None = None,
    name: str | None = None,
    include_preprocessing: bool = True,
    gates: Gates | None = Gates(),
) -> keras.Model:
    """EfficientNet-Lite of the given depth with gates.

    Channel gates are on the wide channels of every block that widens, layer gates around
    every block of these that has a shortcut. The gates are a design of this library.

    Args:
        depth: 0 to 4, the size of the net.
        include_top: Whether to end in average pooling, dropout and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with the
            names and layouts of the PyTorch package efficientnet-lite-pytorch.
        input_shape: (height, width, channels); default: RGB of 224, 240, 260, 280 or 300
            pixels a side, from Lite0 to Lite4.
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. Default 1000.
        classifier_activation: Of the dense layer; None for logits.
        dropout_rate: Before the dense layer. None: 0.2 for Lite0 and Lite1, else 0.3.
        name: Of the model. None: that of the function.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to 255,
            to `(x - 127) / 128`.
        gates: Which gates; None: no gates. Default: one for each channel, none for
            layers.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    References:
        Tan, Le: EfficientNet, ICML 2019, arXiv 1905.11946; its Lite variants, 2020.

    Example:
        ```python
        gates = kd.Gates(groups=2, layer="binary")
        model = kd.gated_efficientnet_lite0(
            gates=gates, input_shape=(32, 32, 3), classes=10
        )
        ```
    """
    options = dict(locals())  # the arguments, by their names
    options["name"] = f"gated_efficientnet_lite{depth}" if name is None else name
    return _build(**options)


def efficientnet_lite(
    depth: int,
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float | None = None,
    name: str | None = None,
    include_preprocessing: bool = True,
) -> keras.Model:
    """Plain EfficientNet-Lite of the given depth.

    Args:
        depth: 0 to 4, the size of the net.
        include_top, weights, input_shape, pooling, classes, classifier_activation,
            dropout_rate, name, include_preprocessing: As of the net with gates.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    Example:
        ```python
        model = kd.efficientnet_lite0(input_shape=(32, 32, 3), classes=10)
        ```
    """
    options = dict(locals())
    options["name"] = f"efficientnet_lite{depth}" if name is None else name
    return _build(gates=None, **options)


def _build(depth: int, **options: Any) -> keras.Model:
    scale = SCALES[depth]
    if options["dropout_rate"] is None:
        options["dropout_rate"] = scale.dropout
    return build_inverted_residuals(
        32,
        scale.stages(),
        1280,
        side=scale.side,
        mean=127 / 255,
        std=128 / 255,
        **options,
    )


gated_efficientnet_lite0 = of_depth(gated_efficientnet_lite, 0)
gated_efficientnet_lite1 = of_depth(gated_efficientnet_lite, 1)
gated_efficientnet_lite2 = of_depth(gated_efficientnet_lite, 2)
gated_efficientnet_lite3 = of_depth(gated_efficientnet_lite, 3)
gated_efficientnet_lite4 = of_depth(gated_efficientnet_lite, 4)
efficientnet_lite0 = of_depth(efficientnet_lite, 0)
efficientnet_lite1 = of_depth(efficientnet_lite, 1)
efficientnet_lite2 = of_depth(efficientnet_lite, 2)
efficientnet_lite3 = of_depth(efficientnet_lite, 3)
efficientnet_lite4 = of_depth(efficientnet_lite, 4)
