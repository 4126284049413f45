"""Names of what mobile nets are made of, here and in keras.applications, by PyTorch's.

`_blocks.1._expand_conv` is, in a net of this library, `expand_conv` in the layer
`stage2_block1`, and in MobileNetV2 of keras.applications the layer `block_1_expand`.
"""

import re
from collections.abc import Iterator
from typing import Any

import keras

from keras_dyngate.layers import GatedInvertedResidual

# A net of these has all of one of them.
MOBILE = ({"stem_conv", "head_conv", "stage2_block1"}, {"Conv1", "block_1_expand"})

_ENDS = {
    ("stem_conv", "Conv1"): "_conv_stem",
    ("stem_bn", "bn_Conv1"): "_bn0",
    ("head_conv", "Conv_1"): "_conv_head",
    ("head_bn", "Conv_1_bn"): "_bn1",
}
_PARTS = {
    ("expand_conv", "expand"): "_expand_conv",
    ("expand_bn", "expand_BN"): "_bn0",
    ("depthwise_conv", "depthwise"): "_depthwise_conv",
    ("depthwise_bn", "depthwise_BN"): "_bn1",
    ("project_conv", "project"): "_project_conv",
    ("project_bn", "project_BN"): "_bn2",
}
_END = {name: theirs for names, theirs in _ENDS.items() for name in names}
_PART = {name: theirs for names, theirs in _PARTS.items() for name in names}
_PLACE = re.compile(rf"(stage\d+_block\d+|expanded_conv|block_\d+)_({'|'.join(_PART)})")


def mobile_layers(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """The trunk's layers that have weights, with PyTorch's names."""
    places: dict[str, int] = {}
    for name, layer in _opened(model):
        if name in _END:
            yield _END[name], layer
        elif found := _PLACE.fullmatch(name):
            number = places.setdefault(found[1], len(places))
            yield f"_blocks.{number}.{_PART[found[2]]}", layer


def _opened(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """The layers of a model, those inside its blocks too."""
    for layer in model.layers:
        if isinstance(layer, GatedInvertedResidual):
            for link in layer.links():
                if isinstance(link, keras.layers.Layer):
                    yield f"{layer.name}_{link.name}", link
        else:
            yield layer.name, layer
