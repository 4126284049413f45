"""The row of a MAC table: one kernel, its multiply-adds, and the decisions it is under.

Only convolution and dense kernels count: one multiply-add is one MAC; biases,
normalization, activations and pooling cost 0.
"""

import dataclasses

import numpy as np


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
    """

    key: str
    channels: int = 1

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


@dataclasses.dataclass(frozen=True)
class MacRow:
    """MACs of one kernel for one image, everything open.

    Attributes:
        layer: Name of the layer that the model holds (a block, or a plain layer); the
            second call of a block is "name:2", as in its decisions.
        kernel: The kernel inside it ("conv1", "channel_gate"), or "" for the layer.
        macs: Multiply-adds with everything open.
        gatings: Decisions of the same layer that the cost is proportional to.
        controller: Whether this is a controller or a decision gate, counted apart.
        stage: Of a net with early exits: spent only on a sample whose `exit` decision
            is this or a later one.
    """

    layer: str
    kernel: str
    macs: int
    gatings: tuple[Gating, ...] = ()
    controller: bool = False
    stage: int = 0

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.kernel}" if self.kernel else self.layer

    @property
    def gated(self) -> bool:
        return bool(self.gatings) or self.stage > 0
