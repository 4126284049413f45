"""Constructors of anytime nets: I-ResNeXt and sliced residual nets.

model = inclusive_resnext()                        # the paper's, for 32x32 images
model = sliced_resnext(width=256, subnetworks=4)
model = sliced_resnext50()                         # for 224x224 images
"""

import inspect
from collections.abc import Callable
from typing import Any

from keras_dyngate.models.anytime.config import AnytimeConfig
from keras_dyngate.models.anytime.model import AnytimeModel

_FAMILY = {
    "inclusive_resnext": """I-ResNeXt: sub-networks share prefixes of their convolutions.

    Stem and residual stream keep their full width, the grouped bottlenecks are cut. Every
    batch normalization and every head is private to a sub-network; nothing but the stem's
    output is of use to the next one.""",
    "sliced_resnext": """A sliced ResNeXt: every channel belongs to a slice.

    Slices read earlier slices only, so all sub-networks come from one pass, and the step
    to the next one computes its new slice alone.""",
    "sliced_resnet": """A sliced residual net of plain blocks: every channel is of a slice.

    Two 3x3 convolutions per block. Slices read earlier slices only, so all sub-networks
    come from one pass, and the step to the next one computes its new slice alone.""",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "inclusive_resnext": {
        "blocks": 7,
        "width": 64,
        "branch_width": 4,
        "cardinality": 8,
        "subnetworks": 8,
    },
    "sliced_resnext": {
        "blocks": 7,
        "width": 64,
        "branch_width": 4,
        "cardinality": 8,
        "subnetworks": 8,
    },
    "sliced_resnet": {"blocks": 2, "width": 64, "subnetworks": 4},
}
_LARGE = {
    "stem": "imagenet",
    "blocks": (3, 4, 6, 3),
    "width": 256,
    "branch_width": 4,
    "cardinality": 32,
    "subnetworks": 4,
}
_ARGS = {
    "blocks": """blocks: Residual blocks of every stage; or a number per stage, of which
            there are three, or four with the stem "imagenet". Default {default}.""",
    "width": """width: Channels between the blocks of the first stage; the others have
            twice as many as the one before. Default {default}.""",
    "branch_width": """branch_width: Channels per group of the first stage's 3x3
            convolutions, doubled by each stage. Default {default}.""",
    "cardinality": """cardinality: Groups of the 3x3 convolutions. Default {default}.""",
    "subnetworks": """subnetworks: K; divides {divides}. Default {default}.""",
    "stem": """stem: "cifar": a 3x3 convolution, input of (32, 32, 3), 10 classes; or
            "imagenet": 7x7 of stride 2 with a quarter of `width`, 3x3 max pooling, zero
            channels, (224, 224, 3), 1000 classes. Default "{default}".""",
    "input_shape": """input_shape: (height, width, channels) of the images.""",
    "classes": """classes: Of the heads; with a taxonomy its fine classes.""",
    "classifier_activation": """classifier_activation: Default "softmax"; None for
            logits.""",
    "heads": """heads: "private" (default): a linear layer per sub-network on all its
            slices; or "shared": one, to whose scores each slice adds.""",
    "execution": """execution: Of the dense form in Keras: "masked" (default), one
            convolution with zeros in its kernel; or "sliced", one per slice. They agree;
            see `SlicedConv2D`.""",
    "taxonomy": """taxonomy: A `HierarchicalTaxonomy`, for heads of two levels.""",
    "coarse_heads": """coarse_heads: How many heads, from the first, answer its coarse
            labels. Default 0.""",
    "include_preprocessing": """include_preprocessing: Whether the model normalises its
            input, RGB from 0 to 255, by `mean` and `std`.""",
    "mean": """mean, std: Per channel, of images from 0 to 1. Default: ImageNet's.""",
    "name": """name: Of the model.""",
}
_DIVIDES = {
    "inclusive_resnext": "the cardinality",
    "sliced_resnext": "the cardinality and the channels of the stem",
    "sliced_resnet": "the channels of the stem",
}


def _constructor(name: str, family: str, **own: Any) -> Callable[..., AnytimeModel]:
    defaults = {**_DEFAULTS[family], **own, "name": name}
    hidden = {"family"}
    if family == "inclusive_resnext":
        hidden |= {"heads", "execution"}
    if family == "sliced_resnet":
        hidden |= {"branch_width", "cardinality"}
    names = [*inspect.signature(AnytimeConfig).parameters, "name"]
    known = {**inspect.signature(AnytimeConfig).parameters}
    parameters = [
        inspect.Parameter(
            key,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(key, known[key].default if key in known else None),
        )
        for key in [*_DEFAULTS[family], *names]
        if key not in hidden
    ]
    parameters = list({p.name: p for p in parameters}.values())

    def construct(**kwargs: Any) -> AnytimeModel:
        if unknown := sorted(set(kwargs) - {p.name for p in parameters}):
            raise TypeError(f"{name}() got unexpected arguments: {unknown}")
        return AnytimeModel(family=family, **{**defaults, **kwargs})

    construct.__name__ = construct.__qualname__ = name
    construct.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    args = "\n        ".join(
        _ARGS[p.name].format(default=p.default, divides=_DIVIDES[family])
        for p in parameters
        if p.name in _ARGS
    )
    construct.__doc__ = f"""{_FAMILY[family]}

    Args:
        {args}

    Returns:
        An `AnytimeModel` on `[batch, height, width, channels]`.

    Raises:
        ValueError: For bad arguments, or a K that does not divide what it cuts.

    References:
        {_SOURCE[family]}
    """
    return construct


_SOURCE = {
    "inclusive_resnext": "Vertical slicing with I-ResNeXt, sizes of its official code.",
    "sliced_resnext": """The sparsity pattern is that of the vertical-slicing paper; the
        net is a design of this library.""",
    "sliced_resnet": """The sparsity pattern is that of the vertical-slicing paper; the
        net is a design of this library.""",
}

inclusive_resnext = _constructor("inclusive_resnext", "inclusive_resnext")
inclusive_resnext50 = _constructor("inclusive_resnext50", "inclusive_resnext", **_LARGE)
sliced_resnext = _constructor("sliced_resnext", "sliced_resnext")
sliced_resnext50 = _constructor("sliced_resnext50", "sliced_resnext", **_LARGE)
sliced_resnet = _constructor("sliced_resnet", "sliced_resnet")

__all__ = [
    "inclusive_resnext",
    "inclusive_resnext50",
    "sliced_resnet",
    "sliced_resnext",
    "sliced_resnext50",
]
