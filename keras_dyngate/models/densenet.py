"""Densely connected nets with bottlenecks and compression, for 224x224 or 32x32 images.

    model = densenet121()
    small = densenet201(stem="cifar")
    features = small.get_layer("block1_out").output  # where an early exit may leave

Names of layers: `block2_layer3_conv1`, `transition2_conv`; `block2_out` is the end of
a dense block, before its transition.
"""

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._checks import one_of
from keras_dyngate.layers import BatchNormalization
from keras_dyngate.layers.gated_block import conv_bn
from keras_dyngate.models.depths import of_depth
from keras_dyngate.models.parts import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    apply_head,
    apply_stem,
    check_arguments,
    normalize,
)
from keras_dyngate.models.weight_files import load_weights

BLOCKS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}


def _activated_conv(x: Any, filters: int, kernel_size: int, name: str) -> Any:
    """BN, ReLU, convolution: in this order throughout the net."""
    conv, norm = conv_bn(filters, kernel_size, 1, name, 1e-5, 0.9)
    return conv(keras.layers.ReLU(name=name.replace("conv", "relu"))(norm(x)))


def _dense_block(x: Any, layers: int, growth: int, name: str) -> Any:
    for index in range(1, layers + 1):
        prefix = f"{name}_layer{index}"
        new = _activated_conv(x, 4 * growth, 1, f"{prefix}_conv1")
        new = _activated_conv(new, growth, 3, f"{prefix}_conv2")
        end = f"{name}_out" if index == layers else f"{prefix}_concat"
        x = keras.layers.Concatenate(name=end)([x, new])
    return x


def build_densenet(
    blocks: Sequence[int],
    growth: int = 32,
    reduction: float = 0.5,
    *,
    stem: str = "imagenet",
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """Build a dense net of `blocks` layers per block; the rest as the constructors.

    The stem has `2 * growth` channels; a transition keeps `reduction` of them.
    """
    shape, classes = check_arguments(stem, input_shape, pooling, classes)
    image = x = keras.Input(shape, name="image")
    if include_preprocessing:
        x = normalize(x, mean, std)
    x = apply_stem(x, 2 * growth, stem)
    for number, layers in enumerate(blocks, 1):
        x = _dense_block(x, layers, growth, f"block{number}")
        if number < len(blocks):
            transition = f"transition{number}"
            kept = int(x.shape[-1] * reduction)
            x = _activated_conv(x, kept, 1, f"{transition}_conv")
            x = keras.layers.AveragePooling2D(2, name=f"{transition}_pool")(x)
    x = BatchNormalization(epsilon=1e-5, momentum=0.9, name="final_bn")(x)
    x = keras.layers.ReLU(name="final_relu")(x)
    x = apply_head(x, include_top, pooling, classes, classifier_activation)
    model = keras.Model(image, x, name=name)
    if weights is not None:
        load_weights(model, weights)
    return model


def densenet(
    depth: int,
    *,
    stem: str = "imagenet",
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """DenseNet of the given depth: growth 32, bottlenecks of 128, reduction 0.5.

    Args:
        depth: 121, 169 or 201.
        stem: "imagenet" (default): 7x7 convolution of stride 2 and 3x3 max pooling; or
            "cifar": one 3x3 convolution, no pooling.
        include_top: Whether to end in average pooling and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with
            the names and layouts of torchvision.
        input_shape: (height, width, channels); default (224, 224, 3), or (32, 32, 3)
            with the stem "cifar".
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. Default 1000, or 10 with the stem "cifar".
        classifier_activation: Of the dense layer; None for logits.
        name: Of the model. None: that of the function.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`. Its dense blocks end in
        the layers `block1_out` to `block4_out`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    Example:
        ```python
        model = kd.densenet121(stem="cifar", classes=10)
        for point in kd.cut_points(model)[:3]:  # where an exit may leave
            print(point.layer, point.share)
        ```
    """
    options = dict(locals())  # the arguments, by their names
    blocks = BLOCKS[one_of("depth", options.pop("depth"), tuple(BLOCKS))]
    options["name"] = f"densenet{depth}" if name is None else name
    return build_densenet(blocks, **options)


densenet121 = of_depth(densenet, 121)
densenet169 = of_depth(densenet, 169)
densenet201 = of_depth(densenet, 201)
