"""Accuracy and intersection over union, weighted, against loops over pixels."""

import numpy as np
import pytest

from keras_dyngate.runtime.labels import LabelSpec
from keras_dyngate.runtime.scores import ImageScores, PixelScores

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("per_pixel", [False, True])
def test_pixels_weigh_what_they_are_given(per_pixel):
    spec = LabelSpec((3, 4), 3, ignore_class=9)
    truth = RNG.choice([0, 1, 2, 9], (5, 3, 4))
    answers = RNG.integers(0, 3, (5, 3, 4)).astype("uint8")
    weights = RNG.uniform(0, 2, (5, 3, 4) if per_pixel else 5)
    scores = PixelScores(spec)
    confusion, pixels = np.zeros((3, 3)), 0
    for index in range(5):
        scores.add(truth[index], {"labels": answers[index][None]}, weights[index])
        for y, x in np.ndindex(3, 4):
            if truth[index, y, x] != 9:
                weight = weights[index, y, x] if per_pixel else weights[index]
                confusion[truth[index, y, x], answers[index, y, x]] += weight
                pixels += 1
    found = scores.result()
    right = np.diag(confusion)
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    assert found["accuracy"] == pytest.approx(right.sum() / confusion.sum())
    np.testing.assert_allclose(found["class_iou"], iou)
    assert found["mean_iou"] == pytest.approx(iou.mean()) and found["pixels"] == pixels


def test_one_channel_tells_two_classes():
    """The file's `labels` are 0 or 1, whatever its number of outputs."""
    scores = PixelScores(LabelSpec((1, 4), 2))
    answer = {"labels": np.array([[[0, 1, 1, 0]]], "uint8")}
    scores.add(np.array([[0, 1, 0, 0]]), answer)
    assert scores.result()["accuracy"] == 0.75
    np.testing.assert_allclose(scores.result()["class_iou"], [2 / 3, 1 / 2])


def test_images_without_weight():
    scores = ImageScores(LabelSpec((), 3), "logits")
    for label, logits in ((0, [3, 1, 2]), (1, [0, 0, 1]), (2, [0, 0, 1])):
        scores.add(label, {"logits": np.array([logits], "float32")})
    found = scores.result()
    assert found["accuracy"] == 2 / 3 and found["labels"].tolist() == [0, 2, 2]
    assert "exit" not in found
