import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import expit, log_expit
from scipy.stats import beta, kstest

from keras_dyngate import BatchShaping, Controller, ControllerOutput
from keras_dyngate.regularizers.batch_shaping import (
    batch_shaping_loss,
    beta_cdf_of_logit,
    learned_cdf_of_logit,
)
from tests import reference
from tests.backend_utils import gradients
from tests.layer_checks import check_config

to_numpy = ops.convert_to_numpy
CDF = beta_cdf_of_logit(0.6, 0.4)


def logit(x):
    x = np.asarray(x, "float64")
    return np.log(x) - np.log1p(-x)


def slope(t, a=0.6, b=0.4):
    """dF/dt in float64: the density times x (1 - x)."""
    log_beta = np.log(beta.pdf(0.5, a, b)) + (a + b - 2) * np.log(2)
    return np.exp(a * log_expit(t) + b * log_expit(-t) + log_beta)


class TestCdf:
    # Beta(0.6, 0.4), as printed in the project's notes on the paper.
    TABLE = [
        (0.01, 0.031907, 1.921655),
        (0.10, 0.129739, 0.810048),
        (0.25, 0.233782, 0.626388),
        (0.50, 0.384092, 0.605461),
        (0.75, 0.551415, 0.780311),
        (0.90, 0.695109, 1.257070),
        (0.99, 0.879913, 4.817285),
    ]

    def test_vectors(self):
        x, cdf, pdf = np.array(self.TABLE).T
        value = to_numpy(CDF(ops.convert_to_tensor(logit(x).astype("float32"))))
        np.testing.assert_allclose(value, cdf, rtol=0, atol=6e-7)
        _, gradient = gradients(lambda t: ops.sum(CDF(t)), logit(x))
        np.testing.assert_allclose(gradient / (x * (1 - x)), pdf, rtol=2e-6)

    @pytest.mark.parametrize(
        ("a", "b", "error"),
        [
            (0.6, 0.4, 2e-7),
            (0.4, 0.6, 2e-7),
            (1, 1, 2e-7),
            (0.2, 3, 5e-7),
            (3, 3, 5e-7),
            (3, 7, 1e-6),
            (0.5, 20, 5e-6),
            (20, 20, 5e-6),
        ],
    )
    def test_value_and_gradient_against_scipy(self, a, b, error):
        t = np.linspace(-30, 30, 2001).astype("float32")
        t = np.concatenate([t, [0, -60, 60, -80, 80]]).astype("float32")
        wide = t.astype("float64")
        cdf = beta_cdf_of_logit(a, b)
        exact = np.where(wide < 0, beta.cdf(expit(wide), a, b), 0)
        exact = np.where(wide >= 0, beta.sf(expit(-wide), b, a), exact)
        value = to_numpy(cdf(ops.convert_to_tensor(t)))
        np.testing.assert_allclose(value, exact, rtol=0, atol=error)
        assert (np.diff(value[:2001]) >= -max(1e-7, error)).all()

        _, gradient = gradients(lambda t: ops.sum(cdf(t)), t)
        np.testing.assert_allclose(gradient, slope(wide, a, b), rtol=3e-5, atol=1e-12)

    def test_gradient_at_zero_and_in_the_far_tails(self):
        t = np.array([0, -0.0, 60, -60, np.inf, -np.inf], "float32")
        value = to_numpy(CDF(ops.convert_to_tensor(t)))
        expected = [0.384092, 0.384092, 1, 0, 1, 0]
        np.testing.assert_allclose(value, expected, rtol=0, atol=6e-7)
        _, gradient = gradients(lambda t: ops.sum(CDF(t)), t)
        at_zero = beta.pdf(0.5, 0.6, 0.4) / 4  # autodiff of a minimum would give half
        np.testing.assert_allclose(gradient[:2], at_zero, rtol=1e-6)
        np.testing.assert_allclose(gradient[2:4], slope(t[2:4]), rtol=1e-5)
        assert gradient[2] > 0 and gradient[3] > 0
        np.testing.assert_array_equal(gradient[4:], 0)

    @pytest.mark.parametrize("a, b", [(0.6, 0.4), (3.0, 7.0), (0.06, 9.0)])
    def test_the_learned_one_is_the_same_and_follows_its_shape(self, a, b):
        t = np.array([-7.0, -1.5, -0.2, 0.0, 0.3, 2.0, 6.0], "float32")
        value = to_numpy(learned_cdf_of_logit(a, b)(ops.convert_to_tensor(t)))
        np.testing.assert_allclose(value, beta.cdf(expit(t), a, b), rtol=0, atol=4e-6)
        _, by_t = gradients(lambda t: ops.sum(learned_cdf_of_logit(a, b)(t)), t)
        np.testing.assert_allclose(by_t, slope(t, a, b), rtol=3e-5)
        for index in range(2):

            def total(shape, index=index):
                both = [a, b]
                both[index] = shape[0]
                return ops.sum(learned_cdf_of_logit(*both)(ops.convert_to_tensor(t)))

            _, found = gradients(total, np.array([(a, b)[index]], "float32"))
            step = 1e-5
            sums = []
            for sign in (1, -1):
                both = [a, b]
                both[index] += sign * step
                sums.append(beta.cdf(expit(t.astype("float64")), *both).sum())
            expected = (sums[0] - sums[1]) / (2 * step)
            np.testing.assert_allclose(found[0], expected, rtol=1e-3)

    @pytest.mark.parametrize("name", ["a", "b"])
    @pytest.mark.parametrize("value", [0, -1, 31, float("nan"), "0.5"])
    def test_shapes_out_of_range_are_refused(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
            BatchShaping(**{name: value})


class TestLoss:
    X = np.array([[0.9], [0.2], [0.7], [0.4]])

    def test_vectors(self):
        value, gradient = gradients(
            lambda t: batch_shaping_loss(t, CDF, "sum"), logit(self.X)
        )
        np.testing.assert_allclose(value, 0.0241204, rtol=0, atol=6e-8)
        by_logit = [-0.0237339, 0.0003622, -0.0259650, -0.0215473]
        np.testing.assert_allclose(gradient[:, 0], by_logit, rtol=0, atol=1e-7)
        by_x = gradient / (self.X * (1 - self.X))
        expected = [-0.263710, 0.002264, -0.123643, -0.089780]
        np.testing.assert_allclose(by_x[:, 0], expected, rtol=0, atol=1.1e-6)

    def test_sorted_per_gate_and_summed_against_brute_force(self):
        t = np.random.default_rng(0).normal(0, 3, (50, 7)).astype("float32")
        exact = reference.batch_shaping(t)
        for normalization, expected in (
            ("sum", exact.sum()),
            ("mean", exact.sum() / 50),
        ):
            value, gradient = gradients(
                lambda t, n=normalization: batch_shaping_loss(t, CDF, n), t
            )
            np.testing.assert_allclose(value, expected, rtol=2e-6)
            rank = np.argsort(np.argsort(t, axis=0), axis=0) + 1
            residual = rank / 51 - beta.cdf(expit(t.astype("float64")), 0.6, 0.4)
            by_hand = -2 * residual * slope(t.astype("float64"))
            scale = 1 if normalization == "sum" else 50
            np.testing.assert_allclose(gradient, by_hand / scale, rtol=1e-4, atol=2e-7)

    @pytest.mark.parametrize(("x", "expected"), [(0.5, 0.0961), (0.9, 0.1208)])
    def test_a_constant_batch(self, x, expected):
        t = np.full((256, 1), logit(x), "float32")
        value = float(batch_shaping_loss(ops.convert_to_tensor(t), CDF))
        assert round(value, 4) == expected

    @pytest.mark.parametrize("n", [3, 256])
    def test_zero_at_the_exact_quantiles(self, n):
        x = beta.ppf(np.arange(1, n + 1) / (n + 1), 0.6, 0.4)
        t = np.random.default_rng(0).permutation(logit(x)).astype("float32")
        value = float(batch_shaping_loss(ops.convert_to_tensor(t[:, None]), CDF, "sum"))
        assert 0 <= value < n * 1e-13

    def test_infinite_logits_do_no_harm(self):
        t = np.array([[np.inf], [0.3], [-np.inf]], "float32")
        value, gradient = gradients(lambda t: batch_shaping_loss(t, CDF), t)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        assert gradient[1, 0] != 0

    def test_half_precision_logits_are_sorted_in_float32(self):
        t = ops.cast(np.linspace(-3, 3, 9)[:, None], "bfloat16")
        value = batch_shaping_loss(t, CDF)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        exact = reference.batch_shaping(to_numpy(ops.cast(t, "float32"))).sum() / 9
        np.testing.assert_allclose(float(value), exact, rtol=1e-5)


def test_free_logits_take_the_shape_of_the_prior():
    t = np.random.default_rng(0).normal(size=(500, 1)).astype("float32")
    assert kstest(expit(t[:, 0]), beta(0.6, 0.4).cdf).statistic > 0.2
    variable = keras.Variable(t)
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([variable])
    for _ in range(100):
        value = to_numpy(variable)
        _, gradient = gradients(lambda t: batch_shaping_loss(t, CDF), value)
        optimizer.apply([ops.convert_to_tensor(gradient.astype("float32"))], [variable])
    shaped = expit(to_numpy(variable)[:, 0].astype("float64"))
    assert kstest(shaped, beta(0.6, 0.4).cdf).statistic < 0.06


def test_regularizer():
    t = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    output = ControllerOutput(ops.convert_to_tensor(t > 0), ops.convert_to_tensor(t))
    for normalization, scale in (("mean", 20), ("sum", 1)):
        item = BatchShaping(a=0.5, b=1.5, normalization=normalization)
        expected = reference.batch_shaping(t, 0.5, 1.5).sum() / scale
        np.testing.assert_allclose(float(item(output)), expected, rtol=1e-5)
        check_config(item)
    assert BatchShaping().coefficient == 0.75
    with pytest.raises(ValueError, match="`normalization` must be .*'mean', 'sum'"):
        BatchShaping(normalization="none")


def test_a_learnable_prior_comes_to_meet_the_gates(tmp_path):
    """Probabilities of a Beta(3, 2): the shape is found, saved, and no weight of a gate."""
    rng = np.random.default_rng(0)
    t = logit(rng.beta(3.0, 2.0, (512, 8))).astype("float32")

    class Said(Controller):
        def compute_logits(self, pooled, training):
            return pooled

        def compute_scores(self, logits, training):
            return ops.cast(logits > 0, "float32")

        def count_macs(self, channels):
            return 0

    gate = Said(8, regularizers=BatchShaping(1.0, 1.0, 1.0, learnable=True))
    x = keras.Input((8,))
    model = keras.Model(x, gate(x).score)
    model.compile(keras.optimizers.Adam(0.05))
    losses = []
    for _ in range(2):
        history = model.fit(t, batch_size=512, epochs=60, verbose=0)
        losses.append(history.history["loss"][-1])
    shape = [float(to_numpy(ops.exp(v))) for v in gate.learned[0].values()]
    np.testing.assert_allclose(shape, [3.0, 2.0], rtol=0.1)
    assert losses[1] <= losses[0] < 0.01
    path = tmp_path / "w.weights.h5"
    model.save_weights(path)
    other = Said(8, regularizers=BatchShaping(1.0, 1.0, 1.0, learnable=True))
    fresh = keras.Model(x, other(x).score)
    fresh.load_weights(path)
    np.testing.assert_allclose(
        [to_numpy(v) for v in other.penalties], [to_numpy(v) for v in gate.penalties]
    )
    assert len(gate.penalties) == 3
    with pytest.raises(ValueError, match=r"`a` must be .* at most 10. Received: a=20"):
        BatchShaping(20, 1, learnable=True)
