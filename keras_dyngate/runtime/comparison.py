"""Several files timed against each other, in one run and interleaved.

A machine's speed drifts by more than the differences of interest. So every round times
each candidate once, in turn, and ratios are taken between medians of the same rounds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dyngate._checks import positive_int
from keras_dyngate.runtime.litert_model import LiteRTModel

Candidate = tuple[LiteRTModel, str, Sequence[Mapping[str, Any]]]


def compare_latency(
    candidates: Mapping[str, Candidate], *, rounds: int = 20, warmup: int = 2
) -> dict[str, np.ndarray]:
    """Time candidates in turn.

    Args:
        candidates: (model, signature, inputs) by name; the inputs are gone through
            round by round, so that in each round all see the same image if their lists
            agree.
        rounds: Timed calls per candidate. Default 20.
        warmup: Untimed rounds before. Default 2.

    Returns:
        Milliseconds by name, `[rounds]`.
    """
    positive_int("rounds", rounds)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-warmup, rounds):
        for name, (model, signature, inputs) in candidates.items():
            feed = inputs[turn % len(inputs)]
            taken = model.benchmark(signature, feed, repeats=1, warmup=0).median_ms
            if turn >= 0:
                times[name].append(taken)
    return {name: np.array(values) for name, values in times.items()}
