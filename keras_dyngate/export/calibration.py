"""Calibration of int8 files: which images, with which branches forced open."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np


def calibration_feed(
    images: np.ndarray,
    blocks: int,
    dtype: str,
    others: Mapping[str, np.ndarray] | None = None,
) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Inputs that reach every branch of `explain`, without distorting its ranges.

    Each image runs as the net decides, and once more with all of one block's branches
    forced open, the blocks taking turns: a rarely taken branch is calibrated on many
    images, and the blocks around it see what they see in use (design of this library).
    """

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index in range(max(len(images), blocks)):
            image = images[index % len(images)][None].astype(dtype)
            inputs = {"image": image, **(others or {})}
            if blocks:
                force = np.zeros(blocks, np.int32)
                if index < len(images):
                    yield "explain", {**inputs, "force": force}
                force = force.copy()
                force[index % blocks] = 1
                inputs["force"] = force
            yield "explain", inputs

    return feed
