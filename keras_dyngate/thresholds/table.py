"""What early exits would do on some samples, and thresholds chosen from it.

Plain arrays and functions: a table is made once by a pass over the data, then any
thresholds can be tried on it. Choosing may look at a calibration set's labels; applying
thresholds never looks at any.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # which imports this module
    from keras_dyngate.thresholds.promise import Promise


@dataclasses.dataclass(frozen=True)
class ExitTable:
    """What every exit says of every sample. N samples, n gates, n + 1 exits.

    Attributes:
        confidence: `[N, n]`, of the gates.
        labels: Class each exit would answer, int `[N, n + 1]`.
        macs: MACs spent on a sample that leaves at each exit, `[N, n + 1]`.
        truth: Class indices, int `[N]`, or None.
        plain: Class that the net without exits answers, int `[N]`, what losses are
            counted against; None: the head's.
    """

    confidence: np.ndarray
    labels: np.ndarray
    macs: np.ndarray
    truth: np.ndarray | None = None
    plain: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """Which answers are right, bool `[N, n + 1]`."""
        if self.truth is None:
            raise ValueError("Accuracy needs labels. Received: images without labels")
        return self.labels == self.truth[:, None]

    @property
    def plain_labels(self) -> np.ndarray:
        """What losses are counted against, int `[N]`."""
        return self.labels[:, -1] if self.plain is None else self.plain

    @property
    def plain_correct(self) -> np.ndarray:
        """Which of those answers are right, bool `[N]`."""
        if self.truth is None:
            raise ValueError("Accuracy needs labels. Received: images without labels")
        return self.plain_labels == self.truth

    def take(self, rows: Any) -> "ExitTable":
        """The table of some of the samples."""
        truth, plain = (
            None if v is None else v[rows] for v in (self.truth, self.plain)
        )
        return ExitTable(
            self.confidence[rows], self.labels[rows], self.macs[rows], truth, plain
        )


@dataclasses.dataclass(frozen=True)
class ExitOutcome:
    """What thresholds do on a set of samples.

    Attributes:
        thresholds: One per gate.
        shares: Share of samples that leave at each exit, the head last.
        macs: Mean MACs per sample, decision gates and controllers included.
        macs_share: `macs` relative to everything leaving at the head.
        accuracy: Share of right answers; None without labels.
        head_accuracy: That of the head alone, for comparison, or of the net without
            exits; None without labels.
        ms: Expected time per sample, if the time to each exit was given.
        promise: What holds on fresh data, if a `confidence` was asked for.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        x = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3))
        model = kd.add_decision_gates(net, after=["early"])
        outcome = model.calibrate(x, np.arange(8) % 4, exit_shares=[0.5])
        print(outcome.accuracy, outcome.macs_share, outcome.shares)
        ```
    """

    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    macs: float
    macs_share: float
    accuracy: float | None
    head_accuracy: float | None
    ms: float | None = None
    promise: "Promise | None" = None

    def __str__(self) -> str:
        parts = [f"exits {' / '.join(f'{share:.1%}' for share in self.shares)}"]
        parts.append(f"{self.macs / 1e6:.2f} MMACs ({self.macs_share:.3f} of all)")
        if self.accuracy is not None:
            parts.append(
                f"accuracy {self.accuracy:.2%} (head {self.head_accuracy:.2%})"
            )
        parts.append("time not given" if self.ms is None else f"{self.ms:.2f} ms")
        if self.promise is not None:
            parts.append(f"promised: {self.promise}")
        return ", ".join(parts)


def exits_of(confidence: np.ndarray, thresholds: Any) -> np.ndarray:
    """The exit of each sample, int `[N]`: the first gate with confidence >= threshold.

    A confidence or threshold that is not a number never leaves.
    """
    leaves = confidence >= np.asarray(thresholds, "float32")
    first = np.argmax(leaves, axis=1) if leaves.shape[1] else np.zeros(len(leaves), int)
    return np.where(leaves.any(axis=1), first, leaves.shape[1])


def outcome(
    table: ExitTable, thresholds: Any, path_ms: Sequence[float] | None = None
) -> ExitOutcome:
    """Apply thresholds to a table.

    Args:
        table: Of the samples to judge.
        thresholds: One per gate.
        path_ms: Measured time of a sample that leaves at each exit, n + 1 numbers.
    """
    exits = exits_of(table.confidence, thresholds)
    rows, last = np.arange(len(exits)), table.labels.shape[1] - 1
    shares = np.bincount(exits, minlength=last + 1) / len(exits)
    macs = float(table.macs[rows, exits].mean())
    known = table.truth is not None
    return ExitOutcome(
        thresholds=tuple(float(t) for t in thresholds),
        shares=tuple(shares.tolist()),
        macs=macs,
        macs_share=macs / float(table.macs[:, -1].mean()),
        accuracy=float(table.correct[rows, exits].mean()) if known else None,
        head_accuracy=float(table.plain_correct.mean()) if known else None,
        ms=None if path_ms is None else float(np.dot(shares, path_ms)),
    )


def thresholds_for_shares(
    confidence: np.ndarray, shares: Sequence[float]
) -> np.ndarray:
    """Thresholds at which the wished shares of all samples leave, gate by gate.

    Args:
        confidence: `[N, n]`.
        shares: Of samples to leave at each gate; their sum is at most 1.

    Returns:
        float32 `[n]`. A gate lets the round(share * N) most confident of the samples
        that reach it leave, more where confidences are equal; infinity where none does.
        A threshold lies midway between the last that leaves and the first that stays.
    """
    staying = np.ones(len(confidence), bool)
    found = np.full(confidence.shape[1], np.inf, "float32")
    for gate, share in enumerate(shares):
        values = confidence[staying, gate].astype("float32")
        values = np.sort(values[~np.isnan(values)])[::-1]
        count = min(round(share * len(confidence)), len(values))
        if count:
            last = found[gate] = values[count - 1]
            following = values[values < last][:1]
            if len(following) and (last + following[0]) / 2 > following[0]:
                found[gate] = (last + following[0]) / 2
        staying &= ~(confidence[:, gate] >= found[gate])
    return found


def budgeted_sweep(confidence: np.ndarray, points: int = 39) -> list[np.ndarray]:
    """Thresholds for wished exit shares `q^k / sum_j q^j`, from early to late exits.

    Args:
        confidence: `[N, n]` of a calibration set; labels are not needed.
        points: How many values of q: 39 gives q = 1/20, 2/20, ... 39/20.
    """
    step, found = 2.0 / (points + 1), []
    for index in range(1, points + 1):
        powers = (step * index) ** np.arange(1, confidence.shape[1] + 2)
        shares = powers / powers.sum()
        found.append(thresholds_for_shares(confidence, shares[:-1]))
    return found
