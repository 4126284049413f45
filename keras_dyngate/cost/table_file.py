"""Cost tables as JSON, so that a phone's table steers training on a desktop."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_dyngate._files import writable_target, write_whole
from keras_dyngate.cost.budget import UNITS
from keras_dyngate.cost.cost_row import CostRow, Gating
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.measured import Measured

FORMAT = "keras_dyngate cost table 1"


def table_config(table: CostTable) -> dict[str, Any]:
    """A table as plain data; numbers that are not known are None."""
    noted: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(table)}
    if table.measured is not None:
        noted["measured"] = {
            key: None if value != value else value  # NaN is no JSON
            for key, value in noted["measured"].items()
        }
    return noted


def table_from_config(config: Mapping[str, Any]) -> CostTable:
    """The table of what `table_config` returned.

    Raises:
        ValueError: If it is something else.
    """
    try:
        if config["format"] != FORMAT:
            newer = str(config["format"]).startswith(FORMAT[:-1])
            raise ValueError(
                f"format {config['format']!r}"
                + (", of a newer version of keras_dyngate" if newer else "")
            )
        rows = tuple(
            CostRow(**{**row, "gatings": tuple(Gating(**g) for g in row["gatings"])})
            for row in config["rows"]
        )
        measured = config["measured"]
        if measured is not None:
            known: dict[str, Any] = {
                k: math.nan if v is None else v for k, v in measured.items()
            }
            measured = Measured(**known)
        table = CostTable(
            rows,
            tuple(config["per_subnetwork"]),
            tuple(config["per_step"]),
            tuple(config["unknown"]),
            str(config["unit"]),
            dict(config["group_sizes"]),
            measured,
            config["plain"],
        )
        _check_numbers(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            "`config` must be a cost table that was saved. "
            f"Received: {type(error).__name__}: {error}"
        ) from None
    return table


def _check_numbers(table: CostTable) -> None:
    """Refuse what no table holds."""
    if table.unit not in UNITS.values():
        raise ValueError(f"unit {table.unit!r}, which is none of {[*UNITS.values()]}")
    plain = () if table.plain is None else (table.plain,)
    costs = (
        *(row.cost for row in table.rows),
        *table.per_subnetwork,
        *table.per_step,
        *plain,
    )
    for cost in costs:
        number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
        if not number or not 0 <= cost < math.inf:
            raise ValueError(f"the cost {cost!r}")
    if table.plain == 0 or not all(isinstance(name, str) for name in table.unknown):
        raise ValueError("a plain net that costs nothing, or names that are none")


def save_table(table: CostTable, path: str | os.PathLike[str]) -> None:
    """Write a table; see `CostTable.save`."""
    text = json.dumps(table_config(table), indent=1)
    write_whole(writable_target("path", path), text.encode())


def load_table(path: str | os.PathLike[str]) -> CostTable:
    """Read a table; see `CostTable.load`."""
    try:
        return table_from_config(json.loads(Path(path).read_bytes()))
    except (ValueError, UnicodeDecodeError, IsADirectoryError) as error:
        why = str(error).partition("Received: ")
        raise ValueError(
            "`path` must be a file that `CostTable.save` wrote. "
            f"Received: {os.fspath(path)!r} ({why[2] or why[0]})"
        ) from None


def check_table(table: Any, model_table: CostTable, name: str = "table") -> CostTable:
    """Refuse a table of another model.

    Args:
        table: What was given.
        model_table: The model's own, `count_macs(model)`.
        name: Of the argument, for the message.

    Raises:
        ValueError: If it is no table, or its decisions or exits are not the model's.
    """
    if not isinstance(table, CostTable):
        raise ValueError(
            f"`{name}` must be a CostTable, as count_macs, measure_latency or "
            f"CostTable.load return it. Received: {name}={table!r}"
        )
    theirs, ours = (_decisions(found) for found in (table, model_table))
    if theirs != ours:
        missing, more = sorted(ours - theirs)[:3], sorted(theirs - ours)[:3]
        raise ValueError(
            f"`{name}` must be of this model. Received: a table in {table.unit} "
            + " and ".join(
                f"{word} {names}"
                for word, names in (("without", missing), ("with", more))
                if names
            )
        )
    return table


def _decisions(table: CostTable) -> set[str]:
    """What a table depends on: decisions, and how many exits there are."""
    names = {name for row in table.rows for name in row.decisions}
    stages = {row.stage for row in table.rows if row.stage}
    return names | {f"exit {stage}" for stage in stages}
