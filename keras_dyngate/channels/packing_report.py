"""What packing channels changed: executed MACs, and how far the outputs moved."""

import dataclasses
from typing import Any

import keras
import numpy as np


def compare_outputs(before: Any, after: Any) -> tuple[float, float]:
    """How far the outputs of two nets on the same images are apart.

    Args:
        before, after: What `predict` returned: an array, or a structure of arrays.

    Returns:
        The largest difference, relative to the largest output before; and the share of
        images (or pixels) whose largest output is the same one, 0 to 1.
    """
    pairs = [
        (np.asarray(a, "float32"), np.asarray(b, "float32"))
        for a, b in zip(
            keras.tree.flatten(before), keras.tree.flatten(after), strict=True
        )
    ]
    scale = max(float(np.abs(a).max()) for a, _ in pairs)
    largest = max(float(np.abs(a - b).max()) for a, b in pairs)
    agreement = min(float((a.argmax(-1) == b.argmax(-1)).mean()) for a, b in pairs)
    return largest / scale if scale else largest, agreement


@dataclasses.dataclass(frozen=True)
class ExecutedMacs:
    """Mean MACs per image over some images, controllers included.

    Attributes:
        images: How many.
        per_channel: Before packing, if every shut channel were skipped on its own (the
            paper's count): the least that packing can reach without removing channels.
        before: Executed in groups, channels in the order of training.
        after: Executed in groups, channels packed.
    """

    images: int
    per_channel: float
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """The result of `pack_channels`.

    All MACs are what a file exported with `group_size` executes. Keras computes the
    dense form whatever the order, so there is no time here: measure the exported files.

    Attributes:
        group_size: Channels that run together.
        plain_macs: Of the net with everything open, before packing, controllers left
            out.
        data: On the images that the order was chosen on.
        holdout: On the images kept apart.
        open_rates: Share of open channels by decision, before, on the former.
        orders: Old index of each new channel, by decision.
        removed: Channels taken out, by decision; empty without `prune`.
        freed: Channels whose gates are now always open, by decision; the same.
        max_difference: Between the outputs before and after on the images kept apart,
            relative to the largest output.
        argmax_agreement: Share of them whose largest output is the same, 0 to 1.
        decision_agreement: Share of the remaining channels' decisions that are, 0 to 1.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        packed, report = kd.pack_channels(model, x, group_size=4)
        print(report)  # MACs executed before and after, on `x` and on what was kept apart
        ```
    """

    group_size: int
    plain_macs: int
    data: ExecutedMacs
    holdout: ExecutedMacs
    open_rates: dict[str, float]
    orders: dict[str, tuple[int, ...]]
    removed: dict[str, int]
    freed: dict[str, int]
    max_difference: float
    argmax_agreement: float
    decision_agreement: float

    def __str__(self) -> str:
        lines = [
            f"Channels packed in groups of {self.group_size}; mean MACs per image, "
            f"share of the plain net's {self.plain_macs:,}:"
        ]
        for name, macs in (("chosen on", self.data), ("kept apart", self.holdout)):
            shares = [
                f"{value:,.0f} ({value / self.plain_macs:.1%})"
                for value in (macs.before, macs.after, macs.per_channel)
            ]
            lines.append(
                f"{name} ({macs.images} images): {shares[0]} before, {shares[1]} "
                f"after; per channel {shares[2]}"
            )
        if self.removed or self.freed:
            lines.append(
                f"{sum(self.removed.values())} channels removed that never opened, "
                f"{sum(self.freed.values())} freed that never shut"
            )
        lines += [
            "before and after on the images kept apart: outputs within "
            f"{self.max_difference:.1e} of the largest, argmax equal "
            f"{self.argmax_agreement:.1%}, decisions equal "
            f"{self.decision_agreement:.2%}",
            "Time: not measured here (Keras skips nothing); export both nets and use "
            "LiteRTModel.benchmark.",
        ]
        return "\n".join(lines)
