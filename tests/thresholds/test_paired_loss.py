import time

import numpy as np
import pytest
from scipy import stats

from keras_dyngate.thresholds.paired_loss import _rates, _score, loss_p_value


def by_tables(worse, better, n, drop, rates):
    """The same from every table there is, with SciPy's probabilities."""
    tables = np.array([(a, b) for a in range(n + 1) for b in range(n + 1 - a)])
    a, b = tables.T
    observed = _score(np.array(worse), np.array(better), n, drop)
    extreme = _score(a, b, n, drop) <= observed + 1e-9
    counts = np.stack([a, b, n - a - b], axis=1)[extreme]
    return max(
        stats.multinomial(n, [(q + drop) / 2, max(0, (q - drop) / 2), 1 - q])
        .pmf(counts)
        .sum()
        for q in rates
    )


class TestScore:
    @pytest.mark.parametrize("drop", [-0.1, 0.0, 0.02, 0.3])
    def test_variance_is_that_of_the_likeliest_rates(self, drop):
        """Maximized here over a fine grid of rates whose difference is `drop`."""
        n = 40
        for a, b in ((3, 1), (10, 12), (0, 2), (7, 0)):
            x = np.linspace(max(0, -drop), (1 - drop) / 2, 200_001)[1:-1]
            likelihood = (
                a * np.log(x + drop)
                + b * np.log(x)
                + (n - a - b) * np.log1p(-2 * x - drop)
            )
            q = 2 * x[likelihood.argmax()] + drop
            expected = (a - b - n * drop) / np.sqrt(n * (q - drop**2))
            found = _score(np.array(a), np.array(b), n, drop)
            assert found == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("drop", [-0.1, 0.0, 0.02, 0.3])
    def test_grows_with_what_is_worse_and_falls_with_what_is_better(self, drop):
        for m in range(1, 41):
            a = np.arange(m + 1)
            assert (np.diff(_score(a, m - a, 40, drop)) > 0).all()
        b = np.arange(31)
        assert (np.diff(_score(np.full(31, 10), b, 40, drop)) < 0).all()


class TestPValue:
    @pytest.mark.parametrize("drop", [-0.05, 0.0, 0.02, 0.1])
    @pytest.mark.parametrize("counts", [(0, 2), (1, 0), (3, 3), (5, 9), (12, 6)])
    def test_by_every_table(self, drop, counts):
        n = 60
        found = loss_p_value(*counts, n, drop)
        rates = _rates(sum(counts), n, drop)
        expected = min(1, by_tables(*counts, n, drop, rates) + 2e-4)
        assert found == pytest.approx(expected, abs=1e-6)
        fine = np.linspace(rates[0], rates[-1], 150)
        assert by_tables(*counts, n, drop, fine) - 5e-4 < found <= 1

    @pytest.mark.parametrize("n", [120, 1000, 20_000])
    def test_nothing_differs(self, n):
        """Then a loss of `drop` shows nowhere with probability (1 - drop) ** n."""
        expected = (1 - 0.01) ** n + 2e-4
        assert loss_p_value(0, 0, n, 0.01) == pytest.approx(expected, abs=1e-6)
        assert loss_p_value(0, None, n, 0.01) == pytest.approx(expected, abs=3e-4)

    @pytest.mark.parametrize(("worse", "n"), [(0, 100), (3, 400), (150, 20_000)])
    def test_what_can_only_be_worse_is_a_binomial_tail(self, worse, n):
        found = loss_p_value(worse, None, n, 0.01)
        assert found == pytest.approx(stats.binom.cdf(worse, n, 0.01), rel=1e-8)

    def test_near_the_normal_one_where_much_differs(self):
        worse, better, n, drop = 950, 900, 20_000, 0.005
        variance = (worse + better) / n - ((worse - better) / n) ** 2
        expected = stats.norm.cdf(((worse - better) / n - drop) / np.sqrt(variance / n))
        assert loss_p_value(worse, better, n, drop) == pytest.approx(expected, rel=0.1)

    def test_grows_with_the_loss(self):
        found = [loss_p_value(worse, 10, 300, 0.02) for worse in range(0, 40, 4)]
        assert found == sorted(found)
        found = [loss_p_value(12, 10, 300, drop) for drop in (-0.02, 0, 0.02, 0.05)]
        assert found == sorted(found, reverse=True)

    def test_limits(self):
        assert loss_p_value(0, 5, 10, 1.0) == 0.0 and loss_p_value(0, 9, 9, -1.0) == 1.0
        assert loss_p_value(0, None, 50, 0.0) == 1.0

    @pytest.mark.parametrize("counts", [(1000, 900), (3000, 2900)])
    def test_fast(self, counts):
        took = []
        for _ in range(3):
            start = time.process_time()
            loss_p_value(*counts, 20_000, 0.01)
            took.append(time.process_time() - start)
        assert min(took) < 0.5


@pytest.mark.parametrize(("n", "rate"), [(60, 0.3), (100, 0.1), (300, 0.03)])
@pytest.mark.parametrize("drop", [0.0, 0.02])
def test_rejects_the_true_loss_as_often_as_the_level(n, rate, drop):
    """And no worse than three in five as often: little power is given away."""
    rng = np.random.default_rng(0)
    chances = [(rate + drop) / 2, (rate - drop) / 2, 1 - rate]
    draws, counts = np.unique(
        rng.multinomial(n, chances, 2000), axis=0, return_counts=True
    )
    p = np.array([loss_p_value(int(a), int(b), n, drop) for a, b, _ in draws])
    for level in (0.05, 0.1):
        rejected = counts[p <= level].sum() / 2000
        slack = 3 * np.sqrt(level * (1 - level) / 2000)
        assert 0.6 * level - slack < rejected < level + slack
