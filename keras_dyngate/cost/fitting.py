"""A cost table from measurements: what each decision costs, by least squares.

A cost is modelled as a fixed part, one for each stage that is reached, and for every set
of decisions that rows of the model's table are under (a layer's, or a layer's and its
channels') one that is proportional to the share of open groups. None is negative, and
relative errors count. Rows under the same decisions share what is found by their MACs.
Design of this library.
"""

import dataclasses
import datetime
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dyngate.cost.cost_row import CostRow
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.measured import Measured

Key = tuple[tuple[str, ...], int]  # decisions that have to be open, and the stage
HELD_OUT = 0.2
ENOUGH = 20  # trials beside the unknowns, for some to be held out


def fit_costs(
    table: CostTable,
    decisions: Mapping[str, np.ndarray],
    costs: Any,
    *,
    unit: str,
    measured: Measured,
    group_sizes: Mapping[str, int] | None = None,
    plain: float | None = None,
    by_stage: bool = False,
    seed: int = 0,
) -> CostTable:
    """Fit a table in another unit to costs that were measured under decisions.

    A fifth of the trials is held out first, to say how well the fit predicts
    (`Measured.r2`, `error`, `worst`); the table is then fitted to all of them.

    Args:
        table: The model's, in MACs: `count_macs(model)`.
        decisions: As `decide` returns them, `[trials, units]` by name; with early exits
            also "exit", `[trials, 1]`.
        costs: Measured, `[trials]`.
        unit: "ms", "instructions" or another.
        measured: Where the costs come from; `trials` and the errors are filled in.
        group_sizes: Channels that ran together, as `ExportReport.group_sizes`.
        plain: Cost of the net without gates and exits, measured alike. None: that of
            the net with everything open.
        by_stage: Whether all gates were open: the cost of each stage is found, and
            parted by MACs within. Default False.
        seed: Of which trials are held out.

    Returns:
        A `CostTable` of the same rows.

    Raises:
        ImportError: Without SciPy.
        ValueError: If costs are not positive numbers, one for each trial, or fewer than
            there are unknowns, or the decisions are of another model.
    """
    values = np.asarray(costs, np.float64)
    counts = {len(found) for found in decisions.values()} or {len(values)}
    if values.ndim != 1 or counts != {len(values)} or not len(values):
        raise ValueError(
            "`costs` must be as many as there are trials. "
            f"Received: shape {values.shape} for {sorted(counts)} trials"
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            "`costs` must be positive. "
            f"Received: {values[~(np.isfinite(values) & (values > 0))][:3].tolist()}"
        )
    rows = table.rows
    if by_stage:
        table = dataclasses.replace(
            table, rows=tuple(dataclasses.replace(row, gatings=()) for row in rows)
        )
    keys, columns = _columns(table, decisions, group_sizes, len(values))
    if len(values) < len(keys):
        raise ValueError(
            f"`costs` must be of {len(keys)} trials or more, for as many unknowns. "
            f"Received: {len(values)}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(values))
    out = order[: int(len(values) * HELD_OUT)]
    r2 = error = worst = float("nan")
    if len(values) >= len(keys) + ENOUGH:
        kept = np.setdiff1d(order, out)
        found = columns[out] @ _solved(columns[kept], values[kept])
        off = np.abs(found / values[out] - 1)
        error, worst = float(off.mean()), float(np.quantile(off, 0.95))
        spread = values[out] - values[out].mean()
        r2 = 1 - float(
            ((found - values[out]) ** 2).sum() / max((spread**2).sum(), 1e-30)
        )
    solution = dict(zip(keys, _solved(columns, values).tolist(), strict=True))
    noted = dataclasses.replace(
        measured,
        date=measured.date or datetime.date.today().isoformat(),
        trials=len(values),
        r2=r2,
        error=error,
        worst=worst,
    )
    found_rows = _spread(table.rows, solution)
    if plain is not None:
        found_rows = _apart(found_rows, plain)
    if by_stage:
        pairs = zip(rows, found_rows, strict=False)
        found_rows = tuple(
            dataclasses.replace(row, cost=found.cost) for row, found in pairs
        )
    return CostTable(
        found_rows,
        unknown=table.unknown,
        unit=unit,
        group_sizes=dict(group_sizes or {}),
        measured=noted,
        plain=plain,
    )


def unknowns(table: CostTable) -> int:
    """How many costs `fit_costs` looks for."""
    return len(_keys(table))


def _apart(rows: tuple[CostRow, ...], plain: float) -> tuple[CostRow, ...]:
    """Rows, what always runs parted into the plain net's and that of gates and branches.

    The first is what the plain net costs beyond all that is under a decision or behind
    an exit; the rest goes to the controllers that always run, or to a row "branches".
    """

    def always(row: CostRow) -> bool:
        return not row.gatings and not row.stage

    fixed = sum(row.cost for row in rows if always(row))
    other = sum(r.cost for r in rows if not always(r) and not r.controller)
    own = min(max(plain - other, 0.0), fixed)
    sums = {
        kind: sum(r.cost for r in rows if always(r) and r.controller == kind)
        for kind in (False, True)
    }
    wanted = {False: own, True: fixed - own}
    found = [
        dataclasses.replace(
            row, cost=row.cost / sums[row.controller] * wanted[row.controller]
        )
        if always(row) and sums[row.controller]
        else row
        for row in rows
    ]
    for kind, name in ((False, "fixed"), (True, "branches")):
        if not sums[kind] and wanted[kind]:
            found.append(CostRow("", name, wanted[kind], controller=kind))
    return tuple(found)


def _key(row: CostRow) -> Key:
    return tuple(sorted(set(row.decisions))), row.stage


def _keys(table: CostTable) -> list[Key]:
    """What the cost depends on: what always runs, and the rows' own."""
    return list(dict.fromkeys([((), 0), *map(_key, table.rows)]))


def _columns(
    table: CostTable,
    decisions: Mapping[str, np.ndarray],
    group_sizes: Mapping[str, int] | None,
    count: int,
) -> tuple[list[Key], np.ndarray]:
    """What the cost depends on, and by how much of it each trial ran, `[trials, keys]`."""
    opened, groups = table.open_groups(decisions, group_sizes)
    keys = _keys(table)
    columns = np.ones((count, len(keys)))
    for place, (names, stage) in enumerate(keys):
        for name in names:
            columns[:, place] *= opened[name] / groups[name]
        if stage:
            if "exit" not in decisions:
                raise ValueError(
                    "`decisions` must hold 'exit' for a net with early exits. "
                    f"Received: {sorted(decisions)}"
                )
            columns[:, place] *= np.ravel(decisions["exit"]) >= stage
    return keys, columns


def _solved(columns: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Non-negative costs of the columns, with the least relative errors."""
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise ImportError(
            'Fitting costs needs SciPy: pip install "keras_dyngate[measure]"'
        ) from error
    return nnls(columns / costs[:, None], np.ones(len(costs)))[0]


def _spread(
    rows: tuple[CostRow, ...], solution: Mapping[Key, float]
) -> tuple[CostRow, ...]:
    """Rows, the cost of each key parted among its rows by their MACs."""
    sums: dict[Key, float] = defaultdict(float)
    sizes: dict[Key, int] = defaultdict(int)
    for row in rows:
        sums[_key(row)] += row.cost
        sizes[_key(row)] += 1
    found = []
    for row in rows:
        key = _key(row)
        share = row.cost / sums[key] if sums[key] else 1 / sizes[key]
        found.append(dataclasses.replace(row, cost=solution[key] * share))
    if ((), 0) not in sums:  # nothing to hold what always runs
        found.append(CostRow("", "fixed", solution[((), 0)]))
    return tuple(found)
