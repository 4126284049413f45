import dataclasses

import numpy as np
import pytest

from keras_dyngate.thresholds.table import ExitTable, outcome
from keras_dyngate.thresholds.wish import Wish, sweep
from tests.exit_tables import by_loops, random_table

INF = np.inf


def with_head(table, share, seed=0):
    """The table whose head is right on a share of the samples."""
    rng = np.random.default_rng(seed)
    labels = table.labels.copy()
    right = rng.random(len(labels)) < share
    labels[:, -1] = np.where(right, table.truth, (table.truth + 1) % 3)
    return dataclasses.replace(table, labels=labels)


class TestChoose:
    """What the search finds is tested in test_exit_search.py."""

    @pytest.mark.parametrize("drop", [0.0, 0.02, 0.1, 1])
    def test_accuracy_drop(self, drop):
        table = random_table(0, samples=300)
        found = Wish(2, accuracy_drop=drop).choose(table)
        _, macs, correct = by_loops(table, found.thresholds)
        assert found.accuracy == correct.mean() >= found.head_accuracy - drop - 1e-9
        assert found.macs == macs.mean() and found.macs_share < 0.95
        assert found.promise is None

    def test_accuracy_above_the_heads(self):
        table = with_head(random_table(0, samples=300), 0.5)
        found = Wish(2, accuracy_drop=-0.1).choose(table)
        assert found.accuracy >= found.head_accuracy + 0.1 - 1e-9
        with pytest.raises(ValueError, match="Received: accuracy_drop=-0.9; the clos"):
            Wish(2, accuracy_drop=-0.9).choose(table)

    @pytest.mark.parametrize("agreement", [0.9, 0.99, 1.0])
    @pytest.mark.parametrize("known", [True, False])
    def test_agreement_needs_no_labels(self, agreement, known):
        table = random_table(0, samples=300)
        truth = table.truth if known else None
        found = Wish(2, agreement=agreement).choose(
            dataclasses.replace(table, truth=truth)
        )
        exits, macs, correct = by_loops(table, found.thresholds)
        said = table.labels[np.arange(300), exits]
        assert (said == table.labels[:, 2]).mean() >= agreement - 1e-9
        assert found.macs == macs.mean() < table.macs[:, 2].mean()
        assert found.accuracy == (correct.mean() if known else None)

    def test_time_instead_of_macs(self):
        """The second exit is dear in time alone: it is used less where time counts."""
        table = random_table(0, samples=300)
        timed = Wish(2, accuracy_drop=0.05, path_ms=[1.0, 9.0, 4.0]).choose(table)
        plain = Wish(2, accuracy_drop=0.05).choose(table)
        assert timed.shares[1] < plain.shares[1]
        assert timed.ms < outcome(table, plain.thresholds, [1.0, 9.0, 4.0]).ms
        assert timed.ms == pytest.approx(np.dot(timed.shares, [1.0, 9.0, 4.0]))

    def test_macs(self):
        table = random_table(0)
        budget = 0.7 * table.macs[:, 2].mean()
        assert Wish(2, macs=budget).choose(table).macs <= budget
        timed = Wish(2, macs=budget, path_ms=[1.0, 2.0, 3.0]).choose(table)
        assert timed.macs <= budget and timed.ms is not None

    def test_latency(self):
        table = random_table(0)
        found = Wish(2, ms=2.0, path_ms=[1.0, 2.0, 3.0]).choose(table)
        assert found.ms <= 2.0

    def test_exit_shares(self):
        table = random_table(0, samples=100)
        found = Wish(2, exit_shares=[0.3, 0.5]).choose(table)
        assert found.shares == pytest.approx((0.3, 0.5, 0.2))


class TestOneThreshold:
    def test_is_the_best_of_all_there_are(self):
        table = random_table(0, samples=120)
        found = Wish(2, accuracy_drop=0.05, shared=True).choose(table)
        assert len(set(found.thresholds)) == 1
        costs = []
        for threshold in [*np.unique(table.confidence), INF]:
            _, macs, correct = by_loops(table, [threshold, threshold])
            if correct.mean() >= found.head_accuracy - 0.05 - 1e-9:
                costs.append(macs.mean())
        assert found.macs == pytest.approx(min(costs))

    def test_by_default_where_confidences_are_alike(self):
        table = random_table(0, samples=300)
        each = Wish(2, accuracy_drop=0.05).choose(table)
        one = Wish(2, accuracy_drop=0.05, shared=True).choose(table)
        assert each.macs < one.macs
        for shared, alike, expected in (
            (None, True, one),
            (None, False, each),
            (False, True, each),
        ):
            wish = Wish(2, accuracy_drop=0.05, shared=shared, alike=alike)
            assert wish.choose(table) == expected
        shares = Wish(2, exit_shares=[0.3, 0.5], shared=None, alike=True).choose(table)
        assert shares.shares == pytest.approx((0.3, 0.5, 0.2))

    def test_a_wish_that_only_two_keep_to(self):
        """The second exit, right where the first is not, is never as sure as that."""
        sure = np.linspace(0.1, 0.8, 8)
        easy = sure < 0.5
        table = ExitTable(
            confidence=np.stack([1 - sure, sure - 1], axis=1).astype("float32"),
            labels=np.stack([~easy, easy, np.ones(8)], axis=1).astype(int),
            macs=np.tile([1, 2, 3], (8, 1)),
            truth=np.zeros(8, int),
        )
        wish = {"accuracy_drop": -0.8, "alike": True}
        found = Wish(2, **wish, shared=None).choose(table)
        assert found.accuracy >= 0.8 and found.head_accuracy == 0.0
        with pytest.raises(ValueError, match="`accuracy_drop` cannot be kept to"):
            Wish(2, **wish, shared=True).choose(table)

    @pytest.mark.parametrize(
        "wish",
        [{"exit_shares": [0.1, 0.2]}, {"accuracy_drop": 0.1, "confidence": 0.9}],
    )
    def test_where_each_needs_its_own(self, wish):
        with pytest.raises(ValueError, match="`shared` must be False or None with"):
            Wish(2, **wish, shared=True)
        with pytest.raises(
            ValueError, match="`shared` must be .*Received: shared='no'"
        ):
            Wish(2, macs=1.0, shared="no")


