"""Residual nets for 32x32 and 224x224 images: gated, LC-Net or plain.

    model = gated_resnet34(gate_groups=4, gate_regularizers=["batch_shaping"])
    model = lc_resnet34(gate_groups=4)
    plain = resnet34()

The nets of a depth come from one builder and share the names of their layers:
`stage1_block1`, `stage1_block2`, ...
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dyngate import controllers
from keras_dyngate._checks import one_of
from keras_dyngate.layers import GatedBasicBlock, GatedBlock, GatedBottleneckBlock
from keras_dyngate.layers.gated_bottleneck_block import ACTIVATIONS
from keras_dyngate.models.gates import make_gate, units_of
from keras_dyngate.models.parts import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    STEMS,
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
    *,
    channel_gate: Any = None,
    layer_gate: Any = None,
    gate_group_size: int | None = None,
    gate_groups: int | None = None,
    gate_regularizers: Any = None,
    layer_regularizers: Any = None,
    gated_activations: str = "both",
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
        channel_gate, layer_gate, gate_group_size, gate_groups, gate_regularizers,
            layer_regularizers, gated_activations: See the constructors.
    """
    bottleneck: dict[str, Any] = {}
    one_of("gated_activations", gated_activations, tuple(ACTIVATIONS))
    if issubclass(arch.block, GatedBottleneckBlock):
        bottleneck["gated_activations"] = gated_activations
    before = 1
    for stage, (filters, count, dilation) in enumerate(
        zip(widths, arch.blocks, dilations or (1,) * len(widths), strict=True), 1
    ):
        for index in range(1, count + 1):
            channel = None
            if channel_gate is not None:
                where = f"stage{stage}_block{index}"
                units = units_of(filters, gate_group_size, gate_groups, where, "gate_")
                if "gated_activations" in bottleneck:
                    units *= len(ACTIVATIONS[gated_activations])
                channel = make_gate(channel_gate, units, gate_regularizers)
            halves = stage > 1 and index == 1 and dilation == before
            x = arch.block(
                filters,
                strides=2 if halves else 1,
                channel_gate=channel,
                layer_gate=make_gate(layer_gate, 1, layer_regularizers),
                shortcut=arch.shortcut,
                dilation_rate=before if index == 1 else dilation,
                name=f"stage{stage}_block{index}",
                **bottleneck,
            )(x)
        before = dilation
    return x


def build_resnet(
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
    channel_gate: Any = None,
    layer_gate: Any = None,
    gate_group_size: int | None = None,
    gate_groups: int | None = None,
    gate_regularizers: Any = None,
    layer_regularizers: Any = None,
    gated_activations: str = "both",
) -> keras.Model:
    """Build a residual net; see the constructors for the arguments."""
    arch = ARCHITECTURES[depth]
    stem = arch.stem if stem is None else stem
    shape, classes = check_arguments(stem, input_shape, pooling, classes)
    widths = arch.scaled(width)

    image = x = keras.Input(shape, name="image")
    if include_preprocessing:
        x = normalize(x, mean, std)
    x = apply_stem(x, widths[0], stem)
    x = apply_stages(
        x,
        arch,
        widths,
        channel_gate=channel_gate,
        layer_gate=layer_gate,
        gate_group_size=gate_group_size,
        gate_groups=gate_groups,
        gate_regularizers=gate_regularizers,
        layer_regularizers=layer_regularizers,
        gated_activations=gated_activations,
    )
    x = apply_head(x, include_top, pooling, classes, classifier_activation)
    model = keras.Model(image, x, name=name)
    if weights is not None:
        load_weights(model, weights)
    return model


_STEM_ARG = """stem: "imagenet" (default): 7x7 convolution of stride 2 and 3x3 max
            pooling; or "cifar": one 3x3 convolution, no pooling, and by default input
            of (32, 32, 3) and 10 classes.
        """

