"""Residual nets for 32x32 and 224x224 images: gated, LC-Net or plain.

    model = gated_resnet34(gates=Gates(groups=4, channel_regularizers="batch_shaping"))
    model = lc_resnet34(gates=Gates(groups=4))
    plain = resnet34()

The nets of a depth come from one builder and share the names of their layers:
`stage1_block1`, `stage1_block2`, ... Depths 18, 34, 50, 101 and 152 are made for images of
224x224 pixels, depths 20, 32, 44, 56 and 110 for 32x32.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate import controllers
from keras_dyngate._checks import one_of
from keras_dyngate._deprecation import renamed
from keras_dyngate.layers import GatedBasicBlock, GatedBlock, GatedBottleneckBlock
from keras_dyngate.layers.gated_bottleneck_block import ACTIVATIONS
from keras_dyngate.models.depths import of_depth
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.parts import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    apply_head,
    apply_stem,
    check_arguments,
    normalize,
)
from keras_dyngate.models.weight_files import load_weights


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Blocks and channels per stage, and what the net of a depth is made of."""

    blocks: tuple[int, ...]
    block: type[GatedBlock]
    widths: tuple[int, ...]
    stem: str
    shortcut: str

    def scaled(self, width: float) -> list[int]:
        """The channels per stage, `width` times as many."""
        if not width > 0:
            raise ValueError(f"`width` must be positive. Received: width={width!r}")
        return [max(1, round(channels * width)) for channels in self.widths]