class TestPromised:
    def test_accuracy(self):
        table = random_table(0, samples=800)
        found = Wish(2, accuracy_drop=0.05, confidence=0.9).choose(table)
        promise = found.promise
        assert promise.kind == "accuracy" and promise.drop == 0.05
        assert promise.confidence == 0.9 and promise.tested == 640
        assert 0 < promise.p_value <= 0.1
        plain = outcome(table, found.thresholds)
        assert dataclasses.replace(found, promise=None) == plain
        assert str(found) == f"{plain}, promised: {promise}"
        assert "accuracy lost 5.00% at most with confidence 0.9 (640 s" in str(found)

    def test_agreement_needs_no_labels(self):
        table = random_table(0, samples=800)
        blind = dataclasses.replace(table, truth=None)
        found = Wish(2, agreement=0.7, confidence=0.9).choose(blind)
        assert found.promise.kind == "agreement" and found.accuracy is None
        assert found.promise.drop == pytest.approx(0.3)
        same = Wish(2, agreement=0.7, confidence=0.9).choose(table)
        assert same.thresholds == found.thresholds and same.promise == found.promise
        assert found.macs_share < 0.99

    def test_time_instead_of_macs(self):
        table = random_table(0, samples=800)
        wish = Wish(2, accuracy_drop=0.1, confidence=0.9, path_ms=[5.0, 6.0, 3.0])
        found = wish.choose(table)
        assert found.thresholds == (INF, INF) and found.ms == 3.0

    def test_accuracy_needs_labels(self):
        table = dataclasses.replace(random_table(0, samples=800), truth=None)
        for confidence in (None, 0.9):
            with pytest.raises(ValueError, match="Accuracy needs labels"):
                Wish(2, accuracy_drop=0.1, confidence=confidence).choose(table)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({}, "Give one of .*Received: none"),
        ({"macs": 1e6, "agreement": 0.9}, r"Received: \['macs', 'agreement'"),
        ({"exit_shares": [0.5]}, "`exit_shares` must be 2 shares, one per gate"),
        ({"exit_shares": [0.5, 0.6]}, "of sum 1 at most. Received: exit_shares=.0.5"),
        ({"exit_shares": [-0.1, 0.6]}, "`exit_shares` must be 2 shares"),
        ({"exit_shares": "half"}, "`exit_shares` must be 2 shares"),
        ({"macs": "1M"}, "`macs` must be a number above 0. Received: macs='1M'"),
        ({"macs": -1.0}, "`macs` must be a number above 0"),
        ({"ms": "8", "path_ms": [1, 2, 3]}, "`ms` must be a number above 0"),
        ({"accuracy_drop": 1.5}, "`accuracy_drop` must be a number from -1 to 1"),
        ({"accuracy_drop": -1.5}, "`accuracy_drop` must be a number from -1 to 1"),
        ({"accuracy_drop": np.nan}, "`accuracy_drop` must be a number from -1 to 1"),
        ({"agreement": 99}, "`agreement` must be a number from 0 to 1"),
        ({"macs": 1.0, "confidence": 0.9}, "`confidence` goes with .*=0.9 with macs"),
        (
            {"accuracy_drop": 0.1, "confidence": 90},
            "`confidence` must be a number from 0",
        ),
        ({"accuracy_drop": 0.1, "confidence": 1}, "must be above 0 and at most 0.999"),
        (
            {"accuracy_drop": 0.1, "confidence": 0.0},
            "must be above 0 and at most 0.999",
        ),
        (
            {"accuracy_drop": 1, "confidence": 0.9},
            "`accuracy_drop` must be above -1 and",
        ),
        (
            {"agreement": 1.0, "confidence": 0.9},
            "`agreement` must be above 0 and below 1",
        ),
        ({"ms": 3.0}, "`path_ms` must be 3 measured times, one per exit"),
        ({"macs": 3.0, "path_ms": [1.0, 2.0]}, "`path_ms` must be 3 measured"),
        ({"ms": 3.0, "path_ms": [1.0, 0.0, 2.0]}, "`path_ms` must be 3 measured"),
    ],
)
def test_refused(wishes, message):
    with pytest.raises(ValueError, match=message):
        Wish(2, **wishes)


def test_out_of_reach():
    table = random_table(0)
    with pytest.raises(
        ValueError, match="`macs` cannot be .*macs=1; the closest found"
    ):
        Wish(2, macs=1).choose(table)


def test_a_sweep_is_chosen_on_one_table_and_applied_to_another():
    first, second = random_table(0), random_table(1)
    found = sweep(first, second, points=7, path_ms=[1.0, 2.0, 3.0])
    assert len(found) == 7
    blind = dataclasses.replace(first, truth=None)
    again = sweep(blind, second, points=7, path_ms=None)
    assert [point.thresholds for point in again] == [p.thresholds for p in found]
    for point in found:
        _, macs, correct = by_loops(second, point.thresholds)
        assert point.accuracy == correct.mean() and point.macs == macs.mean()
        assert point.ms == pytest.approx(np.dot(point.shares, [1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="`path_ms` must be 3 measured"):
        sweep(first, second, points=7, path_ms=[1.0])
