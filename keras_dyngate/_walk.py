"""Walks over a model: the layers inside layers, and the dynamic ones among them."""

from collections.abc import Iterator
from typing import Any

import keras


def dynamic_layers(model: keras.Layer) -> Iterator[Any]:
    """Every layer that decides (it has `cost_rows`), in the order of the model.

    One that holds others comes before them. The net of an exit's head is walked as well.
    """
    head = getattr(model, "body", None)
    held = getattr(model, "layers", () if head is None else (head,))
    if hasattr(model, "cost_rows"):
        yield model
        held = model._flatten_layers(include_self=False, recursive=False)
    for layer in held:
        yield from dynamic_layers(layer)


def by_controller(model: keras.Layer) -> Iterator[tuple[Any, list[Any]]]:
    """Every controller of a model, layer by layer, and the decisions that it takes."""
    for layer in dynamic_layers(model):
        found: dict[int, list[Any]] = {}
        for item in layer.decisions():
            found.setdefault(id(item.controller), []).append(item)
        for items in found.values():
            yield items[0].controller, items


def controllers(model: keras.Layer) -> Iterator[Any]:
    """Every controller of a model, layer by layer, each once."""
    return (controller for controller, _ in by_controller(model))
