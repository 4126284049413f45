"""Views of pictures against NumPy: what can be seen, where it was cut, how often."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_dyngate.datasets import augmentation  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)


def ramp(height, width):
    """Red is the row, green the column, blue 7."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows, columns, np.full_like(rows, 7)), -1).astype("float32")


def views(augment, image, count):
    """The picture varied with as many seeds, and its label."""
    varied = tf.function(lambda seed: augment(tf.constant(image), 5, seed))
    found = [varied(tf.constant([9, i], tf.int64)) for i in range(count)]
    assert all(label == 5 for _, label in found)
    return np.stack([image for image, _ in found])


@pytest.mark.parametrize("mirror", [True, False])
def test_shift_and_mirror(mirror):
    image = 1 + ramp(6, 7)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    possible = {}
    for top in range(5):
        for left in range(5):
            part = padded[top : top + 6, left : left + 7]
            possible[part.tobytes()] = (top, left, False)
            if mirror:
                possible[part[:, ::-1].tobytes()] = (top, left, True)
    found = views(augmentation.shift_and_mirror(2, mirror), image, 300)
    seen = [possible[view.tobytes()] for view in found]
    assert len(set(seen)) > 0.9 * len(possible)
    share = np.mean([mirrored for *_, mirrored in seen])
    assert 0.4 < share < 0.6 if mirror else share == 0


def test_random_parts_have_the_areas_and_ratios_they_should():
    """The ends of the ramps tell which part was cut out."""
    found = views(augmentation.crop_and_mirror(32), ramp(200, 160), 300)
    assert found.shape == (300, 32, 32, 3)
    np.testing.assert_allclose(found[..., 2], 7, rtol=1e-5)
    middle = found[:, 16]
    # Between the first and the last of 32 pixels lie 31/32 of the part.
    heights = (found[:, -2, 16, 0] - found[:, 1, 16, 0]) * 32 / 29
    widths = (middle[:, -2, 1] - middle[:, 1, 1]) * 32 / 29
    mirrored = widths < 0
    assert 0.4 < mirrored.mean() < 0.6
    areas = heights * abs(widths) / (200 * 160)
    ratios = abs(widths) / heights
    assert 0.06 < areas.min() < 0.2 and 0.75 < areas.max() < 1.02
    assert 0.7 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.4
    assert 0 <= found[..., 0].min() < 5 and 194 < found[..., 0].max() <= 199
    assert 0 <= found[..., 1].min() < 5 and 154 < found[..., 1].max() <= 159


@pytest.mark.parametrize("height,width", [(64, 96), (96, 64), (33, 70)])
def test_the_centre_is_judged(height, width):
    """Resizing a ramp gives a ramp: sample p of the result lies at (p + .5) / s - .5."""
    prepare = augmentation.resize_and_crop(28, 32)
    found, label = prepare(tf.constant(ramp(height, width).astype("uint8")), 5)
    assert found.shape == (28, 28, 3) and label == 5
    shorter = min(height, width)
    for axis, side in enumerate((height, width)):
        target = round(side * 32 / shorter)
        places = np.arange(28) + (target - 28) // 2 + 0.5
        expected = places * side / target - 0.5
        line = found[:, 14, 0] if axis == 0 else found[14, :, 1]
        np.testing.assert_allclose(line, expected, atol=0.03)


def test_pictures_of_the_native_size_are_judged_as_they_are():
    prepare, augment = augmentation.classification_views(16, shift=True)
    image = ramp(16, 16)
    np.testing.assert_array_equal(prepare(image, 0)[0], image)
    found = views(augment, image + 1, 20)
    rows = found[..., 0]
    assert (rows == 0).any() and set(np.unique(rows)) <= set(range(17))
