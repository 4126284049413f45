"""The row of a cost table: one kernel, its cost, and the decisions it is under.

One multiply-add is one MAC. What counts and what does not: see `count_macs`.
"""

import dataclasses

import numpy as np

MIN_GROUP = 16  # channels; thinner convolutions waste the kernels' lanes


def default_group_size(filters: int, units: int) -> int:
    """Channels that a file executes together where none are asked for.

    The controller's own groups if these have 16 channels or more, else the smallest
    multiple of them that has and divides the channels (design of this library).
    """
    own = filters // units
    sizes = [n for n in range(own, filters + 1, own) if filters % n == 0]
    return next((n for n in sizes if n >= MIN_GROUP), filters)


def executed_group_size(filters: int, units: int, group_size: int | None) -> int:
    """Channels that a file executes together.

    Args:
        filters: Channels under control.
        units: Decisions over them, each for `filters // units` neighbours.
        group_size: Wanted channels per group, or None for the controller's own.

    Returns:
        `group_size`, or the controller's own where that is coarser.

    Raises:
        ValueError: If the group does not divide the channels or splits a unit.
    """
    own = filters // units
    if group_size is None or group_size <= own:
        return own
    if group_size >= filters:
        return filters
    if filters % group_size or group_size % own:
        raise ValueError(
            f"`group_size` must divide the block's {filters} channels and be a "
            f"multiple of its {own} channels per decision. "
            f"Received: group_size={group_size!r}"
        )
    return group_size


@dataclasses.dataclass(frozen=True)
class Gating:
    """A decision that a cost is proportional to.

    Attributes:
        key: Of the decision, relative to its layer ("channel", "channel_2", "layer").
        channels: How many channels the decision's units cover together (1 for "layer").
        layer: Whose decision it is; "": of the row's own layer.
    """

    key: str
    channels: int = 1
    layer: str = ""

    def name_in(self, layer: str) -> str:
        """The decision's full name, in a row of `layer`."""
        return f"{self.layer or layer}/{self.key}"

    def open_groups(
        self, scores: np.ndarray, group_size: int | None
    ) -> tuple[np.ndarray, int]:
        """Groups executed per sample, int64 `[N]`, and how many there are.

        A group runs when any of its units is open.
        """
        samples, units = scores.shape
        size = executed_group_size(self.channels, units, group_size)
        groups = self.channels // size
        is_open = (scores > 0).reshape(samples, groups, -1).any(axis=-1)
        return is_open.sum(axis=-1, dtype=np.int64), groups


@dataclasses.dataclass(frozen=True, repr=False)
class CostRow:
    """The cost of one kernel for one image, everything open.

    Attributes:
        layer: Name of a block that decides; its second call is "name:2", as in its
            decisions. Of a plain layer or an operator its path: inside of a nested
            model or another layer "mobilenetv2/Conv1".
        kernel: The kernel inside it ("conv1", "channel_gate"), or "" for the layer.
        cost: With everything open, in the unit of the table: MACs (int), or ms.
        gatings: Decisions that the cost is proportional to.
        controller: Whether this is a controller, or of an exit, and counted apart.
        stage: Of a net with early exits: spent only on a sample whose `exit` decision
            is this or a later one.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        model = keras.Sequential([keras.Input((8, 8, 4)), block])
        for row in kd.count_macs(model).rows:
            print(row.name, row.cost, row.gated)
        ```
    """

    layer: str
    kernel: str
    cost: float
    gatings: tuple[Gating, ...] = ()
    controller: bool = False
    stage: int = 0

    def __repr__(self) -> str:
        parts = [repr(self.name), shown_cost(self.cost)]
        if self.gatings:
            keys = (gating.key for gating in self.gatings)
            parts.append(f"under {' and '.join(dict.fromkeys(keys))}")
        if self.controller:
            parts.append("controller")
        if self.stage:
            parts.append(f"from exit {self.stage} on")
        return f"CostRow({', '.join(parts)})"

    @property
    def macs(self) -> int:
        """The cost, of a table in MACs."""
        return int(self.cost)

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.kernel}" if self.kernel else self.layer

    @property
    def decisions(self) -> tuple[str, ...]:
        """The full names of the decisions that it is under."""
        return tuple(gating.name_in(self.layer) for gating in self.gatings)

    def is_under(self, name: str) -> bool:
        """Whether the cost is proportional to a decision, told by its full name."""
        return name in self.decisions

    @property
    def gated(self) -> bool:
        return bool(self.gatings) or self.stage > 0


MacRow = CostRow  # its name where costs were MACs alone


def shown_cost(cost: float) -> str:
    """A cost as it is printed: MACs are whole numbers, all else has four digits."""
    whole = isinstance(cost, (int, np.integer))
    return f"{cost:,}" if whole else f"{cost:.4g}"