def _cifar(depth: int) -> Architecture:
    blocks = ((depth - 2) // 6,) * 3
    return Architecture(blocks, GatedBasicBlock, (16, 32, 64), "cifar", "pad")


def _imagenet(blocks: tuple[int, ...], block: type[GatedBlock]) -> Architecture:
    widths = (64, 128, 256, 512)
    return Architecture(blocks, block, widths, "imagenet", "projection")


ARCHITECTURES = {
    **{depth: _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    18: _imagenet((2, 2, 2, 2), GatedBasicBlock),
    34: _imagenet((3, 4, 6, 3), GatedBasicBlock),
    50: _imagenet((3, 4, 6, 3), GatedBottleneckBlock),
    101: _imagenet((3, 4, 23, 3), GatedBottleneckBlock),
    152: _imagenet((3, 8, 36, 3), GatedBottleneckBlock),
}


def apply_stages(
    x: Any,
    arch: Architecture,
    widths: Sequence[int],
    dilations: Sequence[int] | None = None,
    gates: Gates | None = None,
    activations: str = "both",
) -> Any:
    """The stages of a residual net: all but the first halve the map or dilate instead.

    Args:
        x: What the stem puts out.
        arch: The net's table.
        widths: Channels per stage.
        dilations: Of the 3x3 convolutions, per stage; None: 1. A stage dilates instead
            of halving the map where its dilation is another than that of the stage
            before, and its first block still has the one before: so all blocks compute
            what they do in the net that halves, only at more places.
        gates: Of every block. None: none.
        activations: Which are gated in a bottleneck where `gates` leaves that open.
    """
    gates = Gates(channel=None) if gates is None else gates
    bottleneck: dict[str, Any] = {}
    masked = 1
    if issubclass(arch.block, GatedBottleneckBlock):
        activations = gates.activations or activations
        bottleneck["gated_activations"] = activations
        masked = len(ACTIVATIONS[activations])
    before = 1
    for stage, (filters, count, dilation) in enumerate(
        zip(widths, arch.blocks, dilations or (1,) * len(widths), strict=True), 1
    ):
        for index in range(1, count + 1):
            name = f"stage{stage}_block{index}"
            halves = stage > 1 and index == 1 and dilation == before
            x = arch.block(
                filters,
                strides=2 if halves else 1,
                channel_gate=gates.for_channels([filters] * masked, name),
                layer_gate=gates.for_layer(),
                shortcut=arch.shortcut,
                dilation_rate=before if index == 1 else dilation,
                name=name,
                **bottleneck,
            )(x)
        before = dilation
    return x


def _build(
    kind: str,
    depth: int,
    *,
    stem: str | None,
    include_top: bool,
    weights: str | os.PathLike[str] | None,
    input_shape: Sequence[int | None] | None,
    pooling: str | None,
    classes: int | None,
    classifier_activation: Any,
    name: str | None,
    width: float,
    include_preprocessing: bool,
    mean: Sequence[float],
    std: Sequence[float],
    gates: Gates | None = None,
    activations: str = "both",
) -> keras.Model:
    """Build a residual net; see the constructors for the arguments."""
    arch = ARCHITECTURES[one_of("depth", depth, tuple(ARCHITECTURES))]
    stem = arch.stem if stem is None else stem
    shape, classes = check_arguments(stem, input_shape, pooling, classes)
    widths = arch.scaled(width)

    image = x = keras.Input(shape, name="image")
    if include_preprocessing:
        x = normalize(x, mean, std)
    x = apply_stem(x, widths[0], stem)
    x = apply_stages(x, arch, widths, gates=gates, activations=activations)
    x = apply_head(x, include_top, pooling, classes, classifier_activation)
    model = keras.Model(image, x, name=f"{kind}{depth}" if name is None else name)
    if weights is not None:
        load_weights(model, weights)
    return model


# The old arguments of gated nets' constructors.
old_gates = renamed(
    channel_gate="gates.channel",
    layer_gate="gates.layer",
    gate_group_size="gates.group_size",
    gate_groups="gates.groups",
    gate_regularizers="gates.channel_regularizers",
    layer_regularizers="gates.layer_regularizers",
    gated_activations="gates.activations",
)


# `locals()`, first thing in a function, are all of its arguments by their names.


def resnet(
    depth: int,
    *,
    stem: str | None = None,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    width: float = 1.0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """Plain ResNet of the given depth.

    Args:
        depth: One of `ARCHITECTURES`.
        stem: "imagenet": 7x7 convolution of stride 2 and 3x3 max pooling; or "cifar":
            one 3x3 convolution, no pooling. None: what the depth is made for.
        include_top: Whether to end in average pooling and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with
            the names and layouts of PyTorch and torchvision.
        input_shape: (height, width, channels). None: (224, 224, 3), or (32, 32, 3) with
            the stem "cifar".
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. None: 1000, or 10 with the stem "cifar".
        classifier_activation: Of the dense layer; None for logits.
        name: Of the model. None: that of the function.
        width: Multiplies the channels of every stage.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    Example:
        ```python
        model = kd.resnet20(classes=10, input_shape=(32, 32, 3), width=0.25)
        logits = model(np.zeros((1, 32, 32, 3)))
        ```
    """
    return _build("resnet", **locals())


@old_gates
def gated_resnet(
    depth: int,
    *,
    gates: Gates | None = Gates(),
    stem: str | None = None,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    width: float = 1.0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """Channel-gated ResNet of the given depth.

    Args:
        depth: One of `ARCHITECTURES`.
        gates: Which gates the blocks have: by default a binary one per channel. None:
            none.
        stem: "imagenet": 7x7 convolution of stride 2 and 3x3 max pooling; or "cifar":
            one 3x3 convolution, no pooling. None: what the depth is made for.
        include_top: Whether to end in average pooling and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with
            the names and layouts of PyTorch and torchvision.
        input_shape: (height, width, channels). None: (224, 224, 3), or (32, 32, 3) with
            the stem "cifar".
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. None: 1000, or 10 with the stem "cifar".
        classifier_activation: Of the dense layer; None for logits.
        name: Of the model. None: that of the function.
        width: Multiplies the channels of every stage.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    References:
        Bejnordi, Blankevoort, Welling: Batch-shaping for learning conditional channel
        gated networks, ICLR 2020, arXiv 1907.06627.

    Example:
        ```python
        gates = kd.Gates(groups=4, channel_regularizers=["batch_shaping"])
        model = kd.gated_resnet20(gates=gates, input_shape=(32, 32, 3), width=0.25)
        decisions = kd.decide(model, np.zeros((1, 32, 32, 3)))
        print(decisions["stage1_block1/channel"])  # [[1. 0. 1. 1.]], say
        ```
    """
    return _build("gated_resnet", **locals())


@old_gates
def lc_resnet(
    depth: int,
    *,
    mode: str = "lc",
    leak: float = 0.0,
    gates: Gates = Gates(),
    stem: str | None = None,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    width: float = 1.0,
    include_preprocessing: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> keras.Model:
    """LC-Net on a ResNet of the given depth: saliences scale layers and channels.

    Args:
        depth: One of `ARCHITECTURES`.
        mode: "lc" (default): saliences of layers and of channels; "l": of layers only;
            "c": of channels only.
        leak: Gradient of the saliences' clip outside [0, 1]. Default 0.
        gates: Groups, regularizers and activations; `mode` says which controllers.
        stem: "imagenet": 7x7 convolution of stride 2 and 3x3 max pooling; or "cifar":
            one 3x3 convolution, no pooling. None: what the depth is made for.
        include_top: Whether to end in average pooling and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with
            the names and layouts of PyTorch and torchvision.
        input_shape: (height, width, channels). None: (224, 224, 3), or (32, 32, 3) with
            the stem "cifar".
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. None: 1000, or 10 with the stem "cifar".
        classifier_activation: Of the dense layer; None for logits.
        name: Of the model. None: that of the function.
        width: Multiplies the channels of every stage.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.

    References:
        Xia, Yin, Dai, Jha: Fully dynamic inference with deep neural networks, IEEE TETC
        2022, arXiv 2007.15151.

    Example:
        ```python
        model = kd.lc_resnet20(mode="l", input_shape=(32, 32, 3), width=0.25)
        decisions = kd.decide(model, np.zeros((1, 32, 32, 3)))
        print(decisions["stage1_block1/layer"])  # [[0.4]], say; 0 would skip the block
        ```
    """
    arguments = dict(locals())
    del arguments["mode"], arguments["leak"]
    one_of("mode", mode, ("lc", "l", "c"))
    if gates.channel != "binary" or gates.layer is not None:
        raise ValueError(
            "`gates` of an LC-Net must leave `channel` and `layer` to `mode`. Received: "
            f"gates={gates!r}"
        )

    def salience(units: int) -> controllers.Controller:
        return controllers.SalienceController(units, leak=leak)

    arguments["gates"] = dataclasses.replace(
        gates,
        channel=salience if "c" in mode else None,
        layer=salience if "l" in mode else None,
    )
    return _build("lc_resnet", **arguments, activations="last")


resnet18 = of_depth(resnet, 18)
resnet20 = of_depth(resnet, 20)
resnet32 = of_depth(resnet, 32)
resnet34 = of_depth(resnet, 34)
resnet44 = of_depth(resnet, 44)
resnet50 = of_depth(resnet, 50)
resnet56 = of_depth(resnet, 56)
resnet101 = of_depth(resnet, 101)
resnet110 = of_depth(resnet, 110)
resnet152 = of_depth(resnet, 152)

gated_resnet18 = of_depth(gated_resnet, 18)
gated_resnet20 = of_depth(gated_resnet, 20)
gated_resnet32 = of_depth(gated_resnet, 32)
gated_resnet34 = of_depth(gated_resnet, 34)
gated_resnet44 = of_depth(gated_resnet, 44)
gated_resnet50 = of_depth(gated_resnet, 50)
gated_resnet56 = of_depth(gated_resnet, 56)
gated_resnet101 = of_depth(gated_resnet, 101)
gated_resnet110 = of_depth(gated_resnet, 110)
gated_resnet152 = of_depth(gated_resnet, 152)

lc_resnet18 = of_depth(lc_resnet, 18)
lc_resnet20 = of_depth(lc_resnet, 20)
lc_resnet32 = of_depth(lc_resnet, 32)
lc_resnet34 = of_depth(lc_resnet, 34)
lc_resnet44 = of_depth(lc_resnet, 44)
lc_resnet50 = of_depth(lc_resnet, 50)
lc_resnet56 = of_depth(lc_resnet, 56)
lc_resnet101 = of_depth(lc_resnet, 101)
lc_resnet110 = of_depth(lc_resnet, 110)
lc_resnet152 = of_depth(lc_resnet, 152)
