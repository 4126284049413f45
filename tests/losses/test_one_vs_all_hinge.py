import json

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

from keras_dyngate import OneVsAllHinge
from keras_dyngate.losses import ScoreCrossEntropy
from keras_dyngate.losses.one_vs_all_hinge import as_one_hot
from tests.backend_utils import gradients

LOSSES = (OneVsAllHinge, ScoreCrossEntropy)
RNG = np.random.default_rng(0)
SCORES = RNG.normal(0, 1.5, (7, 4)).astype("float32")
LABELS = np.array([0, 3, 2, 2, 1, 0, 3])
ONE_HOT = np.eye(4)[LABELS]


def value(loss, labels, scores):
    return keras.ops.convert_to_numpy(loss(labels, scores))


def by_loops(labels, scores):
    """J = 1/(N c) sum_n sum_j max(0, 1 - y_nj s_nj)."""
    total = 0.0
    for label, row in zip(labels, scores, strict=True):
        for j, score in enumerate(row):
            total += max(0.0, 1.0 - (1 if j == label else -1) * float(score))
    return total / np.size(scores)


def test_vector_of_the_paper():
    scores = np.array([[2.0, -1.5, 0.2]], "float32")
    np.testing.assert_allclose(value(OneVsAllHinge(), [0], scores), 0.4, rtol=1e-6)
    np.testing.assert_allclose(value(OneVsAllHinge(), [1], scores), 6.7 / 3, rtol=1e-6)


def test_by_loops_and_per_sample():
    expected = [by_loops(LABELS[[n]], SCORES[[n]]) for n in range(7)]
    found = value(OneVsAllHinge(reduction="none"), LABELS, SCORES)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    whole = value(OneVsAllHinge(), LABELS, SCORES)
    np.testing.assert_allclose(whole, by_loops(LABELS, SCORES), rtol=1e-6)


def test_is_the_hinge_of_keras_on_signs():
    signs = (2 * ONE_HOT - 1).astype("float32")
    expected = value(keras.losses.Hinge(), signs, SCORES)
    np.testing.assert_allclose(
        value(OneVsAllHinge(), LABELS, SCORES), expected, rtol=1e-6
    )
    other = value(keras.losses.CategoricalHinge(), ONE_HOT, SCORES)
    assert abs(other - expected) > 0.1


def test_cross_entropy_against_scipy():
    scores = np.concatenate([SCORES, [[300.0, -300.0, 0.0, 5.0]]]).astype("float32")
    labels = np.append(LABELS, 1)
    expected = -log_softmax(scores.astype("float64"), axis=1)[np.arange(8), labels]
    found = value(ScoreCrossEntropy(reduction="none"), labels, scores)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = value(ScoreCrossEntropy(), labels, scores)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("cls", LOSSES)
@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS.astype("float32"),
        LABELS.astype("uint8"),
        ONE_HOT,
        ONE_HOT.astype(bool),
        2 * ONE_HOT - 1,
        LABELS.tolist(),
    ],
    ids=["column", "float", "uint8", "one_hot", "bool", "signs", "list"],
)
def test_kinds_of_labels(cls, labels):
    found = value(cls(), labels, SCORES)
    np.testing.assert_array_equal(found, value(cls(), LABELS, SCORES))


@pytest.mark.parametrize("cls", LOSSES)
def test_as_many_samples_as_classes(cls):
    found = value(cls(), LABELS[:4], SCORES[:4])
    expected = value(cls(), ONE_HOT[:4], SCORES[:4])
    np.testing.assert_array_equal(found, expected)


def test_as_one_hot():
    found = keras.ops.convert_to_numpy(as_one_hot(LABELS, SCORES))
    np.testing.assert_array_equal(found, ONE_HOT)
    assert found.dtype == "float32"


def test_gradient_of_the_hinge():
    scores = np.array([[2.0, -1.5, 0.2], [0.5, -0.5, -3.0]], "float32")
    loss = OneVsAllHinge()
    _, found = gradients(lambda s: loss(np.array([0, 0]), s), scores)
    # Past the margin nothing pulls; else the true class is pulled up, others down.
    expected = np.array([[0, 0, 1], [-1, 1, 0]]) / 6
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_gradient_of_the_cross_entropy():
    loss = ScoreCrossEntropy()
    _, found = gradients(lambda s: loss(LABELS, s), SCORES)
    expected = (np.exp(log_softmax(SCORES, axis=1)) - ONE_HOT) / len(LABELS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("cls", LOSSES)
def test_sample_weights(cls):
    weights = np.array([0, 1, 2, 0, 0.5, 3, 1], "float32")
    per_sample = value(cls(reduction="none"), LABELS, SCORES)
    found = keras.ops.convert_to_numpy(cls()(LABELS, SCORES, sample_weight=weights))
    np.testing.assert_allclose(found, (per_sample * weights).mean(), rtol=1e-5)


@pytest.mark.parametrize("cls", LOSSES)
def test_config(cls):
    loss = cls(reduction="sum", name="mine")
    written = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(written)
    assert type(again) is cls and again.get_config() == loss.get_config()
    assert (again.reduction, again.name) == ("sum", "mine")
    assert written["registered_name"] == f"keras_dyngate>{cls.__name__}"


def test_in_fit():
    """By `compile` and `fit` on a linear model: one step of gradient descent."""
    image = keras.Input((4,))
    dense = keras.layers.Dense(4, use_bias=False, kernel_initializer="zeros")
    model = keras.Model(image, dense(image))
    model.compile(keras.optimizers.SGD(1.0), OneVsAllHinge())
    history = model.fit(SCORES, LABELS, batch_size=7, verbose=0)
    np.testing.assert_allclose(history.history["loss"], [1.0], rtol=1e-6)
    expected = SCORES.T @ (2 * ONE_HOT - 1) / (7 * 4)  # every term is 1 - y s at s = 0
    found = keras.ops.convert_to_numpy(dense.kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_one_score():
    """Labels are 0 or 1: the hinge on signs, binary cross-entropy of the score."""
    scores = np.array([[2.0], [-0.5], [0.25], [-40.0]], "float32")
    labels = np.array([1, 1, 0, 0])
    for given in (labels, labels[:, None], labels.astype("float32")):
        hinge = value(OneVsAllHinge(reduction="none"), given, scores)
        np.testing.assert_allclose(hinge, [0, 1.5, 1.25, 0], rtol=1e-6)
        found = value(ScoreCrossEntropy(reduction="none"), given, scores)
        signs = 2.0 * labels - 1
        expected = np.logaddexp(0, -signs * scores[:, 0].astype("float64"))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
