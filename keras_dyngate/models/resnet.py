"""Residual nets for 32x32 and 224x224 images, gated or plain.

    model = gated_resnet34(gate_groups=4, gate_regularizers=["batch_shaping"])
    plain = resnet34()

The gated and the plain net of a depth come from one builder and share the names of
their layers: `stage1_block1`, `stage1_block2`, ...
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dyngate import controllers
from keras_dyngate._checks import channels_last, positive_int
from keras_dyngate.layers import GatedBasicBlock, GatedBlock, GatedBottleneckBlock
from keras_dyngate.layers.gated_block import conv_bn
from keras_dyngate.models.weights import load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class _Architecture:
    blocks: tuple[int, ...]
    block: type[GatedBlock]
    widths: tuple[int, ...]
    image: int
    classes: int
    shortcut: str


def _cifar(depth: int) -> _Architecture:
    blocks = ((depth - 2) // 6,) * 3
    return _Architecture(blocks, GatedBasicBlock, (16, 32, 64), 32, 10, "pad")


def _imagenet(blocks: tuple[int, ...], block: type[GatedBlock]) -> _Architecture:
    return _Architecture(blocks, block, (64, 128, 256, 512), 224, 1000, "projection")


ARCHITECTURES = {
    **{depth: _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    18: _imagenet((2, 2, 2, 2), GatedBasicBlock),
    34: _imagenet((3, 4, 6, 3), GatedBasicBlock),
    50: _imagenet((3, 4, 6, 3), GatedBottleneckBlock),
    101: _imagenet((3, 4, 23, 3), GatedBottleneckBlock),
    152: _imagenet((3, 8, 36, 3), GatedBottleneckBlock),
}


def _units(filters: int, group_size: int | None, groups: int | None) -> int:
    """Decisions per gated convolution of `filters` channels."""
    if group_size is not None and groups is not None:
        raise ValueError(
            "Give one of `gate_group_size` and `gate_groups`. Received: "
            f"gate_group_size={group_size!r}, gate_groups={groups!r}"
        )
    if groups is not None:
        units = positive_int("gate_groups", groups)
        name, value = "gate_groups", groups
    else:
        size = positive_int("gate_group_size", 1 if group_size is None else group_size)
        units, rest = divmod(filters, size)
        name, value = "gate_group_size", size
        if rest:
            units = 0
    if units == 0 or filters % units:
        raise ValueError(
            f"`{name}` must divide the channels of every gated convolution, "
            f"{filters} among them. Received: {name}={value!r}"
        )
    return units


def _make_gate(identifier: Any, units: int, regularizers: Any) -> Any:
    """A new controller of `units` units, with copies of `regularizers` added."""
    if isinstance(identifier, controllers.Controller):
        raise ValueError(
            "A model needs a gate per block: give a name, or a callable that makes a "
            f"controller from `units`. Received: the instance {identifier!r}"
        )
    gate = controllers.get(identifier, units)
    if gate is None:
        return None
    config = gate.get_config()
    if gate.units != units:
        raise ValueError(
            f"The gate must have {units} units here. Received: units={gate.units}"
        )
    if regularizers is not None:
        items = (
            regularizers if isinstance(regularizers, (list, tuple)) else [regularizers]
        )
        config["regularizers"] = [*config["regularizers"], *items]
    return type(gate).from_config(config)


def build_resnet(
    depth: int,
    *,
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
) -> keras.Model:
    """Build a residual net; see the constructors for the arguments."""
    arch = ARCHITECTURES[depth]
    channels_last(None)
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}"
        )
    if not width > 0:
        raise ValueError(f"`width` must be positive. Received: width={width!r}")
    shape = tuple(input_shape or (arch.image, arch.image, 3))
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            "`input_shape` must be (height, width, channels) with known channels. "
            f"Received: input_shape={input_shape!r}"
        )
    classes = positive_int("classes", arch.classes if classes is None else classes)
    widths = [max(1, round(channels * width)) for channels in arch.widths]

    # Stem
    image = x = keras.Input(shape, name="image")
    if include_preprocessing:
        x = keras.layers.Normalization(
            mean=[255.0 * m for m in mean],
            variance=[(255.0 * s) ** 2 for s in std],
            name="preprocessing",
        )(x)
    small = arch.shortcut == "pad"
    conv, norm = conv_bn(
        widths[0], 3 if small else 7, 1 if small else 2, "conv1", 1e-5, 0.9
    )
    if not small:
        x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(x)
    x = keras.layers.ReLU(name="relu1")(norm(conv(x)))
    if not small:
        x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)

    # Stages
    for stage, (filters, count) in enumerate(zip(widths, arch.blocks, strict=True), 1):
        for index in range(1, count + 1):
            channel = None
            if channel_gate is not None:
                units = _units(filters, gate_group_size, gate_groups)
                channel = _make_gate(
                    channel_gate, units * arch.block.masks, gate_regularizers
                )
            x = arch.block(
                filters,
                strides=2 if stage > 1 and index == 1 else 1,
                channel_gate=channel,
                layer_gate=_make_gate(layer_gate, 1, layer_regularizers),
                shortcut=arch.shortcut,
                name=f"stage{stage}_block{index}",
            )(x)

    # Head
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    if include_top:
        x = keras.layers.Dense(
            classes, activation=classifier_activation, name="predictions"
        )(x)
    model = keras.Model(image, x, name=name)
    if weights is not None:
        load_weights(model, weights)
    return model


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

_GATE_ARGS = """
        channel_gate: "binary" (default), None, or a callable that makes a `Controller`
            from `units`.
        layer_gate: The same, for a gate around each block. Default None.
        gate_group_size: One decision per so many neighbouring channels; the default, 1,
            is the paper's.
        gate_groups: Or: so many decisions per gated convolution.
        gate_regularizers, layer_regularizers: `GateRegularizer`s of each channel or
            layer gate."""


def _constructor(depth: int, gated: bool) -> Callable[..., keras.Model]:
    arch = ARCHITECTURES[depth]

    name = ("gated_" if gated else "") + f"resnet{depth}"
    defaults = {"name": name, **({"channel_gate": "binary"} if gated else {})}
    parameters = {
        key: parameter.replace(default=defaults.get(key, parameter.default))
        for key, parameter in inspect.signature(build_resnet).parameters.items()
        if key != "depth" and (gated or key not in _GATE_NAMES)
    }

    def construct(**kwargs: Any) -> keras.Model:
        if unknown := sorted(set(kwargs) - set(parameters)):
            raise TypeError(f"{name}() got unexpected arguments: {unknown}")
        return build_resnet(depth, **{**defaults, **kwargs})

    construct.__name__ = construct.__qualname__ = name
    construct.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        list(parameters.values())
    )
    kind = "Channel-gated" if gated else "Plain"
    args = _COMMON_ARGS.format(image=arch.image, classes=arch.classes)
    construct.__doc__ = f"""{kind} ResNet-{depth} for {arch.image}x{arch.image} images.

    Args:
        {args}{_GATE_ARGS if gated else ""}

    Returns:
        A `keras.Model` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or weights of another architecture.
    """
    return construct


_GATE_NAMES = {
    "channel_gate",
    "layer_gate",
    "gate_group_size",
    "gate_groups",
    "gate_regularizers",
    "layer_regularizers",
}
__all__ = []
for _depth in ARCHITECTURES:
    for _gated in (False, True):
        _function = _constructor(_depth, _gated)
        globals()[_function.__name__] = _function
        __all__.append(_function.__name__)
