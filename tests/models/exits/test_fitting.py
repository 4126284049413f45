import keras
import numpy as np
import pytest

from keras_dyngate import DecisionGate, add_decision_gates
from keras_dyngate.models.exits.fitting import (
    exit_scores,
    fit_gate,
    pooled_features,
    spreads,
)
from tests.stubs import randomize

pytestmark = pytest.mark.heavy


def test_a_feature_that_hardly_varies_has_no_huge_weight():
    """Else 8-bit weights, which share one scale, would round the others to zero."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    features = rng.normal(size=(600, 8)) + 2.0 * np.eye(3, 8)[labels]
    features[:, 5] = 7.0 + 1e-5 * rng.normal(size=600)
    features[:, 6] = 3.0
    gate = DecisionGate(3)
    gate.build((None, 8))
    fit = fit_gate(
        gate,
        features.astype("float32"),
        labels,
        epochs=60,
        batch_size=64,
        learning_rate=0.01,
        weight_decay=1e-4,
    )
    assert fit.accuracy > 0.8 and fit.features == 8
    kernel = keras.ops.convert_to_numpy(gate.dense.kernel)
    bias = keras.ops.convert_to_numpy(gate.dense.bias)
    step = np.abs(kernel).max() / 127
    scores = features @ (step * np.round(kernel / step)) + bias
    assert np.mean(scores.argmax(-1) == labels) > fit.accuracy - 0.02
    assert np.abs(kernel[[5, 6]]).max() < np.abs(kernel).max()


def fitted(features, labels, weights=None):
    keras.utils.set_random_seed(0)
    gate = DecisionGate(3)
    gate.build((None, features.shape[1]))
    fit = fit_gate(
        gate,
        features.astype("float32"),
        labels,
        weights,
        epochs=20,
        batch_size=64,
        learning_rate=0.02,
        weight_decay=1e-4,
    )
    return fit, [keras.ops.convert_to_numpy(w) for w in gate.dense.weights]


def data(seed=0, count=240):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return rng.normal(size=(count, 6)) + 1.5 * np.eye(3, 6)[labels], labels


class TestWeights:
    def test_zero_is_absence(self):
        features, labels = data()
        some = np.arange(240) % 3 > 0
        fit, weights = fitted(features, labels, some.astype("float64"))
        other, expected = fitted(features[some], labels[some])
        for a, b in zip(weights, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        assert fit.accuracy == other.accuracy

    def test_only_ratios_matter(self):
        features, labels = data()
        given = np.linspace(0.1, 2.0, 240)
        for a, b in zip(
            fitted(features, labels, given)[1],
            fitted(features, labels, 1e-4 * given)[1],
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    def test_what_counts_more_is_answered_more(self):
        features, labels = data()
        plain = fitted(features, labels)[1]
        heavy = fitted(features, labels, np.where(labels == 0, 20.0, 1.0))[1]
        answers = [(features @ k + b).argmax(1) for k, b in (plain, heavy)]
        assert (answers[1] == 0).sum() > (answers[0] == 0).sum() + 10

    def test_none_above_0(self):
        features, labels = data()
        with pytest.raises(ValueError, match="a weight above 0. Received: all are 0"):
            fitted(features, labels, np.zeros(240))


class TestSpreads:
    def test_no_division_by_little(self):
        for few in (1, 60, 100):  # of 128 features, that hardly vary
            deviation = np.ones(128)
            deviation[:few] = 1e-6
            found = spreads(deviation)
            assert found.min() > 0.099 and found.max() < 1.01
        assert spreads(np.zeros(4)).tolist() == [1.0] * 4

    def test_one_wide_feature_does_not_hide_the_rest(self):
        deviation = np.ones(128)
        deviation[0] = 1e4
        assert spreads(deviation)[1:].max() < 1.01

    def test_accuracy_is_not_hurt(self):
        """Features of spreads from 1 to 30, as a net's are: what a plain scaling gives."""
        features, labels = data(count=600)
        fit, _ = fitted(features, labels)
        scaled, _ = fitted(features * np.geomspace(1, 30, 6), labels)
        assert abs(fit.accuracy - scaled.accuracy) <= 0.01


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_images_that_are_no_numbers_are_refused(number):
    image = keras.Input((4,))
    x = keras.layers.Dense(5, activation="relu", name="a")(image)
    model = add_decision_gates(keras.Model(image, keras.layers.Dense(3)(x)), ["a"])
    before = [keras.ops.convert_to_numpy(w) for w in model.gates[0].weights]
    x, y = np.ones((9, 4), "float32"), np.arange(9) % 3
    x[7, 2] = number
    for use in (
        lambda: model.fit_gates(x, y, epochs=1),
        lambda: model.calibrate(x, y, accuracy_drop=0.1),
    ):
        with pytest.raises(ValueError, match="`x` must hold finite numbers"):
            use()
    for weight, start in zip(model.gates[0].weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), start)


def vectors():
    image = keras.Input((4,))
    x = keras.layers.Dense(5, activation="relu", name="a")(image)
    x = keras.layers.Dense(3, activation="softmax")(x)
    model = add_decision_gates(keras.Model(image, x), ["a"], confidence="probability")
    return randomize(model, 1), data()[0][:20, :4].astype("float32")


def test_features_where_there_are_no_labels():
    """The trunk's own answers are the labels, batch by batch."""
    model, x = vectors()
    said = keras.ops.convert_to_numpy(model(x)["head"]).argmax(1)
    features, labels, weights = pooled_features(model, x, None, None, 8, taught=True)
    np.testing.assert_array_equal(labels, said)
    assert weights is None and list(features) == ["gate_1"]
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.trunk.weights[:2])
    expected = np.maximum(x @ kernel + bias, 0)
    np.testing.assert_allclose(features["gate_1"], expected, rtol=1e-4, atol=1e-5)
    mixed = [(x[:8], np.array([2] * 8)), x[8:]]
    labels = pooled_features(model, mixed, None, None, 8, taught=True)[1]
    np.testing.assert_array_equal(labels, [2] * 8 + said[8:].tolist())


def test_scores_of_every_exit():
    model, x = vectors()
    y = np.arange(20) % 3
    found = exit_scores(model, x, y, 8)
    dense = {k: keras.ops.convert_to_numpy(v) for k, v in model(x).items()}
    assert found.scores.shape == (20, 2, 3)
    np.testing.assert_allclose(found.scores[:, 0], dense["gate_1"], 1e-4, 1e-5)
    log_p = np.log(dense["head"])
    head = found.scores[:, 1] - found.scores[:, 1].mean(1, keepdims=True)
    np.testing.assert_allclose(head, log_p - log_p.mean(1, keepdims=True), 1e-3, 1e-4)
    assert found.macs.tolist() == [[20 + 15, 20 + 15 + 15]] * 20
    np.testing.assert_array_equal(found.truth, y)
    assert exit_scores(model, x, None, None).truth is None

    model.mixing = [[2.0, 0.0], [-1.0, 0.5]]
    table = found.table(model)
    gate = np.exp(2 * dense["gate_1"].astype("float64"))
    sure = (gate / gate.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(table.confidence[:, 0], sure, rtol=1e-4)
    mixed = 0.5 * found.scores[:, 1] - found.scores[:, 0]
    np.testing.assert_array_equal(table.labels[:, 1], mixed.argmax(1))
