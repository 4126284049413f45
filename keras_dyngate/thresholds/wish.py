"""What thresholds of exits are to keep to, and choosing them on a table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dyngate._checks import boolean, fraction, positive_int, positive_number
from keras_dyngate.thresholds.promise import check_confidence, promised_thresholds
from keras_dyngate.thresholds.search import Goal, search, search_shared
from keras_dyngate.thresholds.table import (
    ExitOutcome,
    ExitTable,
    budgeted_sweep,
    outcome,
    thresholds_for_shares,
)


def _checked_path_ms(path_ms: Any, exits: int) -> list[float]:
    found = np.asarray([] if path_ms is None else path_ms, "float64")
    if found.shape != (exits,) or not (found > 0).all():
        raise ValueError(
            f"`path_ms` must be {exits} measured times, one per exit, the head last. "
            f"Received: path_ms={path_ms!r}"
        )
    return found.tolist()


@dataclasses.dataclass(frozen=True)
class Wish:
    """What thresholds are to keep to: one thing; see `EarlyExitModel.calibrate`.

    Checked when made, before any pass over data, for a net of so many `gates`. `shared`:
    one threshold for all of them; None: if their confidences are `alike`, and it keeps to
    the wish.
    """

    gates: int
    macs: float | None = None
    accuracy_drop: float | None = None
    exit_shares: Sequence[float] | None = None
    ms: float | None = None
    path_ms: Sequence[float] | None = None
    agreement: float | None = None
    confidence: float | None = None
    shared: bool | None = False
    alike: bool = False

    @property
    def name(self) -> str:
        """Of the argument that was given."""
        names = ("macs", "accuracy_drop", "agreement", "exit_shares", "ms")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"Give one of {names}. Received: {given or 'none'}")
        return given[0]

    def __post_init__(self) -> None:
        name = self.name  # raises unless one thing is wished
        for cost in ("macs", "ms"):
            if getattr(self, cost) is not None:
                positive_number(cost, getattr(self, cost))
        if self.path_ms is not None or self.ms is not None:
            _checked_path_ms(self.path_ms, self.gates + 1)
        if self.accuracy_drop is not None:
            fraction("accuracy_drop", self.accuracy_drop, low=-1)
        if self.agreement is not None:
            fraction("agreement", self.agreement)
        if self.confidence is not None:
            self._check_confidence(name)
        if self.shared is not None:
            boolean("shared", self.shared)
        if self.shared and (self.confidence is not None or name == "exit_shares"):
            raise ValueError(
                "`shared` must be False or None with `confidence` or `exit_shares`, which "
                f"take a threshold for each exit. Received: shared={self.shared!r}"
            )
        if self.exit_shares is not None:
            try:
                shares = np.asarray(self.exit_shares, "float64")
            except (TypeError, ValueError):  # no numbers
                shares = np.empty(0)
            fits = shares.shape == (self.gates,) and (shares >= 0).all()
            if not fits or shares.sum() > 1 + 1e-9:
                raise ValueError(
                    f"`exit_shares` must be {self.gates} shares, one per gate, of sum 1 "
                    f"at most. Received: exit_shares={self.exit_shares!r}"
                )

    def _check_confidence(self, name: str) -> None:
        if name not in ("accuracy_drop", "agreement"):
            raise ValueError(
                "`confidence` goes with `accuracy_drop` or `agreement`. Received: "
                f"confidence={self.confidence!r} with {name}"
            )
        assert self.confidence is not None
        check_confidence(self.confidence)
        low = -1 if self.agreement is None else 0
        if not low < getattr(self, name) < 1:
            raise ValueError(
                f"`{name}` must be above {low} and below 1 to be promised. Received: "
                f"{name}={getattr(self, name)!r}"
            )

    def choose(self, table: ExitTable) -> ExitOutcome:
        """Thresholds that keep to the wish on a table, or a `ValueError`.

        With `confidence` they keep to it on fresh data (`Promise`); the outcome is that
        on the whole table either way.
        """
        if self.exit_shares is not None:
            chosen = thresholds_for_shares(table.confidence, self.exit_shares)
            return outcome(table, chosen, self.path_ms)
        cost, judged = table.macs, table
        if self.path_ms is not None and self.macs is None:
            cost = np.tile(np.asarray(self.path_ms, "float64"), (len(table.labels), 1))
        if self.agreement is not None:  # the head is always right
            judged = dataclasses.replace(table, truth=table.plain_labels)
        kind = "accuracy" if self.agreement is None else "agreement"
        drop = self.accuracy_drop if self.agreement is None else 1 - self.agreement
        if self.confidence is not None and drop is not None:
            chosen, promise = promised_thresholds(
                judged, cost, kind=kind, drop=drop, confidence=self.confidence
            )
            found = outcome(table, chosen, self.path_ms)
            return dataclasses.replace(found, promise=promise)
        if drop is None:
            goal = Goal(cost, budget=self.macs if self.ms is None else self.ms)
        else:
            goal = Goal(cost, accuracy=float(judged.plain_correct.mean() - drop))
        shared = self.alike if self.shared is None else self.shared
        chosen, kept = (search_shared if shared else search)(judged, goal)
        if shared and not kept and self.shared is None:
            chosen, kept = search(judged, goal)
        found = outcome(table, chosen, self.path_ms)
        if not kept:
            name = self.name
            raise ValueError(
                f"`{name}` cannot be kept to on this data. "
                f"Received: {name}={getattr(self, name)!r}; the closest found: {found}"
            )
        return found


def sweep(
    calibration: ExitTable,
    test: ExitTable,
    *,
    points: int,
    path_ms: Sequence[float] | None,
) -> list[ExitOutcome]:
    """The budgeted sweep's thresholds from one table, applied to another."""
    positive_int("points", points)
    times = None
    if path_ms is not None:
        times = _checked_path_ms(path_ms, test.labels.shape[1])
    thresholds = budgeted_sweep(calibration.confidence, points)
    return [outcome(test, item, times) for item in thresholds]
