import dataclasses
import itertools

import numpy as np
import pytest

from keras_dyngate.thresholds.search import Goal, search, search_shared
from keras_dyngate.thresholds.table import ExitTable, budgeted_sweep, outcome
from tests.exit_tables import by_loops, random_table

INF = np.inf


def exhaustive(table):
    """(accuracy, mean cost) of every outcome that any thresholds can have."""
    rows, gates = np.arange(len(table.labels)), table.confidence.shape[1]
    leaves = [
        [column >= value for value in (*np.unique(column), INF)]
        for column in table.confidence.T
    ]
    right = table.labels == table.truth[:, None]
    found = []
    for combination in itertools.product(*leaves):
        exits = np.full(len(rows), gates)
        for gate in reversed(range(gates)):
            exits[combination[gate]] = gate
        found.append((right[rows, exits].mean(), table.macs[rows, exits].mean()))
    return np.array(found)


def swept(table):
    """The same of the budgeted sweep, and of everything leaving at one exit."""
    alone = [(-INF, INF), (INF, -INF), (INF, INF)]
    points = [outcome(table, t) for t in (*budgeted_sweep(table.confidence), *alone)]
    return np.array([(point.accuracy, point.macs) for point in points])


def budgets(table):
    low, high = table.macs.mean(axis=0)[[0, -1]]
    return [low + part * (high - low) for part in (0.05, 0.3, 0.5, 0.8, 1.0)]


def best_accuracy(points, budget):
    return points[points[:, 1] <= budget, 0].max(initial=-INF)


def best_cost(points, accuracy):
    return points[points[:, 0] >= accuracy - 1e-9, 1].min(initial=INF)


def found(table, goal):
    """Accuracy and cost of what `search` chose, which keeps to the limit."""
    thresholds, kept = search(table, goal)
    assert kept and thresholds.dtype == "float32"
    _, macs, correct = by_loops(table, thresholds)
    if goal.budget is not None:
        assert macs.mean() <= goal.budget
    if goal.accuracy is not None:
        assert correct.mean() >= goal.accuracy - 1e-9
    return correct.mean(), macs.mean()


class TestOneGate:
    """All thresholds are tried: nothing is better."""

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("values", [None, 5])
    def test_accuracy(self, seed, values):
        table = random_table(seed, samples=60, gates=1, values=values)
        every = exhaustive(table)
        for budget in budgets(table):
            accuracy, _ = found(table, Goal(table.macs, budget=budget))
            assert accuracy == best_accuracy(every, budget)

    @pytest.mark.parametrize("seed", range(6))
    def test_cost(self, seed):
        table = random_table(seed, samples=60, gates=1)
        every = exhaustive(table)
        for accuracy in np.quantile(every[:, 0], [0.0, 0.4, 0.9, 1.0]):
            _, cost = found(table, Goal(table.macs, accuracy=accuracy))
            assert cost == best_cost(every, accuracy)


@pytest.mark.parametrize("seed", range(6))
class TestTwoGates:
    """Never worse than the sweep, and near the best that there is."""

    def test_accuracy(self, seed):
        table = random_table(seed, samples=60)
        every, sweep = exhaustive(table), swept(table)
        for budget in budgets(table):
            accuracy, _ = found(table, Goal(table.macs, budget=budget))
            assert accuracy >= best_accuracy(sweep, budget)
            assert accuracy >= best_accuracy(every, budget) - 1 / 60 - 1e-9

    def test_cost(self, seed):
        table = random_table(seed, samples=60)
        every, sweep = exhaustive(table), swept(table)
        for accuracy in np.quantile(every[:, 0], [0.2, 0.5, 0.8, 1.0]):
            _, cost = found(table, Goal(table.macs, accuracy=accuracy))
            assert cost <= best_cost(sweep, accuracy)
            assert cost <= 1.05 * best_cost(every, accuracy)


@pytest.mark.parametrize("gates", [2, 3])
def test_more_samples_than_candidates(gates):
    table = random_table(0, samples=2000, gates=gates)
    sweep = [outcome(table, t) for t in budgeted_sweep(table.confidence)]
    points = np.array([(point.accuracy, point.macs) for point in sweep])
    for budget in budgets(table)[1:]:
        accuracy, _ = found(table, Goal(table.macs, budget=budget))
        assert accuracy >= best_accuracy(points, budget)
    accuracy = table.correct[:, -1].mean() - 0.02
    _, cost = found(table, Goal(table.macs, accuracy=accuracy))
    assert cost <= best_cost(points, accuracy)
    assert cost < 0.9 * table.macs[:, -1].mean()


def test_milliseconds_instead_of_macs():
    """Where the second gate takes longer than the head, nobody leaves there."""
    table = random_table(3, samples=60)
    cost = np.tile([1.0, 9.0, 3.0], (60, 1))
    thresholds, kept = search(table, Goal(cost, budget=2.0))
    exits, _, correct = by_loops(table, thresholds)
    assert kept and cost[0][exits].mean() <= 2.0
    slow = dataclasses.replace(table, macs=cost)
    assert correct.mean() >= best_accuracy(exhaustive(slow), 2.0) - 1 / 60 - 1e-9


