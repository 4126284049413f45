"""The exits of a file: where each one is, what it costs, and how to be sent there."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

FAR = 1e30  # a threshold that nobody, or with a minus everybody, reaches


@dataclasses.dataclass(frozen=True)
class ExitPlace:
    """An exit, as the exporter noted it; `str` says where it is.

    Attributes:
        name: Of its gate; of the last exit, "head".
        after: Layer of the trunk that it follows; "input" for a first net, which comes
            before the trunk; None for the net's own head.
        macs: Of a sample that leaves there, from the input on.
        macs_share: The same over those of a sample that leaves nowhere else than at the
            head.
    """

    name: str
    after: str | None
    macs: int
    macs_share: float

    def __str__(self) -> str:
        if self.after is None:
            return "at the end"
        return "after the input" if self.after == "input" else f"after {self.after}"

    @property
    def share(self) -> str:
        """`macs_share` in words, without a zero in front: ".45 of the MACs"."""
        return f"{self.macs_share:.2f}".removeprefix("0") + " of the MACs"


def exit_places(metadata: Mapping[str, Any]) -> tuple[ExitPlace, ...]:
    """Read the places of exits from a file's metadata (`LiteRTModel.metadata`).

    Args:
        metadata: What the exporter wrote. Its entry "exits" has a mapping with the
            attributes of `ExitPlace` for each exit, in order, the head last.

    Returns:
        One place per exit; none for files of nets without exits, and for files that are
        older than this entry.

    Raises:
        ValueError: The entry has another form.
    """
    found = metadata.get("exits")
    if found is None:
        return ()
    try:
        places = tuple(
            ExitPlace(
                name=each["name"],
                after=each["after"],
                macs=int(each["macs"]),
                macs_share=float(each["macs_share"]),
            )
            for each in found
        )
        well = all(
            isinstance(place.name, str) and isinstance(place.after, str | None)
            for place in places
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        well = False
    if not well:
        raise ValueError(
            "'exits' in a file's metadata must list mappings with name, after, macs and "
            f"macs_share. Received: {str(found)[:100]}"
        )
    return places


def limits_to(exit_index: int, gates: int) -> np.ndarray:
    """Thresholds, float32 `[gates]`, at which every sample leaves at one exit."""
    limits = np.full(gates, FAR, "float32")
    limits[exit_index:] = -FAR
    return limits
