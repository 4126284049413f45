"""The table a user reads: MACs per layer, what is gateable, and the measured time."""

import dataclasses
import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_dyngate._graph import graph_of
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.counter import count_macs
from keras_dyngate.cost.opening import built_for
from keras_dyngate.cost.table_file import check_table


def _milliseconds(model: keras.Model, repeats: int = 5) -> float:
    """Median time of `predict_on_batch` on one image, ms."""
    graph = graph_of(model)
    if graph is not None:  # in the form that it takes
        image = keras.tree.map_structure(
            lambda x: np.zeros((1, *x.shape[1:]), x.dtype), graph.input
        )
    elif hasattr(model, "input_shape"):
        image = np.zeros((1, *model.input_shape[1:]), "float32")
    else:
        image = keras.tree.map_shape_structure(
            lambda shape: np.zeros((1, *shape[1:]), "float32"), built_for(model)[0]
        )
    model.predict_on_batch(image)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict_on_batch(image)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def _print_subnetworks(
    model: Any, profile: CostTable, measure: bool, print_fn: Callable[[str], Any]
) -> None:
    """A line per sub-network of an anytime net."""
    pairs = zip(profile.per_subnetwork, profile.per_step, strict=True)
    for k, (macs, step) in enumerate(pairs, 1):
        time = f", {_milliseconds(model.subnetwork(k)):.2f} ms" if measure else ""
        print_fn(
            f"sub-network {k}: {macs:,} MACs{time}; {step:,} MACs from the one before"
        )


def _decision_of(layer: Any) -> str:
    parts: dict[str, int] = {}
    for item in layer.decisions():
        size = item.channels // item.groups
        what = "layer" if item.whole else f"{size} channels"
        parts[what] = parts.get(what, 0) + item.groups
    return ", ".join(
        what if what == "layer" else f"{count} x {what}"
        for what, count in parts.items()
    )


def _print_gateable(model: keras.Model, print_fn: Callable[[str], Any]) -> None:
    """What more could be gated, of a net with a graph."""
    from keras_dyngate.models.gating.places import gateable  # it counts too

    try:
        places = [place for place in gateable(model) if place.reason is None]
    except ValueError:
        return
    shares = {
        kind: sum(place.share for place in places if place.kind == kind)
        for kind in ("channel", "layer")
    }
    words = [
        f"{share:.0%} by {kind} gates" for kind, share in shares.items() if share > 0
    ]
    if words:
        print_fn(
            f"Of the MACs, these could be gated: {', '.join(words)} (`kd.gateable` lists "
            "the places; `kd.add_channel_gates`, `kd.add_layer_gates`)."
        )


def _cells(
    parts: list[CostTable], decisions: Mapping[str, np.ndarray] | None
) -> list[str]:
    """The numbers of a row: of the table in MACs, then of the other one."""
    counted = parts[0]
    found = [f"{n:,}" for n in (counted.total, counted.gateable, counted.controllers)]
    if decisions is not None:
        found.append(f"{counted.of(decisions).mean():,.0f}")
    for part in parts[1:]:
        found.append(f"{sum(row.cost for row in part.rows):.4g}")
        if decisions is not None:
            found.append(f"{part.of(decisions).mean():.4g}")
    return found


def _lines(
    model: keras.Model,
    tables: list[CostTable],
    decisions: Mapping[str, np.ndarray] | None,
) -> list[str]:
    """The table as it is printed."""
    gates = {layer.name: _decision_of(layer) for layer in dynamic_layers(model)}
    shown = Table(title=f"Model {model.name!r}")
    columns = ["layer", "decisions", "MACs", "gateable", "controllers"]
    columns += ["mean executed"] * (decisions is not None)
    for table in tables[1:]:
        columns.append(f"{table.unit}, all open")
        columns += [f"mean {table.unit}"] * (decisions is not None)
    for column in columns:
        shown.add_column(column, justify="left" if column == "layer" else "right")
    for name in dict.fromkeys(row.layer for table in tables for row in table.rows):
        parts = [
            dataclasses.replace(
                table,
                rows=tuple(row for row in table.rows if row.layer == name),
                plain=None,
            )
            for table in tables
        ]
        shown.add_row(name, gates.get(name, ""), *_cells(parts, decisions))
    shown.add_section()
    shown.add_row("total", "", *_cells(tables, decisions))
    console = Console(file=io.StringIO(), width=110)
    console.print(shown)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def summary(
    model: keras.Model,
    decisions: Mapping[str, np.ndarray] | None = None,
    *,
    table: CostTable | None = None,
    measure: bool = True,
    print_fn: Callable[[str], Any] = print,
) -> CostTable:
    """Print a model's MACs per layer beside its measured time, and what could be gated.

    Args:
        model: A built model of known image size, of any rank, with any inputs.
        decisions: As `decide` returns them; then the table also gives what the samples
            executed on average.
        table: What the net costs in another unit, see `measure_latency`: a column more.
        measure: Time one image in Keras (batch 1, the running backend, this machine).
            Keras computes the dense, masked form: what skipping saves shows in an
            exported file, see `LiteRTModel.benchmark`.
        print_fn: Called with each line.

    Returns:
        The `CostTable` that was printed.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        model = keras.Sequential([keras.Input((8, 8, 4)), block])
        kd.summary(model, measure=False)  # MACs by layer, what gates may save
        ```
    """
    profile = count_macs(model)
    tables = [profile]
    if table is not None:
        tables.append(check_table(table, profile))
    for line in _lines(model, tables, decisions):
        print_fn(line)
    if table is not None and table.measured is not None:
        print_fn(f"{table.unit}: {table.measured}.")
    if profile.unknown:
        print_fn(f"Not counted: {', '.join(profile.unknown)}")
    if profile.per_subnetwork:
        _print_subnetworks(model, profile, measure, print_fn)
    _print_gateable(model, print_fn)
    if measure:
        backend = keras.backend.backend()
        print_fn(
            f"Measured: {_milliseconds(model):.2f} ms per image in Keras ({backend}, "
            "batch 1, median of 5; masked, nothing is skipped)."
        )
    return profile
