"""Losses that are promised: thresholds tested on data that did not choose them.

Learn then test: a fifth of the samples makes a path of thresholds from strict to loose;
on the others each in turn is tested, until a first one fails. The chance that any that
passed loses more than promised is at most 1 - confidence, whatever the net and however
few the samples, as long as they are drawn like those to come (and as long as what the
scores come from, the exits' weights and temperatures, was not fitted to the same ones).

A loss above 0 is tested from the strictest thresholds on. None at all, or a gain, is not
shown by thresholds that nobody leaves at: that begins where the path's samples gain most.

References:
    Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating Predictive
    Algorithms to Achieve Risk Control", arXiv:2110.01052, 2021.
"""

import dataclasses
import math
from statistics import NormalDist

import numpy as np

from keras_dyngate._checks import fraction
from keras_dyngate.thresholds.paired_loss import loss_p_value
from keras_dyngate.thresholds.path import exit_path
from keras_dyngate.thresholds.table import ExitTable, exits_of

NAMES = {"accuracy": "accuracy_drop", "agreement": "agreement"}
PATH = 5  # one sample in so many makes the path
NEAR = 0.9  # of the saving that the loosest thresholds within the loss have
SURE = 0.999  # highest confidence


@dataclasses.dataclass(frozen=True)
class Promise:
    """What is promised of thresholds on fresh data, and on what grounds.

    Attributes:
        kind: "accuracy", or "agreement" with the head's answers.
        drop: Accuracy (or agreement) that is lost at most.
        confidence: Probability, at least, that a calibration keeps its promise.
        tested: Samples that the thresholds were tested on.
        p_value: Of the hypothesis that more is lost; 0 where nobody leaves.
        needed: Samples to be tested for nine tenths of what could be saved if this
            data's losses were the true ones: an estimate; None if nothing could be.

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
        x = np.random.default_rng(0).uniform(0, 255, (400, 16, 16, 3))
        model = kd.add_decision_gates(net, after=["early"])
        outcome = model.calibrate(x, agreement=0.9, confidence=0.9)
        print(outcome.promise)  # what holds on fresh pictures, and on what grounds
        ```
    """

    kind: str
    drop: float
    confidence: float
    tested: int
    p_value: float
    needed: int | None

    def __str__(self) -> str:
        text = (
            f"{self.kind} lost {self.drop:.2%} at most with confidence "
            f"{self.confidence:g} ({self.tested} samples tested"
        )
        if self.needed is not None and self.needed > self.tested:
            text += f"; about {self.needed} would save more"
        return text + ")"


