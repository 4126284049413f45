import itertools

import numpy as np
import pytest

from keras_dyngate.calibration.exit_search import Goal, search
from keras_dyngate.calibration.exit_table import (
    ExitTable,
    budgeted_sweep,
    outcome,
)
from tests.calibration.test_exit_table import by_loops, random_table

INF = np.inf


def exhaustive(table):
    """(accuracy, mean cost) of every outcome that any thresholds can have."""
    columns = [np.append(np.unique(c), INF) for c in table.confidence.T]
    found = []
    for thresholds in itertools.product(*columns):
        _, macs, correct = by_loops(table, thresholds)
        found.append((correct.mean(), macs.mean()))
    return np.array(found)


def swept(table):
    points = [outcome(table, t) for t in budgeted_sweep(table.confidence)]
    return np.array([(point.accuracy, point.macs) for point in points])


def budgets(table):
    low, high = table.macs.mean(axis=0)[[0, -1]]
    return [low + part * (high - low) for part in (0.05, 0.3, 0.5, 0.8, 1.0)]


def best_accuracy(points, budget):
    return points[points[:, 1] <= budget, 0].max(initial=-INF)


def best_cost(points, accuracy):
    return points[points[:, 0] >= accuracy - 1e-9, 1].min(initial=INF)


class TestOneGate:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("values", [None, 5])
    def test_best_accuracy_of_all(self, seed, values):
        table = random_table(seed, samples=60, gates=1, values=values)
        every = exhaustive(table)
        for budget in budgets(table):
            thresholds, kept = search(table, Goal(table.macs, budget=budget))
            _, macs, correct = by_loops(table, thresholds)
            assert kept and macs.mean() <= budget
            assert correct.mean() == best_accuracy(every, budget)

    @pytest.mark.parametrize("seed", range(6))
    def test_least_cost_of_all(self, seed):
        table = random_table(seed, samples=60, gates=1)
        every = exhaustive(table)
        for accuracy in np.quantile(every[:, 0], [0.0, 0.4, 0.9, 1.0]):
            thresholds, kept = search(table, Goal(table.macs, accuracy=accuracy))
            _, macs, correct = by_loops(table, thresholds)
            assert kept and correct.mean() >= accuracy - 1e-9
            assert macs.mean() == best_cost(every, accuracy)


@pytest.mark.parametrize("seed", range(6))
class TestTwoGates:
    def test_accuracy(self, seed):
        table = random_table(seed, samples=25)
        every, sweep = exhaustive(table), swept(table)
        for budget in budgets(table):
            thresholds, kept = search(table, Goal(table.macs, budget=budget))
            _, macs, correct = by_loops(table, thresholds)
            assert kept and macs.mean() <= budget
            assert correct.mean() >= best_accuracy(sweep, budget)
            print("acc", correct.mean() - best_accuracy(every, budget))
            assert correct.mean() >= best_accuracy(every, budget) - 1.5 / 25

    def test_cost(self, seed):
        table = random_table(seed, samples=25)
        every, sweep = exhaustive(table), swept(table)
        for accuracy in np.quantile(every[:, 0], [0.2, 0.6, 0.9, 1.0]):
            thresholds, kept = search(table, Goal(table.macs, accuracy=accuracy))
            _, macs, correct = by_loops(table, thresholds)
            assert kept and correct.mean() >= accuracy - 1e-9
            assert macs.mean() <= best_cost(sweep, accuracy)
            print("cost", macs.mean() / best_cost(every, accuracy))
            assert macs.mean() <= 1.05 * best_cost(every, accuracy)
