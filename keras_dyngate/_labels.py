"""Class indices from the raw scores of a net.

A net with one output tells two classes: its raw score (a logit) is above 0 for class 1,
which is where its probability is above .5. Any other net means its largest score.
"""

from typing import Any

import numpy as np


def label_of(logits: Any) -> np.ndarray:
    """Class indices int `[...]` from raw scores `[..., classes]`."""
    scores = np.asarray(logits)
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0).astype(np.int64)
    return np.argmax(scores, axis=-1)