_COMMON_ARGS = """include_top: Whether to end in average pooling and a dense layer.
        weights: None (random), or a path: `.keras`, `.weights.h5`, or an `.npz` with
            the names and layouts of PyTorch and torchvision.
        input_shape: (height, width, channels); default ({image}, {image}, 3).
        pooling: Without the top: None, "avg" or "max".
        classes: Outputs of the dense layer. Default {classes}.
        classifier_activation: Of the dense layer; None for logits.
        name: Of the model.
        width: Multiplies the channels of every stage.
        include_preprocessing: Whether the model normalises its input, RGB from 0 to
            255, by `mean` and `std`.
        mean, std: Per channel, of images from 0 to 1. Default: ImageNet's."""

_GROUP_ARGS = """
        gate_group_size: One decision per so many neighbouring channels; the default, 1,
            is the paper's.
        gate_groups: Or: so many decisions per gated convolution.
        gate_regularizers, layer_regularizers: `GateRegularizer`s of each channel or
            layer gate.
        gated_activations: Of a bottleneck, "both" or "last", see
            `GatedBottleneckBlock`. Default "{activations}"."""

KIND_ARGS = {
    "": "",
    "gated_": """
        channel_gate: "binary" (default), "salience", None, or a callable that makes a
            `Controller` from `units`.
        layer_gate: The same, for a gate around each block. Default None."""
    + _GROUP_ARGS.format(activations="both"),
    "lc_": """
        mode: "lc" (default): saliences of layers and of channels; "l": of layers only;
            "c": of channels only.
        leak: Gradient of the saliences' clip outside [0, 1]. Default 0."""
    + _GROUP_ARGS.format(activations="last"),
}
_KINDS = {"": "Plain", "gated_": "Channel-gated", "lc_": "LC-Net on a"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "": {},
    "gated_": {"channel_gate": "binary"},
    "lc_": {"gated_activations": "last"},
}
_GATES = ("channel_gate", "layer_gate")
CONTROL = (
    *_GATES,
    "gate_group_size",
    "gate_groups",
    "gate_regularizers",
    "layer_regularizers",
    "gated_activations",
)
_LC_PARAMETERS = {
    key: inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default)
    for key, default in (("mode", "lc"), ("leak", 0.0))
}


def _salience_gates(mode: str = "lc", leak: float = 0.0) -> dict[str, Any]:
    """The two gates that a mode of LC-Net stands for."""
    one_of("mode", mode, ("lc", "l", "c"))

    def salience(units: int) -> controllers.Controller:
        return controllers.SalienceController(units, leak=leak)

    return {
        "channel_gate": salience if "c" in mode else None,
        "layer_gate": salience if "l" in mode else None,
    }


def _constructor(depth: int, kind: str) -> Callable[..., keras.Model]:
    arch = ARCHITECTURES[depth]
    large = arch.stem == "imagenet"
    hidden = {"": CONTROL, "gated_": (), "lc_": _GATES}[kind]

    name = f"{kind}resnet{depth}"
    defaults = {"name": name, **DEFAULTS[kind]}
    parameters = {
        key: parameter.replace(default=defaults.get(key, parameter.default))
        for key, parameter in inspect.signature(build_resnet).parameters.items()
        if key != "depth" and key not in hidden and (large or key != "stem")
    }
    if kind == "lc_":
        parameters |= _LC_PARAMETERS

    def construct(**kwargs: Any) -> keras.Model:
        if unknown := sorted(set(kwargs) - set(parameters)):
            raise TypeError(f"{name}() got unexpected arguments: {unknown}")
        arguments = {**defaults, **kwargs}
        if kind == "lc_":
            chosen = {k: arguments.pop(k) for k in _LC_PARAMETERS if k in arguments}
            arguments |= _salience_gates(**chosen)
        return build_resnet(depth, **arguments)

    construct.__name__ = construct.__qualname__ = name
    construct.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        list(parameters.values())
    )
    image, classes = STEMS[arch.stem]
    args = (_STEM_ARG if large else "") + _COMMON_ARGS.format(
        image=image, classes=classes
    )
    size = f"{image}x{image}"
    construct.__doc__ = f"""{_KINDS[kind]} ResNet-{depth} for {size} images.

    Args:
        {args}{KIND_ARGS[kind]}

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.
    """
    return construct


__all__ = []
for _depth in ARCHITECTURES:
    for _kind in _KINDS:
        _function = _constructor(_depth, _kind)
        globals()[_function.__name__] = _function
        __all__.append(_function.__name__)
