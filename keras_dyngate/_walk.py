"""Walks over a model: the layers inside layers, and the dynamic ones among them."""

from collections.abc import Iterator
from typing import Any

import keras


def dynamic_layers(model: keras.Layer) -> Iterator[Any]:
    """Every layer that decides (it has `mac_rows`), in the order of the model."""
    if hasattr(model, "mac_rows"):
        yield model
        return
    for layer in getattr(model, "layers", ()):
        yield from dynamic_layers(layer)


def controllers(model: keras.Layer) -> Iterator[Any]:
    """Every controller of a model, block by block, channel gate first."""
    for block in dynamic_layers(model):
        for gate in (block.channel_gate, block.layer_gate):
            if gate is not None:
                yield gate
