"""MAC tables of whole models, and what each sample's decisions make of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_dyngate.cost.mac_row import MacRow


@dataclasses.dataclass(frozen=True, repr=False)
class MacProfile:
    """MACs of a model for one image.

    Attributes:
        layers: One `MacRow` per kernel, in the order of the model; of an anytime net,
            those of its largest sub-network.
        per_subnetwork: Of an anytime net, MACs of each sub-network alone, its head
            included.
        per_step: Of an anytime net, MACs of going on from sub-network k - 1 to k, the
            head of k included.
        unknown: What could not be counted, by path: its MACs are missing.
    """

    layers: tuple[MacRow, ...]
    per_subnetwork: tuple[int, ...] = ()
    per_step: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = [f"{self.total:,} MACs"]
        if self.gateable:
            parts.append(f"{self.gateable:,} gateable")
        if self.controllers:
            parts.append(f"{self.controllers:,} controllers")
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown")
        return f"MacProfile({', '.join(parts)})"

    @property
    def total(self) -> int:
        """MACs of the plain net: everything open, controllers left out."""
        return self.ungated + self.gateable

    @property
    def ungated(self) -> int:
        """MACs that no decision can save, controllers left out."""
        return sum(r.macs for r in self.layers if not r.controller and not r.gated)

    @property
    def gateable(self) -> int:
        """MACs under some decision, with everything open."""
        return sum(r.macs for r in self.layers if not r.controller and r.gated)

    @property
    def controllers(self) -> int:
        """MACs of all controllers and decision gates."""
        return sum(row.macs for row in self.layers if row.controller)

    @property
    def per_exit(self) -> tuple[int, ...]:
        """MACs up to each exit of a net with early exits, everything open.

        Controllers and the decision gates on the way are included; the last exit is the
        net's own head. One number for a net without early exits.
        """
        last = max((row.stage for row in self.layers), default=0)
        spent = [0] * (last + 1)
        for row in self.layers:
            spent[row.stage] += row.macs
        return tuple(np.cumsum(spent).tolist())

    def of(
        self,
        decisions: Mapping[str, np.ndarray],
        group_size: int | Mapping[str, int] | None = None,
    ) -> np.ndarray:
        """MACs per sample under `decisions`, controllers included.

        Args:
            decisions: As `decide` returns them: `[N, units]` arrays by name.
            group_size: Channels that an exported file executes together; a group runs
                when any of its channels is open. One number, or one per block
                (`ExportReport.group_sizes`). None: the paper's count, where every unit
                is skipped on its own.

        Returns:
            int64 `[N]`.

        Raises:
            ValueError: If a decision is missing, or `group_size` does not fit a block.
        """
        samples = {len(values) for values in decisions.values()}
        if len(samples) > 1:
            raise ValueError(
                "`decisions` must all be of the same samples. "
                f"Received: arrays of {sorted(samples)} rows"
            )
        total = np.zeros(samples.pop() if samples else 1, np.int64)
        for row in self.layers:
            size = group_size
            if isinstance(size, Mapping):  # "block:2" is a second call of "block"
                size = size.get(row.layer, size.get(row.layer.rpartition(":")[0]))
            cost = np.full(len(total), row.macs, np.int64)
            for gating in row.gatings:
                key = f"{row.layer}/{gating.key}"
                if key not in decisions:
                    raise ValueError(
                        f"`decisions` must hold {key!r}. Received: {sorted(decisions)}"
                    )
                scores = np.asarray(decisions[key])
                count, groups = gating.open_groups(scores, size)
                cost = cost * count // groups
            if row.stage:
                if "exit" not in decisions:
                    raise ValueError(
                        "`decisions` must hold 'exit' for a net with early exits. "
                        f"Received: {sorted(decisions)}"
                    )
                cost *= np.ravel(decisions["exit"]) >= row.stage
            total += cost
        return total
