import dataclasses

import numpy as np
import pytest
from scipy import stats

from keras_dyngate.thresholds.paired_loss import loss_p_value
from keras_dyngate.thresholds.path import exit_path
from keras_dyngate.thresholds.promise import Promise, _path, promised_thresholds
from keras_dyngate.thresholds.table import ExitTable, exits_of
from tests.exit_tables import by_loops, random_table

INF = np.inf


def net(seed, samples):
    """Two gates and a head that err on the same hard samples, mostly."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, samples)
    easy = rng.normal(1, 1.5, (samples, 1))
    margin = easy + rng.normal(0, [0.8, 0.6, 0.3], (samples, 3)) + [0, 0.2, 0.4]
    labels = np.where(margin > 0, truth[:, None], (truth[:, None] + 1) % 3)
    confidence = np.abs(margin[:, :2]).astype("float32")
    return ExitTable(confidence, labels, np.tile([10, 20, 30], (samples, 1)), truth)


def losing(table, thresholds):
    """Worse and better answers than the head's, one sample at a time."""
    correct = by_loops(table, thresholds)[2]
    head = table.labels[:, -1] == table.truth
    return int((head & ~correct).sum()), int((correct & ~head).sum())


def promised(table, drop, kind="accuracy", confidence=0.9):
    return promised_thresholds(
        table, table.macs, kind=kind, drop=drop, confidence=confidence
    )


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.05])
def test_the_cheapest_before_the_first_that_fails(drop):
    table = net(0, 1000)
    thresholds, promise = promised(table, drop)
    order = np.random.default_rng(0).permutation(1000)
    path, test = _path(table.take(order[800:]), drop), table.take(order[:800])
    passed = {30.0: np.full(2, INF, "float32")}
    for point in path:
        if loss_p_value(*losing(test, point), 800, drop) > 0.1:
            break
        passed.setdefault(by_loops(test, point)[1].mean(), point)
    np.testing.assert_array_equal(thresholds, passed[min(passed)])
    assert promise.tested == 800
    if len(passed) > 1:
        p = loss_p_value(*losing(test, thresholds), 800, drop)
        assert promise.p_value == p <= 0.1


@pytest.mark.parametrize("kind", ["accuracy", "agreement"])
def test_promises_are_kept(kind):
    """On 40 draws; broken ones are at most as many as chance lets a tenth be."""
    drop, fresh = 0.02, net(10_000, 40_000)
    if kind == "agreement":
        fresh = dataclasses.replace(fresh, truth=fresh.labels[:, -1])
    rows, broken, saved = np.arange(40_000), 0, []
    for seed in range(40):
        table = net(seed, 300)
        if kind == "agreement":
            table = dataclasses.replace(table, truth=table.labels[:, -1])
        thresholds, _ = promised(table, drop, kind)
        exits = exits_of(fresh.confidence, thresholds)
        loss = fresh.correct[:, -1].mean() - fresh.correct[rows, exits].mean()
        broken += loss > drop
        saved.append(1 - fresh.macs[rows, exits].mean() / 30)
    assert broken <= stats.binom.ppf(0.99, 40, 0.1)
    assert np.mean(saved) > 0.2


def test_more_confidence_and_less_loss_save_less():
    table = net(0, 2000)
    by_drop = [promised(table, drop)[0] for drop in (0.0, 0.01, 0.03, 0.1)]
    macs = [by_loops(table, thresholds)[1].mean() for thresholds in by_drop]
    assert macs == sorted(macs, reverse=True) and macs[-1] < macs[0]
    sure = [promised(table, 0.03, confidence=c)[0] for c in (0.999, 0.9, 0.5)]
    macs = [by_loops(table, thresholds)[1].mean() for thresholds in sure]
    assert macs == sorted(macs, reverse=True) and macs[-1] < macs[0]


