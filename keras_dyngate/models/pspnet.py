"""Pyramid scene parsing: a class for every pixel, on a dilated residual trunk.

    gates = Gates(groups=4, channel_regularizers=["batch_shaping"])
    model = gated_pspnet50(gates=gates)
    load_trunk_weights(model, gated_resnet50(gates=gates, weights="trunk.keras"))

The trunk is that of `resnet50` without its last two halvings: stages 3 and 4 dilate, so
that its map has an eighth of the image's sides. The pooled maps of several grids, from
one cell to 6x6, are laid beside it, and a convolution reads all of them.

The first block of a dilated stage still has the dilation of the stage before, and so the
trunk of a classifier computes here what it was trained to, at more places [design of this
library]. Layers have the names they have in `resnet50`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_dyngate._backend import copy_variable
from keras_dyngate._checks import one_of, positive_int
from keras_dyngate.layers.gated_block import conv_bn
from keras_dyngate.models.depths import of_depth
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.parts import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    apply_stem,
    check_arguments,
    normalize,
)
from keras_dyngate.models.resnet import ARCHITECTURES, apply_stages, old_gates
from keras_dyngate.models.weight_files import load_weights, warn_of_new_layer
from keras_dyngate.models.weights import load_trunk_weights

DEPTHS = (50, 101)
DILATIONS = (1, 1, 2, 4)
DROPOUT = 0.1
_HEAD = ("pyramid", "head_")  # how the names of layers after the trunk begin


def upsample(x: Any, size: Sequence[int], name: str, dtype: Any = None) -> Any:
    """Bilinear interpolation between the centres of pixels, to (height, width)."""
    layer = keras.layers.Resizing(*size, "bilinear", name=name, dtype=dtype)
    return layer(x)


def apply_conv(x: Any, filters: int, kernel_size: int, name: str) -> Any:
    """Convolution, BN and ReLU: `<name>_conv`, `<name>_bn`, `<name>_relu`."""
    conv, norm = conv_bn(filters, kernel_size, 1, f"{name}_conv", 1e-5, 0.9)
    return keras.layers.ReLU(name=f"{name}_relu")(norm(conv(x)))


def apply_pyramid(x: Any, bins: Sequence[int]) -> Any:
    """`x` beside its averages over grids of n x n cells, for each n in `bins`.

    The cells of a grid have one size and one distance, `floor(side / n)`; where that
    leaves a rest they grow by it and overlap [design of this library]. So they are an
    ordinary pooling, an exact partition where n divides the side.
    """
    height, width, channels = x.shape[1:]
    if min(height, width) < max(bins):
        raise ValueError(
            "The image must be large enough for the trunk's map, an eighth of it, to "
            f"have a grid of {max(bins)}x{max(bins)} cells (see `bins` and "
            f"`input_shape`). Received: bins={tuple(bins)} on a map of {height}x{width}"
        )
    maps = [x]
    for n in bins:
        strides = height // n, width // n
        window = height - (n - 1) * strides[0], width - (n - 1) * strides[1]
        name = f"pyramid{n}"
        y = keras.layers.AveragePooling2D(window, strides, name=f"{name}_pool")(x)
        y = apply_conv(y, max(1, channels // len(bins)), 1, name)
        maps.append(upsample(y, (height, width), f"{name}_up"))
    return keras.layers.Concatenate(name="pyramid")(maps)


def apply_classifier(x: Any, filters: int, classes: int, name: str) -> Any:
    """3x3 convolution, dropout, and a 1x1 convolution to the classes."""
    x = apply_conv(x, filters, 3, name)
    x = keras.layers.Dropout(DROPOUT, name=f"{name}_dropout")(x)
    return keras.layers.Conv2D(classes, 1, name=f"{name}_classifier")(x)


def _head_slots(model: keras.Model) -> dict[str, Any]:
    """Variables of the layers after the trunk, by name."""
    return {
        f"{layer.name}.{variable.name}": variable
        for layer in model.layers
        if layer.name.startswith(_HEAD)
        for variable in layer.weights
        if "seed" not in variable.name
    }


def _load(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """The file of a net of this kind, or of a classifier, whose trunk is taken."""
    path = Path(path)
    if path.suffix != ".keras" or not path.is_file():
        load_weights(model, path)  # says what is wrong with a path
        return
    source = keras.saving.load_model(path, compile=False)
    load_trunk_weights(model, source)
    found, classes = _head_slots(source), None
    for name, variable in _head_slots(model).items() if found else ():
        received = tuple(found[name].shape) if name in found else "no such variable"
        if received == tuple(variable.shape):
            copy_variable(variable, found[name])
        elif not name.startswith("head_classifier"):
            raise ValueError(
                f"The weights file {path} is of another architecture: {name!r} must "
                f"have shape {tuple(variable.shape)}. Received: {received}"
            )
        else:
            classes = found[name].shape[-1] if name in found else "no"
    if classes is not None:
        left = f"a classifier for {classes} classes"
        warn_of_new_layer(model, path, left, "head_classifier")


def _build(
    kind: str,
    depth: int,
    *,
    weights: str | os.PathLike[str] | None,
    input_shape: Sequence[int],
    classes: int,
    classifier_activation: Any,
    bins: Sequence[int],
    name: str | None,
    width: float,
    include_preprocessing: bool,
    mean: Sequence[float],
    std: Sequence[float],
    gates: Gates | None = None,
) -> keras.Model:
    """Build a segmentation net; see the constructors for the arguments."""
    arch = ARCHITECTURES[one_of("depth", depth, DEPTHS)]
    shape, classes = check_arguments("imagenet", input_shape, None, classes)
    size = [side for side in shape[:2] if side is not None]
    if len(size) < 2:
        raise ValueError(
            "`input_shape` must have a known height and width: the cells of the "
            f"pyramid depend on them. Received: input_shape={input_shape!r}"
        )
    bins = tuple(positive_int("bins", n) for n in bins)
    if not bins or len(set(bins)) < len(bins):
        raise ValueError(
            f"`bins` must be one or more different integers. Received: bins={bins!r}"
        )
    widths = arch.scaled(width)

    image = x = keras.Input(shape, name="image")
    if include_preprocessing:
        x = normalize(x, mean, std)
    x = apply_stem(x, widths[0], "imagenet")
    x = apply_stages(x, arch, widths, DILATIONS, gates)
    filters = x.shape[-1] // 4
    x = apply_classifier(apply_pyramid(x, bins), filters, classes, "head")
    x = upsample(x, size, "logits", "float32")
    if classifier_activation is not None:
        activate = keras.layers.Activation
        x = activate(classifier_activation, name="answer", dtype="float32")(x)
    model = keras.Model(image, x, name=f"{kind}{depth}" if name is None else name)
    if weights is not None:
        _load(model, weights)
    return model


# `locals()`, first thing in a function, are all of its arguments by their names.


def pspnet(
    depth: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int] = (713, 713, 3),
    classes: int = 19,
    classifier_activation: Any = None,
    bins: Sequence[int] = (1, 2, 3, 6),
    name: str | None = None,
    width: float = 1.0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """Plain PSPNet on a dilated ResNet of the given depth, a class for every pixel.

    Args:
        depth: 50 or 101.
        weights: None (random), or a path: `.keras` or `.weights.h5` of a net of this
            kind; or the trunk alone from a classifier, `.keras`, or `.npz` with the
            names and layouts of PyTorch and torchvision.
        input_shape: (height, width, channels), known. Default (713, 713, 3).
        classes: Of a pixel. Default 19.
        classifier_activation: "softmax" for probabilities. Default None: logits.
        bins: Cells along a side of each grid of the pyramid. Default (1, 2, 3, 6).
        name: Of the model.
        width: Multiplies the channels of every stage.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.

    Returns:
        A `keras.Model` from `[batch, height, width, channels]` to float32 logits
        `[batch, height, width, classes]`. `add_auxiliary_head` helps to train it.

    Raises:
        ValueError: For bad arguments, weights of another architecture, or an image too
            small for the pyramid.

    References:
        Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105.

    Example:
        ```python
        model = kd.pspnet50(input_shape=(96, 96, 3), classes=3, width=0.0625)
        logits = model.predict(np.zeros((1, 96, 96, 3)), verbose=0)  # [1, 96, 96, 3]
        ```
    """
    return _build("pspnet", **locals())


@old_gates
def gated_pspnet(
    depth: int,
    *,
    gates: Gates | None = Gates(),
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int] = (713, 713, 3),
    classes: int = 19,
    classifier_activation: Any = None,
    bins: Sequence[int] = (1, 2, 3, 6),
    name: str | None = None,
    width: float = 1.0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """Channel-gated PSPNet on a dilated ResNet of the given depth.

    Args:
        depth: 50 or 101.
        gates: Which gates the blocks of the trunk have: by default a binary one per
            channel. None: none.
        weights: None (random), or a path: `.keras` or `.weights.h5` of a net of this
            kind; or the trunk alone from a classifier, `.keras`, or `.npz` with the
            names and layouts of PyTorch and torchvision.
        input_shape: (height, width, channels), known. Default (713, 713, 3).
        classes: Of a pixel. Default 19.
        classifier_activation: "softmax" for probabilities. Default None: logits.
        bins: Cells along a side of each grid of the pyramid. Default (1, 2, 3, 6).
        name: Of the model.
        width: Multiplies the channels of every stage.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.

    Returns:
        A `keras.Model` from `[batch, height, width, channels]` to float32 logits
        `[batch, height, width, classes]`. `add_auxiliary_head` helps to train it.

    Raises:
        ValueError: For bad arguments, weights of another architecture, or an image too
            small for the pyramid.

    References:
        Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105.

    Example:
        ```python
        gates = kd.Gates(groups=2)
        model = kd.gated_pspnet50(
            gates=gates, input_shape=(96, 96, 3), classes=3, width=0.0625
        )
        print(kd.count_macs(model).gateable)
        ```
    """
    return _build("gated_pspnet", **locals())


pspnet50 = of_depth(pspnet, 50)
pspnet101 = of_depth(pspnet, 101)
gated_pspnet50 = of_depth(gated_pspnet, 50)
gated_pspnet101 = of_depth(gated_pspnet, 101)
