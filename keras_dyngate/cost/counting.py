"""Rows of a MAC table, call by call.

A dynamic layer gives its own rows (`cost_rows`), a layer with `kernel_macs` its number;
what others cost stands in the registry; the rest is opened, and what it holds counted.
"""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Any

import keras

import keras_dyngate.cost.layer_kinds  # noqa: F401  fills the registry
from keras_dyngate._graph import Call
from keras_dyngate.cost.cost_row import CostRow
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.opening import as_built, opened
from keras_dyngate.cost.registry import (
    NotCounted,
    arguments,
    entry_of,
    first_argument,
    free,
    of_keras,
)
from keras_dyngate.cost.sizes import one_image


def _check_sizes(layer: Any, *shapes: Any) -> None:
    for shape in shapes:
        if None in tuple(shape)[1:]:
            raise ValueError(
                "MACs can be counted only for a known image size (or length); build "
                "the model with `input_shape=(height, width, 3)`. "
                f"Received: shape {tuple(shape)} at layer {layer.name!r}"
            )


class Counting:
    """Rows of calls, and the paths of those that cannot be counted.

    Args:
        calls: How many calls each dynamic layer has had, by name.
    """

    def __init__(self, calls: Counter[str] | None = None) -> None:
        self.rows: list[CostRow] = []
        self.unknown: list[str] = []
        self.calls: Counter[str] = Counter() if calls is None else calls

    def add_all(self, calls: Iterable[Call]) -> None:
        """Append the rows of calls that start with images."""
        for call in one_image(calls):
            self.add(call)

    def add(self, call: Call) -> None:
        """Append the rows of one call, its sizes those of one image."""
        layer = call.operation
        shapes = [tuple(x.shape) for x in (*call.inputs, *call.outputs)]
        if hasattr(layer, "mac_profile"):
            raise ValueError(
                "A net with early exits cannot be counted inside of another model; "
                "count it alone. "
                f"Received: {type(layer).__name__} {call.path!r}"
            )
        if hasattr(layer, "cost_rows"):
            _check_sizes(layer, shapes[0])
            self.add_dynamic(layer, shapes[0])
        elif hasattr(layer, "kernel_macs"):
            _check_sizes(layer, shapes[0])
            self.add_row(call.path, _own_macs(call))
        elif (count := entry_of(layer)) is not None:
            if count is not free:
                _check_sizes(layer, *shapes)
            try:
                self.add_row(call.path, int(count(call)))
            except NotCounted:
                self.unknown.append(call.path)
        else:
            self.add_opened(call, shapes)

    def add_row(self, path: str, macs: int) -> None:
        if macs:
            self.rows.append(CostRow(path, "", macs))

    def add_dynamic(self, layer: Any, shape: Any) -> None:
        self.calls[layer.name] += 1
        times = self.calls[layer.name]
        for row in layer.cost_rows(shape):
            self.rows.append(row if times == 1 else _of_call(row, times))

    def add_opened(self, call: Call, shapes: list[Any]) -> None:
        """Append the rows of what a call holds: of a layer of Keras one, the sum."""
        layer = call.operation
        if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)):
            _check_sizes(layer, shapes[0])
        found, seen = opened(call), self.calls.total()
        inside = Counting(self.calls)
        if found is None:
            _check_sizes(layer, *shapes)
            inside.unknown.append(call.path)
            parent = entry_of(layer, inherited=True)
            if parent is not None and call.outputs:
                inside.add_row(call.path, int(parent(call)))
            elif isinstance(layer, keras.Layer):
                inside.add_all(as_built(layer, call.path))
        else:
            inside.add_repeated(found)
        plain = self.calls.total() == seen  # nothing inside decides
        if plain and of_keras(layer) and not isinstance(layer, keras.Model):
            self.add_row(call.path, sum(row.macs for row in inside.rows))
        else:
            self.rows += inside.rows
        self.unknown += inside.unknown

    def add_repeated(self, found: list[tuple[Call, int]]) -> None:
        """Append the rows of calls that are made so many times each."""
        times = [count for _, count in found]
        calls = one_image((call for call, _ in found), whole=False)
        for call, count in zip(calls, times, strict=True):
            start, seen = len(self.rows), self.calls.total()
            self.add(call)
            if self.calls.total() == seen:
                self.rows[start:] = [
                    dataclasses.replace(row, cost=row.cost * count)
                    for row in self.rows[start:]
                ]
            else:  # each time decides anew
                for _ in range(count - 1):
                    self.add(call)

    def profile(self) -> CostTable:
        unknown = tuple(dict.fromkeys(self.unknown))
        return CostTable(tuple(self.rows), unknown=unknown)


def _of_call(row: CostRow, times: int) -> CostRow:
    """A row of a dynamic layer's later call, named as `_hooks.record` names decisions."""
    gatings = tuple(
        dataclasses.replace(g, layer=f"{g.layer}:{times}") if g.layer else g
        for g in row.gatings
    )
    return dataclasses.replace(row, layer=f"{row.layer}:{times}", gatings=gatings)


def options_of(call: Call, method: Any) -> dict[str, Any]:
    """Arguments of a call that its cost depends on: `k`, `first`, `last`."""
    names = list(inspect.signature(method).parameters)[1:]
    given = arguments(call)
    return {name: given[name] for name in names if name in given}


def _own_macs(call: Call) -> int:
    """MACs of a call of a layer that has `kernel_macs`."""
    layer = call.operation
    shape = keras.tree.map_structure(lambda x: tuple(x.shape), first_argument(call))
    options = options_of(call, layer.kernel_macs)
    return int(layer.kernel_macs(shape, **options)) * (call.inputs[0].shape[0] or 1)
