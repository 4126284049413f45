from fractions import Fraction

import numpy as np
import pytest

from keras_dyngate.thresholds.table import (
    ExitTable,
    budgeted_sweep,
    exits_of,
    outcome,
    thresholds_for_shares,
)
from tests.exit_tables import by_loops, random_table

INF = np.inf


class TestExits:
    @pytest.mark.parametrize("gates", [1, 2, 4])
    @pytest.mark.parametrize("values", [None, 6])
    def test_by_loops(self, gates, values):
        table = random_table(gates, gates=gates, values=values)
        rng = np.random.default_rng(0)
        for _ in range(20):
            rows = rng.integers(0, 101, gates)
            thresholds = table.confidence[rows, np.arange(gates)]
            expected = by_loops(table, thresholds)[0]
            found = exits_of(table.confidence, thresholds)
            np.testing.assert_array_equal(found, expected)
        everywhere = exits_of(table.confidence, np.quantile(table.confidence, 0.7, 0))
        assert len(np.unique(everywhere)) == gates + 1

    def test_equal_is_enough(self):
        confidence = np.array([[0.5, 1.0], [0.25, 1.0], [0.25, 0.5]], "float32")
        np.testing.assert_array_equal(exits_of(confidence, [0.5, 1.0]), [0, 1, 2])

    def test_thresholds_are_rounded_as_confidences_are(self):
        confidence = np.array([[0.1]], "float32")
        assert float(confidence[0, 0]) != 0.1
        np.testing.assert_array_equal(exits_of(confidence, [0.1]), [0])

    def test_what_is_no_number_never_leaves(self):
        confidence = np.array([[np.nan, 1.0], [np.nan, np.nan], [2.0, 1.0]], "float32")
        np.testing.assert_array_equal(exits_of(confidence, [-INF, -INF]), [1, 2, 0])
        np.testing.assert_array_equal(exits_of(confidence, [np.nan, 0.0]), [1, 2, 1])

    def test_infinity(self):
        confidence = random_table(0).confidence
        assert (exits_of(confidence, [INF, INF]) == 2).all()
        assert (exits_of(confidence, [-INF, INF]) == 0).all()
        assert (exits_of(confidence, [INF, -INF]) == 1).all()


class TestOutcome:
    @pytest.mark.parametrize("seed", range(3))
    def test_by_loops(self, seed):
        table = random_table(seed)
        exits, macs, correct = by_loops(table, [0.7, 0.3])
        found = outcome(table, [0.7, 0.3], path_ms=[1.0, 2.5, 4.0])
        shares = [int((exits == at).sum()) / 101 for at in range(3)]
        assert found.shares == pytest.approx(shares, abs=1e-12)
        assert found.macs == pytest.approx(sum(macs.tolist()) / 101)
        assert found.accuracy == pytest.approx(sum(correct.tolist()) / 101)
        times = {0: 1.0, 1: 2.5, 2: 4.0}
        assert found.ms == pytest.approx(sum(times[at] for at in exits.tolist()) / 101)
        head = by_loops(table, [INF, INF])
        assert found.head_accuracy == pytest.approx(head[2].mean())
        assert found.macs_share == pytest.approx(macs.sum() / head[1].sum())
        assert found.thresholds == (0.7, 0.3)

    @pytest.mark.parametrize("seed", range(5))
    def test_expected_macs_are_monotone_in_each_threshold(self, seed):
        """E[F], where a later exit costs more."""
        table = random_table(seed, gates=3)
        steps = np.linspace(-2, 3, 26)
        for gate in range(3):
            for others in ([0.5, 0.5], [0.0, 1.0], [INF, -INF], [-INF, INF]):
                cost = [
                    outcome(table, np.insert(others, gate, step)).macs for step in steps
                ]
                assert (np.diff(cost) >= 0).all()
                before_it = list(others)[:gate]
                assert (cost[-1] > cost[0]) == (-INF not in before_it)

    def test_sentence(self):
        labels, truth = np.array([[0, 1], [0, 0], [1, 1]]), np.array([0, 1, 1])
        macs = np.full((3, 2), [1_000_000, 4_000_000])
        confidence = np.array([[3.0], [1.0], [2.0]])
        table = ExitTable(confidence, labels, macs, truth)
        assert str(outcome(table, [2.0], [0.5, 2.0])) == (
            "exits 66.7% / 33.3%, 2.00 MMACs (0.500 of all), "
            "accuracy 66.67% (head 33.33%), 1.00 ms"
        )
        blind = ExitTable(confidence, labels, macs)
        found = outcome(blind, [INF])
        assert found.accuracy is None and found.head_accuracy is None
        assert str(found) == (
            "exits 0.0% / 100.0%, 4.00 MMACs (1.000 of all), time not given"
        )

    def test_accuracy_needs_labels(self):
        table = random_table(0)
        blind = ExitTable(table.confidence, table.labels, table.macs)
        with pytest.raises(ValueError, match="Accuracy needs labels. Received: images"):
            _ = blind.correct

    def test_take(self):
        table = random_table(0)
        rows = np.array([5, 0, 5, 99])
        part = table.take(rows)
        for name in ("confidence", "labels", "macs", "truth", "correct"):
            np.testing.assert_array_equal(
                getattr(part, name), getattr(table, name)[rows]
            )
        blind = ExitTable(table.confidence, table.labels, table.macs).take([0, 1, 3])
        assert blind.truth is None and blind.labels.shape == (3, 3)


