import keras
import numpy as np
import pytest
from scipy.special import softmax

from keras_dyngate import DecisionGate, ExitHead
from keras_dyngate.layers.exit_gate import CONFIDENCES, ExitGate

to_numpy = keras.ops.convert_to_numpy
SCORES = np.random.default_rng(1).normal(0, 2, (50, 6)).astype("float32")


def linear_head(classes, **arguments):
    body = keras.Sequential([keras.Input((4,)), keras.layers.Dense(classes)])
    return ExitHead(classes, body, **arguments)


@pytest.mark.parametrize("make", [DecisionGate, linear_head])
class TestProbability:
    def test_against_scipy(self, make):
        found = to_numpy(make(6, confidence="probability").confidence_of(SCORES))
        expected = softmax(SCORES.astype("float64"), axis=1).max(axis=1)
        assert found.shape == (50,) and found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_of_one_score_is_the_sigmoids(self, make):
        scores = np.array([[-3.0], [0.0], [0.5], [800.0]], "float32")
        found = to_numpy(make(1, confidence="probability").confidence_of(scores))
        sure = 1 / (1 + np.exp(-np.abs(scores[:, 0].astype("float64"))))
        np.testing.assert_allclose(found, sure, rtol=1e-6)


def test_which_confidences_there_are():
    assert DecisionGate(3).confidences == CONFIDENCES
    head = linear_head(3)
    assert head.confidences == ("score", "margin", "entropy", "probability")
    message = "`confidence` must be one of 'score', 'margin', .*'distance'"
    with pytest.raises(ValueError, match=message):
        head.confidence = "distance"
    with pytest.raises(ValueError, match=message):
        linear_head(3, confidence="distance")


def test_the_base_counts_nothing():
    with pytest.raises(NotImplementedError):
        ExitGate(3, "hinge", "score").kernel_macs((None, 4))
