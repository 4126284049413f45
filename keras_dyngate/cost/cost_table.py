"""What a model costs, in any unit: a table of rows, and a sum over decisions.

table = kd.count_macs(model)                        # in MACs
table = kd.measure_latency(model)                   # in ms, on this machine
table.of(kd.decide(model, x))                       # of each image
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dyngate.cost.cost_row import CostRow, shown_cost
from keras_dyngate.cost.executed import costs_of_groups
from keras_dyngate.cost.measured import Measured

MACS = "MACs"


@dataclasses.dataclass(frozen=True, repr=False)
class CostTable:
    """The cost of a model for one image, as a function of its decisions.

    Attributes:
        rows: One `CostRow` per kernel, in the order of the model; of an anytime net,
            those of its largest sub-network.
        per_subnetwork: Of an anytime net, the cost of each sub-network alone, its head
            included.
        per_step: Of an anytime net, the cost of going on from sub-network k - 1 to k,
            the head of k included.
        unknown: What could not be counted, by path: its cost is missing.
        unit: "MACs", "ms" or "instructions".
        group_sizes: Channels that are executed together, by decision or layer, where
            `of` is not told: those of the file that was measured. Empty: the paper's
            count.
        measured: How a table in another unit than MACs was made; None: counted.
        plain: The cost of the plain net, measured apart: what `total` is then. None:
            the sum of the rows without controllers.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        table = kd.count_macs(model)
        print(table.total, table.gateable, table.controllers)
        print(table.of(kd.decide(model, x)))  # MACs of each image: [8]
        ```
    """

    rows: tuple[CostRow, ...]
    per_subnetwork: tuple[Any, ...] = ()
    per_step: tuple[Any, ...] = ()
    unknown: tuple[str, ...] = ()
    unit: str = MACS
    group_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    measured: Measured | None = None
    plain: float | None = None

    def __repr__(self) -> str:
        parts = [f"{shown_cost(self.total)} {self.unit}"]
        if self.gateable:
            parts.append(f"{shown_cost(self.gateable)} gateable")
        if self.controllers:
            parts.append(f"{shown_cost(self.controllers)} controllers")
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown")
        if self.measured is not None:
            parts.append(str(self.measured))
        return f"CostTable({', '.join(parts)})"

    @property
    def layers(self) -> tuple[CostRow, ...]:
        """The rows, by their name in version 0.1.0."""
        return self.rows

    @property
    def total(self) -> Any:
        """Of the plain net: without gates, or everything open, controllers left out."""
        if self.plain is not None:
            return self.plain
        return sum(r.cost for r in self.rows if not r.controller)

    @property
    def ungated(self) -> Any:
        """What of `total` no decision can save."""
        return self.total - self.gateable

    @property
    def gateable(self) -> Any:
        """What is under some decision, with everything open."""
        return sum(r.cost for r in self.rows if not r.controller and r.gated)

    @property
    def controllers(self) -> Any:
        """Of all controllers and decision gates; of a measured table of branches too.

        It is what the net costs with everything open, above `total`.
        """
        return sum(row.cost for row in self.rows) - self.total

    @property
    def least(self) -> Any:
        """What remains with everything shut, and the first exit taken."""
        return sum(r.cost for r in self.rows if not r.gatings and not r.stage)

    @property
    def per_exit(self) -> tuple[Any, ...]:
        """Cost up to each exit of a net with early exits, everything open.

        Controllers and the decision gates on the way are included; the last exit is the
        net's own head. One number for a net without early exits.
        """
        last = max((row.stage for row in self.rows), default=0)
        spent: list[Any] = [0] * (last + 1)
        for row in self.rows:
            spent[row.stage] += row.cost
        return tuple(np.cumsum(spent).tolist())

    def of(
        self,
        decisions: Mapping[str, np.ndarray],
        group_size: int | Mapping[str, int] | None = None,
    ) -> np.ndarray:
        """The cost per sample under `decisions`, controllers included.

        Args:
            decisions: As `decide` returns them: `[N, units]` arrays by name.
            group_size: Channels that an exported file executes together; a group runs
                when any of its channels is open. One number, or one per block
                (`ExportReport.group_sizes`). None: the table's own `group_sizes`, or
                the paper's count, where every unit is skipped on its own.

        Returns:
            `[N]`: int64 in MACs, else float64.

        Raises:
            ValueError: If a decision is missing, or `group_size` does not fit a block.
        """
        samples = {len(values) for values in decisions.values()}
        if len(samples) > 1:
            raise ValueError(
                "`decisions` must all be of the same samples. "
                f"Received: arrays of {sorted(samples)} rows"
            )
        count = samples.pop() if samples else 1
        if group_size is None and self.group_sizes:
            group_size = self.group_sizes
        opened, groups = self.open_groups(decisions, group_size)
        dtype: Any = np.int64 if self.unit == MACS else np.float64
        total = np.zeros(count, dtype)
        for stage in sorted({row.stage for row in self.rows}):
            if stage and "exit" not in decisions:
                raise ValueError(
                    "`decisions` must hold 'exit' for a net with early exits. "
                    f"Received: {sorted(decisions)}"
                )
            rows = [row for row in self.rows if row.stage == stage]
            spent = np.zeros(count, dtype)
            for names, cost in costs_of_groups(rows, groups).items():
                ran = np.full(count, cost, dtype)
                for name in names:
                    ran *= opened[name]
                spent += ran
            if stage:
                spent *= np.ravel(decisions["exit"]) >= stage
            total += spent
        return total

    def open_groups(
        self,
        decisions: Mapping[str, np.ndarray],
        group_size: int | Mapping[str, int] | None,
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """By decision, how many groups ran, int64 `[N]`, and how many there are."""
        opened: dict[str, np.ndarray] = {}
        groups: dict[str, int] = {}
        for row in self.rows:
            for gating in row.gatings:
                name = gating.name_in(row.layer)
                if name not in decisions:
                    raise ValueError(
                        f"`decisions` must hold {name!r}. Received: {sorted(decisions)}"
                    )
                if name not in groups:
                    size = _size_for(name, group_size)
                    scores = np.asarray(decisions[name])
                    opened[name], groups[name] = gating.open_groups(scores, size)
        return opened, groups

    def without_gates(self) -> "CostTable":
        """Of the net as it was before its gates and exits."""
        rows = (row for row in self.rows if not row.controller)
        opened = (dataclasses.replace(row, gatings=(), stage=0) for row in rows)
        return dataclasses.replace(self, rows=tuple(opened))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON.

        Raises:
            ValueError: If the path cannot be written.
        """
        from keras_dyngate.cost.table_file import save_table  # it makes tables

        save_table(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "CostTable":
        """Read what `save` wrote, on any machine.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is another one, or damaged.
        """
        from keras_dyngate.cost.table_file import load_table

        return load_table(path)

    def per_unit(self, name: str, units: int) -> np.ndarray:
        """What each unit of a decision controls with all others open, float64 `[units]`.

        Args:
            name: Of the decision, in full.
            units: How many it has.

        Raises:
            ValueError: If the table knows no such decision.
        """
        if not any(row.is_under(name) for row in self.rows):
            raise ValueError(
                f"The cost table must be of this model: it has no decision {name!r}. "
                f"Received: {self}"
            )
        rows = [row for row in self.rows if row.is_under(name)]
        # In an exit's own net all counts as a controller.
        rows = [row for row in rows if not row.controller] or rows
        return np.full(units, sum(row.cost for row in rows) / units)


MacProfile = CostTable  # its name where costs were MACs alone


def _size_for(name: str, group_size: int | Mapping[str, int] | None) -> int | None:
    """Channels that run together for a decision: its own, or its layer's."""
    if not isinstance(group_size, Mapping):
        return group_size
    layer = name.rpartition("/")[0]  # "block:2" is a second call of "block"
    for known in (name, layer, layer.rpartition(":")[0]):
        if known in group_size:
            return group_size[known]
    return None
