"""MAC tables of whole models, and what each sample's decisions make of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_dyngate.cost.executed import costs_of_groups
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

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        profile = kd.count_macs(model)
        print(profile.total, profile.gateable, profile.controllers)
        print(profile.of(kd.decide(model, x)))  # MACs of each image: [8]
        ```
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
        count = samples.pop() if samples else 1
        open_groups: dict[str, np.ndarray] = {}
        groups: dict[str, int] = {}
        for row in self.layers:
            for gating in row.gatings:
                name = gating.name_in(row.layer)
                if name not in decisions:
                    raise ValueError(
                        f"`decisions` must hold {name!r}. Received: {sorted(decisions)}"
                    )
                if name not in groups:
                    size = _size_for(name, group_size)
                    scores = np.asarray(decisions[name])
                    open_groups[name], groups[name] = gating.open_groups(scores, size)
        total = np.zeros(count, np.int64)
        for stage in sorted({row.stage for row in self.layers}):
            if stage and "exit" not in decisions:
                raise ValueError(
                    "`decisions` must hold 'exit' for a net with early exits. "
                    f"Received: {sorted(decisions)}"
                )
            rows = [row for row in self.layers if row.stage == stage]
            spent = np.zeros(count, np.int64)
            for names, macs in costs_of_groups(rows, groups).items():
                ran = np.full(count, macs, np.int64)
                for name in names:
                    ran *= open_groups[name]
                spent += ran
            if stage:
                spent *= np.ravel(decisions["exit"]) >= stage
            total += spent
        return total


def _size_for(name: str, group_size: int | Mapping[str, int] | None) -> int | None:
    """Channels that run together for a decision: its own, or its layer's."""
    if not isinstance(group_size, Mapping):
        return group_size
    layer = name.rpartition("/")[0]  # "block:2" is a second call of "block"
    for known in (name, layer, layer.rpartition(":")[0]):
        if known in group_size:
            return group_size[known]
    return None
