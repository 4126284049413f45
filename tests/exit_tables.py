"""Tables of early exits, and what thresholds make of them sample by sample."""

import numpy as np

from keras_dyngate.thresholds.table import ExitTable


def random_table(seed, samples=101, gates=2, classes=3, values=None):
    """A table whose gates are surer where they are right; costs grow from exit to exit.

    With `values`, confidences take only so many of them: there are ties.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, samples)
    right = rng.random((samples, gates + 1)) < np.linspace(0.5, 0.9, gates + 1)
    wrong = (truth[:, None] + rng.integers(1, classes, right.shape)) % classes
    confidence = (right[:, :-1] + rng.normal(0, 0.7, (samples, gates))).astype(
        "float32"
    )
    if values:
        confidence = np.floor(confidence * values / 3).astype("float32")
    macs = rng.integers(50, 150, (samples, gates + 1)).cumsum(axis=1)
    return ExitTable(confidence, np.where(right, truth[:, None], wrong), macs, truth)


def by_loops(table, thresholds):
    """Exits, MACs and right answers, one sample at a time."""
    exits, macs, correct = [], [], []
    for row in range(len(table.labels)):
        at = 0
        while at < len(thresholds) and not table.confidence[row, at] >= thresholds[at]:
            at += 1
        exits.append(at)
        macs.append(int(table.macs[row, at]))
        correct.append(bool(table.labels[row, at] == table.truth[row]))
    return np.array(exits), np.array(macs), np.array(correct)
