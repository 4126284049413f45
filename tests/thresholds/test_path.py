import dataclasses
import itertools

import numpy as np
import pytest
from scipy import optimize

from keras_dyngate.thresholds.path import _line, _log_odds, exit_path
from keras_dyngate.thresholds.table import exits_of
from tests.exit_tables import random_table


def test_a_line_is_the_logistic_regression():
    rng = np.random.default_rng(0)
    x = _log_odds(200)
    right = (rng.random(200) < 1 / (1 + np.exp(-0.5 - 2 * x))).astype("float64")

    def objective(line):
        z = line[0] + line[1] * x
        penalty = 0.05 * line[0] ** 2 + 0.5 * (line[1] - 1) ** 2
        return np.logaddexp(0, z).sum() - right @ z + penalty

    expected = optimize.minimize(objective, [0.0, 1.0], tol=1e-10).x
    np.testing.assert_allclose(_line(x, right), expected, atol=1e-4)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_line_where_all_answers_are_alike(right):
    line = _line(_log_odds(60), np.full(60, right))
    assert np.isfinite(line).all() and (line[0] > 0) == bool(right)


def leaving(table, path):
    exits = [exits_of(table.confidence, thresholds) for thresholds in path]
    return np.array([(each < table.confidence.shape[1]).mean() for each in exits])


def test_from_strict_to_loose():
    table = random_table(0, samples=200, gates=3)
    path = exit_path(table)
    assert all(t.dtype == "float32" and t.shape == (3,) for t in path)
    assert all((late <= early).all() for early, late in itertools.pairwise(path))
    shares = leaving(table, path)
    assert shares[0] < 0.1 and shares[-1] > 0.95 and (np.diff(shares) >= 0).all()


def test_confidences_of_any_kind():
    """Only their order counts: which samples leave stays the same."""
    table = random_table(1, samples=200)
    odd = np.stack([np.exp(3 * table.confidence[:, 0]), table.confidence[:, 1] / 50], 1)
    other = dataclasses.replace(table, confidence=odd.astype("float32"))
    found = np.abs(leaving(table, exit_path(table)) - leaving(other, exit_path(other)))
    assert found.max() < 0.02


def test_an_exit_that_is_wrong_more_often_is_stricter():
    table = random_table(2, samples=400)
    same = np.tile(table.confidence[:, :1], 2)
    labels = table.labels.copy()
    labels[:, 1] = labels[:, 0]
    wrong = np.random.default_rng(0).random(400) < 0.3
    labels[wrong, 0] = (table.truth[wrong] + 1) % 3
    path = exit_path(dataclasses.replace(table, confidence=same, labels=labels))
    middle = path[len(path) // 2]
    assert middle[0] > middle[1]


def test_confidences_that_are_no_numbers():
    table = random_table(3, samples=100)
    confidence = table.confidence.copy()
    confidence[:30, 0], confidence[:, 1] = np.nan, np.nan
    path = np.array(exit_path(dataclasses.replace(table, confidence=confidence)))
    assert not np.isnan(path).any() and np.isposinf(path[:, 1]).all()
    assert np.isfinite(path[-1, 0])