class TestOutOfReach:
    def test_budget(self):
        """Below the cost of the first exit: as near to it as can be."""
        table = random_table(0)
        least = table.macs[:, 0].mean()
        thresholds, kept = search(table, Goal(table.macs, budget=least - 1e-3))
        assert not kept and not by_loops(table, thresholds)[0].any()
        thresholds, kept = search(table, Goal(table.macs, budget=least))
        assert kept and not by_loops(table, thresholds)[0].any()

    def test_accuracy(self):
        table = random_table(0, samples=60, gates=1)
        every = exhaustive(table)
        thresholds, kept = search(table, Goal(table.macs, accuracy=1.0))
        assert not kept and every[:, 0].max() < 1
        assert by_loops(table, thresholds)[2].mean() == every[:, 0].max()


def test_confidences_that_are_no_numbers():
    """Such samples stay, and do not keep the others from leaving."""
    table = random_table(0, samples=60, gates=1)
    every = exhaustive(table)
    gap = np.full((20, 1), np.nan, "float32")
    more = dataclasses.replace(
        table,
        confidence=np.concatenate([table.confidence, gap]),
        labels=np.concatenate([table.labels, np.zeros((20, 2), int)]),
        macs=np.concatenate([table.macs, table.macs[:20]]),
        truth=np.append(table.truth, np.zeros(20, int)),
    )
    for budget in budgets(table):
        thresholds, kept = search(
            more, Goal(more.macs, budget=(60 * budget + more.macs[60:, 1].sum()) / 80)
        )
        exits, _, correct = by_loops(more, thresholds)
        assert kept and not np.isnan(thresholds).any() and (exits[60:] == 1).all()
        assert correct[:60].mean() == best_accuracy(every, budget)


def test_a_goal_ranks_what_keeps_to_it_first():
    cost = np.zeros((1, 2))
    budget, accuracy = Goal(cost, budget=5.0), Goal(cost, accuracy=0.8)
    for goal, ranked in (
        (budget, [(0.9, 4.0), (0.9, 5.0), (0.2, 1.0), (0.99, 5.1), (1.0, 9.0)]),
        (accuracy, [(0.8, 4.0), (0.9, 5.0), (0.8, 5.0), (0.79, 1.0), (0.5, 0.1)]),
    ):
        assert sorted(ranked, key=lambda p: goal.key(*p), reverse=True) == ranked


@pytest.mark.parametrize("seed", range(4))
def test_one_threshold_for_all_gates(seed):
    """Beside a loop over every value that confidences have."""
    table = random_table(seed)
    gates = table.confidence.shape[1]
    values = [*np.unique(table.confidence), INF]
    points = []
    for value in values:
        _, macs, correct = by_loops(table, np.full(gates, value, "float32"))
        points.append((correct.mean(), macs.mean()))
    points = np.array(points)
    for budget in budgets(table):
        thresholds, kept = search_shared(table, Goal(table.macs, budget=budget))
        reachable = points[:, 1].min() <= budget
        assert kept == reachable and len(set(thresholds)) == 1
        _, macs, correct = by_loops(table, thresholds)
        if kept:
            assert correct.mean() == best_accuracy(points, budget)
    for accuracy in np.quantile(points[:, 0], [0.2, 0.8]):
        thresholds, kept = search_shared(table, Goal(table.macs, accuracy=accuracy))
        _, macs, correct = by_loops(table, thresholds)
        assert kept and macs.mean() == best_cost(points, accuracy)


def test_a_shared_threshold_of_many_samples():
    """More values than are tried: near the best of all."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=(3000, 2)).astype("float32")
    labels = np.zeros((3000, 3), int)
    labels[:, 0] = rng.uniform(size=3000) > confidence[:, 0]
    macs = np.broadcast_to([1, 2, 3], (3000, 3))
    table = ExitTable(confidence, labels, macs, np.zeros(3000, int))
    thresholds, kept = search_shared(table, Goal(macs, accuracy=0.95))
    assert kept and thresholds.dtype == "float32" and thresholds[0] == thresholds[1]
    every = np.unique(confidence)[::50]
    found = [outcome(table, [t, t]) for t in every]
    best = min(o.macs for o in found if o.accuracy >= 0.95)
    assert outcome(table, thresholds).macs <= best * 1.01


def test_no_number_never_leaves_by_a_shared_threshold():
    confidence = np.array([[np.nan, np.nan], [0.5, np.nan], [np.nan, 0.2]], "float32")
    macs = np.broadcast_to([1, 2, 3], (3, 3))
    table = ExitTable(confidence, np.zeros((3, 3), int), macs, np.zeros(3, int))
    thresholds, kept = search_shared(table, Goal(macs, accuracy=1.0))
    assert kept and outcome(table, thresholds).shares == (1 / 3, 1 / 3, 1 / 3)
    nothing = ExitTable(confidence[:1], table.labels[:1], macs[:1], table.truth[:1])
    thresholds, kept = search_shared(nothing, Goal(macs[:1], budget=2.0))
    assert not kept and outcome(nothing, thresholds).shares == (0, 0, 1)
