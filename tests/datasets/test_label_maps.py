"""Pictures and label maps must stay on top of each other."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_dyngate.datasets.label_maps import (  # noqa: E402
    MEAN_COLOUR,
    segmentation_views,
)
from tests.backend_utils import BACKEND  # noqa: E402

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)
# Colours by label, none of them the mean.
COLOURS = np.array([[200, 20, 20], [20, 200, 20], [20, 20, 200]], "uint8")


def scene(height=20, width=30):
    """Blocks of 10 pixels, each of one label and its colour."""
    rows, columns = np.mgrid[:height, :width] // 10
    label_map = ((rows + columns) % 3).astype("int32")
    return COLOURS[label_map], label_map


def varied(count, image_size, crop_size):
    _, augment = segmentation_views(image_size, crop_size)
    image, label_map = scene()
    run = tf.function(
        lambda seed: augment(tf.constant(image), tf.constant(label_map), seed)
    )
    for index in range(count):
        yield [np.asarray(part) for part in run(tf.constant([1, index], tf.int64))]


def test_image_and_map_are_cut_alike():
    shares, mirrored = [], set()
    for image, label_map in varied(60, (20, 30), (24, 24)):
        assert image.shape == (24, 24, 3) and image.dtype == "float32"
        assert label_map.shape == (24, 24) and label_map.dtype == "int32"
        outside = label_map == 255
        assert set(np.unique(label_map)) <= {0, 1, 2, 255}
        np.testing.assert_allclose(
            image[outside], np.broadcast_to(MEAN_COLOUR, (outside.sum(), 3)), rtol=1e-5
        )
        inside = ~outside
        # Away from borders a pixel has the colour of its label.
        nearest = np.abs(image[..., None, :] - COLOURS).sum(-1).argmin(-1)
        assert np.mean(nearest[inside] == label_map[inside]) > 0.9
        # What surrounds the picture is a frame of even width.
        rows, columns = inside.any(1), inside.any(0)
        np.testing.assert_array_equal(inside, np.outer(rows, columns))
        for line in (rows, columns):
            places = np.flatnonzero(line)
            assert len(places) == places[-1] - places[0] + 1
            assert abs(places[0] - (23 - places[-1])) <= 1
        shares.append(inside.mean())
        if inside.all():
            # Labels grow by one from left to right, unless mirrored.
            steps = np.diff(label_map[12])
            mirrored |= {int(step) % 3 for step in steps[steps != 0]}
    assert min(shares) < 0.4 and max(shares) == 1
    assert mirrored == {1, 2}


def test_scales_are_between_half_and_double():
    """The width of the picture in a crop that holds all of it."""
    widths = [
        (label_map != 255).any(0).sum() / 30
        for _, label_map in varied(80, (20, 30), (60, 80))
    ]
    assert 0.45 <= min(widths) < 0.65 and 1.8 < max(widths) <= 2.02
    assert abs(np.mean(widths) - 1.25) < 0.2


def test_judging_by_the_whole_picture():
    image, label_map = scene()
    prepare, _ = segmentation_views((20, 30), (8, 8))
    found, labels = prepare(image, label_map)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(labels, label_map)
    assert labels.dtype == tf.int32
    prepare, _ = segmentation_views((10, 15), (8, 8))
    found, labels = prepare(image, label_map)
    assert found.shape == (10, 15, 3) and labels.shape == (10, 15)
    np.testing.assert_array_equal(labels, label_map[1::2, 1::2])
    inner = np.ix_([2, 7], [2, 7, 12])
    np.testing.assert_allclose(found.numpy()[inner], image[::10, ::10], rtol=1e-5)
