"""Exits that answer together, and how sure they are.

Exit k answers with `sum_j W[k, j] * scores[:, j]` over itself and the exits before it:
the softmax of that is the weighted geometric mean of their probabilities (Zero Time
Waste). Weights and temperatures are one thing here: with its own scores alone, exit k
has the temperature `1 / W[k, k]`.
"""

import numpy as np

RIDGE = 1.0  # samples' worth of it
STEPS = 100
LEAST = 1e-3  # of an exit's own weight: what is computed counts, if only a little
CLOSE = 1e-9  # gain of a step, in mean loss, at which fitting ends


def mix(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Combined scores `[N, n + 1, classes]` from raw ones and `fit_mixing`'s weights."""
    return np.einsum("kj,njc->nkc", weights, scores)


def fit_mixing(scores: np.ndarray, truth: np.ndarray, *, combine: bool) -> np.ndarray:
    """Weights of least mean negative log likelihood; the problem is convex.

    A weak ridge, worth few samples, holds them to what is simpler: an exit's own weight
    alone to 1, then with the earlier exits to what it had alone, and theirs to 0.

    Args:
        scores: Raw scores (logits) `[N, n + 1, classes]` of all exits, the head last.
        truth: Class indices `[N]`; of one output, a logit, 0 or 1.
        combine: Whether earlier exits join in; else only temperatures are fitted.

    Returns:
        float64 `[n + 1, n + 1]`, lower triangular, 0 or more; an exit's own weight is
        above 0.

    Raises:
        ValueError: For scores that are not finite or labels that do not fit them.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017 (temperatures).
        Wolczyk et al., "Zero Time Waste", 2021 (exits that answer together).
    """
    scores, truth = np.asarray(scores, "float64"), np.asarray(truth)
    if scores.ndim != 3 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(
            "`scores` must be finite numbers [N, exits, classes] of one sample or more. "
            f"Received: scores of shape {scores.shape}"
        )
    classes = max(scores.shape[2], 2)
    if (
        truth.shape != scores.shape[:1]
        or truth.dtype.kind not in "iub"
        or not ((truth >= 0) & (truth < classes)).all()
    ):
        raise ValueError(
            f"`truth` must be {len(scores)} class indices below {classes}. Received: "
            f"truth of shape {truth.shape} and type {truth.dtype}"
        )
    if scores.shape[2] == 1:  # a logit z stands for the scores 0 and z
        scores = np.concatenate([np.zeros_like(scores), scores], axis=2)
    truth, exits = truth.astype(int), scores.shape[1]
    scores = scores - scores.mean(axis=2, keepdims=True)
    size = np.sqrt((scores**2).mean(axis=(0, 2)))  # as if all exits' scores were 1 wide
    size[size == 0] = 1.0
    scores = np.moveaxis(scores / size[:, None], 1, 2)  # [N, classes, exits]
    found = np.zeros((exits, exits))
    for k in range(exits):
        own = _least_loss(scores[:, :, [k]], truth, size[[k]])
        found[k, k] = own[0]
        if combine and k:
            found[k, : k + 1] = _least_loss(
                scores[:, :, : k + 1], truth, found[k, : k + 1]
            )
        found[k, k] = max(found[k, k], LEAST * own[0], LEAST)
    return found / size


def _least_loss(
    scores: np.ndarray, truth: np.ndarray, anchor: np.ndarray
) -> np.ndarray:
    """Weights `[j]` of `scores [N, classes, j]`, 0 or more: projected Newton steps."""
    n = len(scores)
    right = scores[np.arange(n), truth]
    ridge = RIDGE / n

    def loss(w: np.ndarray) -> float:
        z = scores @ w
        top = z.max(axis=1)
        log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
        away = w - anchor
        return float((log_sum - right @ w).mean() + ridge / 2 * away @ away)

    w = anchor.copy()
    value = loss(w)
    for _ in range(STEPS):
        z = scores @ w
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        expected = np.einsum("nc,ncj->nj", p, scores)
        slope = (expected - right).mean(axis=0) + ridge * (w - anchor)
        # weights at 0 that would fall are held there (Bertsekas' projected Newton)
        free = (w > 0) | (slope < 0)
        if not free.any():
            break
        weighted = (p[:, :, None] * scores).reshape(-1, len(w))
        curve = weighted.T @ scores.reshape(-1, len(w)) - expected.T @ expected
        curve = curve / n + ridge * np.eye(len(w))
        step = np.zeros(len(w))
        step[free] = np.linalg.solve(curve[np.ix_(free, free)], -slope[free])
        rate, trial = 1.0, np.maximum(w + step, 0)
        while loss(trial) > value + 1e-4 * slope @ (trial - w) and rate > 1e-9:
            rate /= 2
            trial = np.maximum(w + rate * step, 0)
        gain = value - loss(trial)
        if gain <= CLOSE:
            break
        w, value = trial, value - gain
    return w
