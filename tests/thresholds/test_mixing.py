import time

import numpy as np
import pytest
from scipy import optimize, special

from keras_dyngate.thresholds.mixing import fit_mixing, mix


def scores_of(seed, samples, classes=5, exits=4, scale=2.0):
    """Exits of growing accuracy whose errors are partly their own; too sure."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, samples)
    shared = rng.normal(0, 0.7, (samples, 1, classes))
    scores = shared + rng.normal(0, 1, (samples, exits, classes))
    scores[np.arange(samples), :, truth] += np.linspace(1, 2, exits)
    return scale * scores, truth


def losses(scores, truth):
    log_p = special.log_softmax(scores, axis=2)
    return -log_p[np.arange(len(truth)), :, truth].mean(axis=0)


def by_scipy(scores, truth, joined):
    """Least loss of the last exit with all weights, or with its own, 0 or more."""
    used = scores if joined else scores[:, -1:]

    def objective(w):
        return losses(np.einsum("j,njc->nc", w, used)[:, None], truth)[0]

    n = used.shape[1]
    return optimize.minimize(
        objective, np.full(n, 0.3), bounds=[(0, None)] * n, tol=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
class TestAgainstSciPy:
    def test_temperatures(self, seed):
        scores, truth = scores_of(seed, 3000)
        weights = fit_mixing(scores, truth, combine=False)
        assert (weights == np.diag(np.diag(weights))).all()
        expected = by_scipy(scores, truth, joined=False)
        assert weights[-1, -1] == pytest.approx(expected.x[0], abs=0.01)

    def test_combined(self, seed):
        scores, truth = scores_of(seed, 3000)
        weights = fit_mixing(scores, truth, combine=True)
        assert (weights == np.tril(weights)).all() and (weights >= 0).all()
        expected = by_scipy(scores, truth, joined=True)
        np.testing.assert_allclose(weights[-1], expected.x, atol=0.02)
        found = losses(mix(scores, weights), truth)[-1]
        assert found == pytest.approx(expected.fun, abs=1e-4)

    def test_what_only_disturbs_has_no_weight(self, seed):
        scores, truth = scores_of(seed, 2000, exits=3)
        scores[:, 0] = -scores[:, 2] + np.random.default_rng(seed).normal(
            0, 2, scores[:, 0].shape
        )
        weights = fit_mixing(scores, truth, combine=True)
        expected = by_scipy(scores, truth, joined=True)
        np.testing.assert_allclose(weights[-1], expected.x, atol=0.02)

    def test_one_output(self, seed):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 2000)
        logits = 3 * (2 * truth - 1)[:, None] + rng.normal(0, 4, (2000, 2))
        weights = fit_mixing(logits[:, :, None], truth, combine=True)

        def objective(w):
            z = logits @ w
            return (np.logaddexp(0, z) - truth * z).mean()

        expected = optimize.minimize(objective, [0.1, 0.1], bounds=[(0, None)] * 2)
        np.testing.assert_allclose(weights[-1], expected.x, atol=0.01)


class TestFewSamples:
    @pytest.mark.parametrize("seed", range(5))
    def test_fresh_data_do_not_suffer(self, seed):
        scores, truth = scores_of(seed, 50)
        fresh, labels = scores_of(100 + seed, 4000)
        plain = losses(fresh, labels)
        tempered = losses(mix(fresh, fit_mixing(scores, truth, combine=False)), labels)
        combined = losses(mix(fresh, fit_mixing(scores, truth, combine=True)), labels)
        assert (tempered < plain + 0.05).all() and tempered.mean() < plain.mean()
        assert combined[1:].mean() < tempered[1:].mean()

    @pytest.mark.parametrize("samples", [1, 50])
    def test_all_right(self, samples):
        """No weight is the best then; the ridge says which is enough."""
        scores, truth = scores_of(0, samples)
        scores[np.arange(samples), :, truth] += 50
        weights = fit_mixing(scores, truth, combine=True)
        assert np.isfinite(weights).all() and weights.max() < 10
        assert (np.diag(weights) > 0).all()


def test_many_classes_are_fitted_in_seconds():
    scores, truth = scores_of(0, 1500, classes=81, exits=6)
    start = time.process_time()
    weights = fit_mixing(scores, truth, combine=True)
    assert time.process_time() - start < 5
    accuracy = (mix(scores, weights).argmax(2) == truth[:, None]).mean(axis=0)
    assert accuracy[-1] > (scores[:, -1].argmax(1) == truth).mean()


def test_mix_by_loops():
    scores, _ = scores_of(0, 7, classes=3, exits=3)
    weights = np.tril(np.random.default_rng(0).random((3, 3)))
    found = mix(scores, weights)
    for k in range(3):
        expected = sum(weights[k, j] * scores[:, j] for j in range(k + 1))
        np.testing.assert_allclose(found[:, k], expected)


def test_the_same_each_time_and_in_any_unit():
    scores, truth = scores_of(0, 500)
    first = fit_mixing(scores, truth, combine=True)
    np.testing.assert_array_equal(first, fit_mixing(scores, truth, combine=True))
    shifted = scores + np.random.default_rng(0).normal(0, 9, (500, 4, 1))
    np.testing.assert_allclose(
        fit_mixing(shifted, truth, combine=True), first, atol=1e-6
    )


def test_scores_that_say_nothing():
    scores, truth = scores_of(0, 100)
    scores[:, 1] = 0.0
    assert np.isfinite(fit_mixing(scores, truth, combine=True)).all()


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((3, 2)), [0, 1, 0], "`scores` must be finite .*shape .3, 2"),
        (np.full((3, 2, 4), np.nan), [0, 1, 0], "`scores` must be finite numbers"),
        (np.zeros((0, 2, 4)), [], "`scores` must be .* of one sample or more"),
        (np.zeros((3, 2, 4)), [0, 1], "`truth` must be 3 class indices below 4"),
        (np.zeros((3, 2, 4)), [0, 1, 4], "`truth` must be 3 class indices below 4"),
        (np.zeros((3, 2, 1)), [0, 1, 2], "`truth` must be 3 class indices below 2"),
        (np.zeros((3, 2, 4)), [0.0, 1.0, 2.0], "type float64"),
    ],
)
def test_refused(scores, truth, message):
    with pytest.raises(ValueError, match=message):
        fit_mixing(scores, np.array(truth), combine=True)


def test_what_is_computed_counts_a_little():
    """Else a file would leave out a net whose MACs are counted."""
    scores, truth = scores_of(0, 500, exits=3)
    scores[:, 1:] *= -1  # worse than nothing
    weights = fit_mixing(scores, truth, combine=True)
    own = np.diag(weights)
    assert (own > 0).all() and own[2] < 0.01 * weights[2, 0]
    answers = mix(scores, weights)
    assert (answers[:, 2].argmax(-1) == scores[:, 0].argmax(-1)).mean() > 0.99