def shares_by_loops(confidence, shares):
    """Thresholds one gate at a time, looking for each among the values there are."""
    waiting, found = list(range(len(confidence))), []
    for gate, share in enumerate(shares):
        wanted = min(round(share * len(confidence)), len(waiting))
        threshold, below = INF, None
        for value in sorted({float(confidence[row, gate]) for row in waiting}):
            count = sum(float(confidence[row, gate]) >= value for row in waiting)
            if wanted and count >= wanted:  # up to the highest that lets enough leave
                threshold = value if below is None else (value + below) / 2
            below = value
        found.append(threshold)
        waiting = [row for row in waiting if not confidence[row, gate] >= threshold]
    return found


class TestShares:
    @pytest.mark.parametrize("gates", [1, 2, 3])
    @pytest.mark.parametrize("values", [None, 4])
    def test_by_loops(self, gates, values):
        confidence = random_table(gates, gates=gates, values=values).confidence
        rng = np.random.default_rng(0)
        for _ in range(15):
            shares = rng.dirichlet(np.ones(gates + 1))[:-1]
            found = thresholds_for_shares(confidence, shares)
            assert found.dtype == "float32"
            np.testing.assert_allclose(
                found, shares_by_loops(confidence, shares), rtol=1e-5, atol=1e-7
            )

    @pytest.mark.parametrize("shares", [(0.25, 0.5), (0.0, 1.0), (1.0, 0.0), (0, 0.3)])
    def test_as_many_leave_as_wished(self, shares):
        confidence = random_table(1, samples=80).confidence
        exits = exits_of(confidence, thresholds_for_shares(confidence, shares))
        counts = np.bincount(exits, minlength=3) / 80
        np.testing.assert_array_equal(counts[:2], shares)

    def test_midway_between_who_leaves_and_who_stays(self):
        """Of those that get there: 7 and 5 have left before."""
        confidence = np.array([[9, 7], [8, 5], [1, 6], [1, 4], [1, 1]], "float32")
        found = thresholds_for_shares(confidence, [0.4, 0.4])
        np.testing.assert_array_equal(found, [4.5, 2.5])
        close = np.array(
            [[1.0], [np.nextafter(np.float32(1), np.float32(0))]], "float32"
        )
        assert (exits_of(close, thresholds_for_shares(close, [0.5])) == [0, 1]).all()

    def test_ties_leave_together(self):
        confidence = np.array([[2.0], [1.0], [1.0], [1.0], [0.0]], "float32")
        for share, leave in ((0.2, 1), (0.4, 4), (0.8, 4), (1.0, 5)):
            threshold = thresholds_for_shares(confidence, [share])
            assert (exits_of(confidence, threshold) == 0).sum() == leave
            assert threshold[0] == {1: 1.5, 4: 0.5, 5: 0.0}[leave]

    def test_none(self):
        confidence = random_table(0).confidence
        found = thresholds_for_shares(confidence, [0.0, 0.004])
        np.testing.assert_array_equal(found, [INF, INF])
        found = thresholds_for_shares(confidence, [1.0, 0.0])
        np.testing.assert_array_equal(found, [confidence[:, 0].min(), INF])

    def test_what_is_no_number_does_not_count(self):
        confidence = np.array([[np.nan], [3.0], [np.nan], [1.0]], "float32")
        for share, threshold in ((0.25, 2.0), (0.5, 1.0), (1.0, 1.0)):
            assert thresholds_for_shares(confidence, [share])[0] == threshold
        nothing = np.full((3, 1), np.nan, "float32")
        assert thresholds_for_shares(nothing, [0.5])[0] == INF


class TestSweep:
    @pytest.mark.parametrize("gates", [1, 2, 3])
    def test_39_points(self, gates):
        """q = 1/20 ... 39/20, p_k = q^k / sum_j q^j, in exact arithmetic.

        No wished share of 208 samples ends on a half.
        """
        confidence = random_table(gates, samples=208, gates=gates).confidence
        found = budgeted_sweep(confidence)
        assert len(found) == 39
        for i, thresholds in enumerate(found, 1):
            q = Fraction(i, 20)
            powers = [q**k for k in range(1, gates + 2)]
            shares = [power / sum(powers) for power in powers[:-1]]
            expected = shares_by_loops(confidence, shares)
            np.testing.assert_allclose(thresholds, expected, rtol=1e-5, atol=1e-7)

    def test_from_early_to_late(self):
        table = random_table(0, samples=500)
        points = [outcome(table, t) for t in budgeted_sweep(table.confidence)]
        costs = [point.macs for point in points]
        assert costs == sorted(costs)
        assert points[0].shares[0] > 0.94 and points[19].shares == pytest.approx(
            [1 / 3] * 3, abs=2e-3
        )
        assert points[-1].shares[2] > 0.5

    def test_other_numbers_of_points(self):
        confidence = random_table(0, gates=1).confidence
        (one,) = budgeted_sweep(confidence, points=1)  # q = 1
        np.testing.assert_allclose(one, shares_by_loops(confidence, [0.5]), rtol=1e-5)
        third = budgeted_sweep(confidence, points=3)[2]  # q = 3/2, shares 2/5, 3/5
        np.testing.assert_allclose(third, shares_by_loops(confidence, [0.4]), rtol=1e-5)
