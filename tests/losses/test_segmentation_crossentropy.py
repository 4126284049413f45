"""The loss of segmentation, and Keras's metric beside it, against NumPy."""

import json

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import keras_dyngate as kd
from tests.backend_utils import gradients

CLASSES = 4


@pytest.fixture(name="batch")
def _batch():
    """Label maps, a part of them 255, and logits."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, CLASSES, (2, 5, 6)).astype("int32")
    maps[0, :2] = 255
    maps[1, 3, 4] = 255
    return maps, rng.normal(0, 2, (2, 5, 6, CLASSES)).astype("float32")


def expected_loss(maps, logits, weights=None):
    counted = maps != 255
    labels = maps[counted]
    each = -log_softmax(logits.astype("float64"), -1)[counted]
    each = each[np.arange(len(labels)), labels]
    weights = np.ones(CLASSES) if weights is None else np.asarray(weights)
    return np.sum(weights[labels] * each) / np.sum(weights[labels])


@pytest.mark.parametrize("weights", [None, (0.5, 0, 2, 1)])
@pytest.mark.parametrize("from_logits", [True, False])
def test_against_numpy(batch, weights, from_logits):
    maps, logits = batch
    expected = expected_loss(maps, logits, weights)
    loss = kd.SegmentationCrossentropy(255, weights, from_logits)
    said = logits if from_logits else softmax(logits, -1)
    for labels in (maps, maps[..., None], maps.astype("uint8")):
        assert float(loss(labels, said)) == pytest.approx(expected, rel=1e-5)


def test_gradient_against_numpy(batch):
    """d loss / d logits = w (p - y) / sum of w; exactly 0 where there is no label."""
    maps, logits = batch
    weights = np.array([0.5, 0.25, 2, 1])
    loss = kd.SegmentationCrossentropy(class_weights=weights)
    _, found = gradients(lambda y: loss(maps, y), logits)
    counted = maps != 255
    labels = np.where(counted, maps, 0)
    w = np.where(counted, weights[labels], 0)[..., None]
    expected = w * (softmax(logits, -1) - np.eye(CLASSES)[labels]) / w.sum()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not found[~counted].any()


def test_nothing_labelled(batch):
    _, logits = batch
    maps = np.full((2, 5, 6), 255)
    loss = kd.SegmentationCrossentropy()
    value, gradient = gradients(lambda y: loss(maps, y), logits)
    assert value == 0 and not gradient.any()
    other = kd.SegmentationCrossentropy(class_weights=[1, 0, 1, 1])
    assert float(other(np.ones((2, 5, 6), int), logits)) == 0


def test_any_label_may_be_ignored_or_none(batch):
    maps, logits = batch
    maps = np.where(maps == 255, 0, maps)
    without = np.where(maps == 2, 255, maps)
    found = kd.SegmentationCrossentropy(ignore_class=2)(maps, logits)
    assert float(found) == pytest.approx(expected_loss(without, logits), rel=1e-5)
    found = kd.SegmentationCrossentropy(ignore_class=None)(maps, logits)
    assert float(found) == pytest.approx(expected_loss(maps, logits), rel=1e-5)


def test_pixels_may_have_weights_of_their_own(batch):
    maps, logits = batch
    mean = expected_loss(maps, logits)
    loss = kd.SegmentationCrossentropy()
    weights = np.full(maps.shape, 3.0, "float32")
    assert float(loss(maps, logits, weights)) == pytest.approx(3 * mean, rel=1e-5)
    each = keras.ops.convert_to_numpy(
        kd.SegmentationCrossentropy(reduction="none")(maps, logits)
    )
    assert each.shape == maps.shape and each.mean() == pytest.approx(mean, rel=1e-5)


def test_config():
    loss = kd.SegmentationCrossentropy(7, np.array([1, 2.5]), False, name="seg")
    written = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(written)
    assert type(again) is kd.SegmentationCrossentropy
    assert again.get_config() == loss.get_config()
    assert again.class_weights == [1.0, 2.5] and again.ignore_class == 7


def test_bad_class_weights(batch):
    for weights in ([1, -1], [0, 0], []):
        with pytest.raises(ValueError, match="`class_weights` must be None or numbers"):
            kd.SegmentationCrossentropy(class_weights=weights)
    with pytest.raises(ValueError, match="each of the 4 classes. Received: 2"):
        kd.SegmentationCrossentropy(class_weights=[1, 1])(*batch)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")  # on JAX
def test_mean_iou_of_keras(batch):
    """Its confusion matrix leaves the ignored pixels out, over batches too."""
    maps, logits = batch
    metric = keras.metrics.MeanIoU(CLASSES, ignore_class=255, sparse_y_pred=False)
    for part in (slice(0, 1), slice(1, 2)):
        metric.update_state(maps[part], logits[part])
    counted = maps != 255
    confusion = np.zeros((CLASSES, CLASSES))
    np.add.at(confusion, (maps[counted], logits.argmax(-1)[counted]), 1)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(metric.total_cm), confusion
    )
    hit = np.diag(confusion)
    expected = np.mean(hit / (confusion.sum(0) + confusion.sum(1) - hit))
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