def test_nobody_leaves_where_nothing_passes():
    table = net(0, 600)
    labels = table.labels.copy()
    labels[:, :2] = (table.truth[:, None] + 2) % 3
    thresholds, promise = promised(dataclasses.replace(table, labels=labels), 0.01)
    assert (thresholds == INF).all()
    assert promise.p_value == 0.0 and promise.needed is None


def averaged(seed, samples):
    """A net whose second exit is right more often than the head."""
    table, rng = net(seed, samples), np.random.default_rng(seed)
    labels = table.labels.copy()
    wrong = rng.random(samples) < 0.1
    labels[wrong, 2] = (table.truth[wrong] + 1) % 3
    return dataclasses.replace(table, labels=labels)


def test_no_loss_at_all():
    thresholds, promise = promised(averaged(0, 1000), 0.0)
    worse, better = losing(averaged(1, 20_000), thresholds)
    assert better > worse and promise.p_value <= 0.1 and thresholds.min() < INF


class TestAboveTheHead:
    def test_a_gain(self):
        thresholds, promise = promised(averaged(0, 1000), -0.01)
        worse, better = losing(averaged(1, 20_000), thresholds)
        assert better - worse >= 200 and promise.p_value <= 0.1
        assert str(promise).startswith("accuracy lost -1.00% at most")

    def test_none(self):
        with pytest.raises(ValueError, match="cannot be promised .*accuracy_drop=-0.2"):
            promised(net(0, 1000), -0.2)


class TestTooFew:
    @pytest.mark.parametrize(
        ("drop", "confidence", "kind", "least"),
        [(0.01, 0.9, "accuracy", 230), (0.05, 0.95, "agreement", 59)],
    )
    def test_says_how_many(self, drop, confidence, kind, least):
        """`(1 - drop) ** least` is `1 - confidence` at most."""
        assert (1 - drop) ** least <= 1 - confidence < (1 - drop) ** (least - 1)
        total = next(n for n in range(least, 2 * least) if n - n // 5 >= least)
        table = net(0, total)
        table = dataclasses.replace(table, truth=table.labels[:, -1])
        with pytest.raises(
            ValueError,
            match=f"{kind} of {drop} at most .* confidence {confidence} from {total} "
            f"samples on, {least} of them to be tested. Received: 50 samples",
        ):
            promised(table.take(slice(50)), drop, kind, confidence)
        with pytest.raises(ValueError, match=f"from {total} "):
            promised(table.take(slice(total - 1)), drop, kind, confidence)
        assert promised(table, drop, kind, confidence)[1].tested == least


class TestNeeded:
    def test_so_many_are_enough(self):
        """With as many as a small table asks for, most of the saving is had."""
        saved, most, fresh = [], [], net(9, 40_000)
        rows = np.arange(40_000)
        for seed in range(4):
            _, promise = promised(net(seed, 300), 0.02)
            more = net(100 + seed, max(300, promise.needed * 5 // 4))
            thresholds, _ = promised(more, 0.02)
            exits = exits_of(fresh.confidence, thresholds)
            saved.append(30 - fresh.macs[rows, exits].mean())
        for point in exit_path(net(8, 2000)):
            exits = exits_of(fresh.confidence, point)
            loss = fresh.correct[:, -1].mean() - fresh.correct[rows, exits].mean()
            if loss <= 0.02:
                most.append(30 - fresh.macs[rows, exits].mean())
        assert np.mean(saved) > 0.6 * max(most)

    def test_is_said_where_there_are_fewer(self):
        promise = Promise("accuracy", 0.01, 0.9, 240, 0.03, 1500)
        assert str(promise) == (
            "accuracy lost 1.00% at most with confidence 0.9 (240 samples tested; about "
            "1500 would save more)"
        )
        assert "would" not in str(dataclasses.replace(promise, needed=200))


def test_confidences_that_are_no_numbers():
    table = random_table(0, samples=600)
    confidence = table.confidence.copy()
    confidence[::3] = np.nan
    thresholds, _ = promised(dataclasses.replace(table, confidence=confidence), 0.1)
    assert not np.isnan(thresholds).any()
