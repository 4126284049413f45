"""The best thresholds under a budget, searched on a calibration table."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_dyngate.thresholds.table import ExitTable, budgeted_sweep, exits_of

CANDIDATES = 96  # thresholds tried per gate and step
STARTS = 10  # the best of them are improved upon
SHARED = 400  # thresholds tried for all gates together


@dataclasses.dataclass(frozen=True)
class Goal:
    """What thresholds have to keep to; accuracy is maximized, or cost minimized.

    Attributes:
        cost: Of each sample at each exit, `[N, n + 1]`: MACs, or milliseconds.
        budget: Highest mean cost, or None.
        accuracy: Lowest accuracy, or None.
    """

    cost: np.ndarray
    budget: float | None = None
    accuracy: float | None = None

    def key(self, accuracy: float, cost: float) -> tuple[bool, float, float]:
        """Larger is better: within the limit first, then accuracy or cost."""
        if self.budget is not None:
            fits = cost <= self.budget
            return (fits, accuracy, -cost) if fits else (fits, -cost, accuracy)
        fits = self.accuracy is None or accuracy >= self.accuracy - 1e-9
        return (fits, -cost, accuracy) if fits else (fits, accuracy, -cost)


def _candidates(confidence: np.ndarray) -> np.ndarray:
    """Thresholds worth trying for one gate: midway between neighbours, and infinities."""
    values = np.unique(confidence[~np.isnan(confidence)].astype("float32"))
    midway = (values[1:] + values[:-1]) / 2
    if len(midway) > CANDIDATES:
        midway = midway[np.linspace(0, len(midway) - 1, CANDIDATES).astype(int)]
    return np.concatenate([midway, np.array([-np.inf, np.inf], "float32")])


def _one_gate(
    table: ExitTable, goal: Goal, thresholds: np.ndarray, gate: int, tried: np.ndarray
) -> list[tuple[bool, float, float]]:
    """The goal's key for each threshold that is tried at one gate, the others kept.

    Samples in the order of their confidence: what changes if they leave here adds up.
    """
    correct, rows = table.correct.astype(int), np.arange(len(table.labels))
    others = thresholds.copy()
    others[gate] = np.nan  # nobody leaves here
    exits = exits_of(table.confidence, others)
    confidence = table.confidence[:, gate]
    mine = np.flatnonzero((exits > gate) & ~np.isnan(confidence))
    mine = mine[np.argsort(confidence[mine])[::-1]]
    leaving = len(mine) - np.searchsorted(confidence[mine][::-1], tried)
    means = []
    for values in (correct, goal.cost):
        change = values[mine, gate] - values[mine, exits[mine]]
        added = np.concatenate([[0], np.cumsum(change)])[leaving]
        means.append((values[rows, exits].sum() + added) / len(rows))
    return [goal.key(*map(float, pair)) for pair in zip(*means, strict=True)]


def search_shared(table: ExitTable, goal: Goal) -> tuple[np.ndarray, bool]:
    """The same threshold for all gates that serves a goal best on a table.

    For confidences on one scale, as of exits that combine. With one number to choose
    there is little to fit to the table: what it promises holds better on other samples
    than what `search` finds (design of this library).

    Returns:
        float32 `[n]`, and whether they keep to the limit.
    """
    values = np.unique(table.confidence[~np.isnan(table.confidence)].astype("float32"))
    tried = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, [np.inf]])
    if len(tried) > SHARED:
        tried = tried[np.linspace(0, len(tried) - 1, SHARED).astype(int)]
    tried = tried.astype("float32")
    correct, n = table.correct, table.confidence.shape[1]
    rows = np.arange(len(correct))
    surest = np.maximum.accumulate(np.fmax(table.confidence, -np.inf), axis=1)
    keys = []
    for threshold in tried:
        exits = (surest < threshold).sum(axis=1)
        accuracy = float(correct[rows, exits].mean())
        keys.append(goal.key(accuracy, float(goal.cost[rows, exits].mean())))
    best = max(keys)
    return np.full(n, tried[keys.index(best)]), best[0]


def search(table: ExitTable, goal: Goal) -> tuple[np.ndarray, bool]:
    """Thresholds that serve a goal best on a table.

    Starts from the budgeted sweep and from everything leaving at one exit, then moves
    one threshold at a time, among values midway between its gate's confidences, until
    nothing gets better (design of this library).

    Returns:
        float32 `[n]`, and whether they keep to the limit.
    """
    correct, n = table.correct, table.confidence.shape[1]
    rows = np.arange(len(correct))

    def judge(thresholds: Sequence[float] | np.ndarray) -> tuple[bool, float, float]:
        exits = exits_of(table.confidence, thresholds)
        accuracy = float(correct[rows, exits].mean())
        return goal.key(accuracy, float(goal.cost[rows, exits].mean()))

    candidates = [_candidates(values) for values in table.confidence.T]
    starts = [*budgeted_sweep(table.confidence), np.full(n, np.inf, "float32")]
    for gate in range(n):
        one = np.full(n, np.inf, "float32")
        one[gate] = -np.inf
        starts.append(one)
    ranked = sorted(starts, key=judge, reverse=True)
    best, found = judge(ranked[0]), ranked[0]
    for start in ranked[:STARTS]:
        current, value = start.copy(), judge(start)
        improved = True
        while improved:
            improved = False
            for gate in range(n):
                keys = _one_gate(table, goal, current, gate, candidates[gate])
                trial = current.copy()
                trial[gate] = candidates[gate][keys.index(max(keys))]
                # Sums in another order differ in their last digits.
                if (score := judge(trial)) > value:
                    current, value, improved = trial, score, True
        if value > best:
            best, found = value, current
    return found, best[0]