def path_rows(samples: int) -> np.ndarray:
    """Which of so many samples make the path, or anything else that is fitted."""
    order = np.random.default_rng(0).permutation(samples)
    return np.sort(order[samples - samples // PATH :])


def _least(kind: str, drop: float, confidence: float) -> int:
    """Samples without any loss that a drop above 0 takes to be promised."""
    better = 0 if kind == "accuracy" else None
    count = max(1, math.floor(math.log(1 - confidence) / math.log1p(-drop)))
    while loss_p_value(0, better, count, drop) > 1 - confidence:
        count += 1
    return count


def _lost(table: ExitTable, exits: np.ndarray) -> tuple[int, int]:
    """On how many samples the answer is worse, and better, than the head's."""
    right, head = table.correct[np.arange(len(exits)), exits], table.plain_correct
    return int((head & ~right).sum()), int((right & ~head).sum())


def _path(part: ExitTable, drop: float) -> list[np.ndarray]:
    """Thresholds to be tested, in their order."""
    path = exit_path(part)
    if drop > 0:
        return path
    losses = [np.subtract(*_lost(part, exits_of(part.confidence, t))) for t in path]
    return path[int(np.argmin(losses)) :]


def check_confidence(confidence: float) -> None:
    """Refuse what no promise can have."""
    if not 0 < fraction("confidence", confidence) <= SURE:
        raise ValueError(
            f"`confidence` must be above 0 and at most {SURE}. "
            f"Received: confidence={confidence!r}"
        )


def check_promise(
    samples: int, drop: float, confidence: float, kind: str = "accuracy"
) -> int:
    """How many samples have to be tested at least, or a `ValueError` for too few.

    Args:
        samples: That there are, those for the path included.
        drop, confidence, kind: As for `promised_thresholds`.
    """
    check_confidence(confidence)
    least = _least(kind, drop, confidence) if drop > 0 else 1
    total = least
    while total - total // PATH < least:
        total += 1
    if samples < total:
        raise ValueError(
            f"A loss of {kind} of {drop:g} at most can be promised with confidence "
            f"{confidence:g} from {total} samples on, {least} of them to be tested. "
            f"Received: {samples} samples, {samples - samples // PATH} to be tested"
        )
    return least


def promised_thresholds(
    table: ExitTable, cost: np.ndarray, *, kind: str, drop: float, confidence: float
) -> tuple[np.ndarray, Promise]:
    """The cheapest thresholds that pass, and what is promised of them.

    Args:
        table: With labels; for "agreement" these are the head's.
        cost: Of each sample at each exit, `[N, n + 1]`.
        kind: "accuracy" or "agreement".
        drop: From -1 to 1, exclusive; where it is 0 or more and nothing passes, nobody
            leaves, if the head is what losses are counted against.
        confidence: Above 0, at most 0.999.

    Raises:
        ValueError: For too few samples, or a gain (a negative drop) that is not shown.
    """
    samples, gates = table.confidence.shape
    tested = samples - samples // PATH
    least = check_promise(samples, drop, confidence, kind)
    mine = path_rows(samples)
    rest = np.setdiff1d(np.arange(samples), mine)
    path = _path(table.take(mine), drop)
    test, cost = table.take(rest), cost[rest]
    nobody = float(cost[:, -1].mean())
    chosen, p_value, cheapest = None, 1.0, math.inf
    if drop >= 0 and table.plain is None:
        chosen, p_value, cheapest = np.full(gates, np.inf, "float32"), 0.0, nobody
    passing, needed = True, []
    for thresholds in path:
        exits = exits_of(test.confidence, thresholds)
        worse, better = _lost(test, exits)
        mean = float(cost[np.arange(tested), exits].mean())
        needed.append((nobody - mean, worse, better))
        if passing:
            possible = better if kind == "accuracy" else None
            p = loss_p_value(worse, possible, tested, drop)
            passing = p <= 1 - confidence
            if passing and mean < cheapest:
                chosen, p_value, cheapest = thresholds, p, mean
    if chosen is None:
        name, wish = NAMES[kind], drop if kind == "accuracy" else 1 - drop
        raise ValueError(
            f"`{name}` cannot be promised on this data. Received: {name}={wish:g} with "
            f"confidence={confidence!r}, {tested} samples to be tested"
        )
    count = _needed(needed, tested, least, drop, confidence)
    return chosen, Promise(kind, drop, confidence, tested, p_value, count)


def _needed(
    points: list[tuple[float, int, int]],
    tested: int,
    least: int,
    drop: float,
    confidence: float,
) -> int | None:
    """See `Promise`; `points` are (saved, worse, better) along the path."""
    saved, worse, better = np.array(points).T
    loss = (worse - better) / tested
    variance = (worse + better) / tested - loss**2
    # by the normal bound; what comes after a point out of reach is not reached either
    z = max(NormalDist().inv_cdf(confidence), 0.0)
    room = np.maximum(drop - loss, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        counts = np.where(room > 0, variance * (z / room) ** 2, np.inf)
    counts = np.maximum.accumulate(np.maximum(counts, least))
    reached = np.isfinite(counts) & (saved > 0)
    if not reached.any():
        return None
    most = saved[reached].max()
    return math.ceil(counts[reached & (saved >= NEAR * most)].min())
