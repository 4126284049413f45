"""Which class scores mean, against NumPy and Keras."""

import keras
import numpy as np
import pytest

from keras_dyngate._labels import label_of

RNG = np.random.default_rng(0)


def test_the_largest_of_several_scores():
    scores = RNG.normal(size=(6, 4, 3)).astype("float32")
    np.testing.assert_array_equal(label_of(scores), scores.argmax(-1))
    assert label_of(np.array([[1.0, 1.0]])).tolist() == [0], "the first of equal ones"


def test_one_score_means_class_1_above_0():
    """There its probability is above .5, as Keras' binary accuracy has it."""
    scores = np.array([[-2.0], [-1e-6], [0.0], [1e-6], [3.0], [np.nan]], "float32")
    assert label_of(scores).tolist() == [0, 0, 0, 1, 1, 0]
    probability = keras.ops.convert_to_numpy(keras.ops.sigmoid(scores[:5]))
    clear = np.abs(scores[:5, 0]) > 0.1
    for label in (0, 1):
        metric = keras.metrics.BinaryAccuracy()
        metric.update_state(np.full((clear.sum(), 1), label), probability[clear])
        agreement = (label_of(scores)[:5][clear] == label).mean()
        assert float(metric.result()) == pytest.approx(agreement)
    maps = RNG.normal(size=(2, 5, 7, 1))
    np.testing.assert_array_equal(label_of(maps), maps[..., 0] > 0)
