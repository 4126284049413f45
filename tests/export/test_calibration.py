"""Which images calibrate an int8 file, and which block they find open."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")  # for the package; nothing here uses it

from keras_dyngate.export.calibration import calibration_feed  # noqa: E402

IMAGES = np.arange(3 * 2 * 2 * 3).reshape(3, 2, 2, 3)


def drawn(feed):
    """What a feed yields: (number of the image, forced blocks or None)."""
    found = []
    for signature, inputs in feed():
        assert signature == "explain"
        assert set(inputs) <= {"image", "force"}
        (number,) = (
            n for n, x in enumerate(IMAGES) if np.array_equal(inputs["image"], x[None])
        )
        force = inputs.get("force")
        if force is not None:
            assert force.dtype == np.int32 and set(force) <= {0, 1}
            force = force.tolist()
        found.append((number, force))
    return found


def test_each_image_as_decided_and_with_a_block_open():
    feed = calibration_feed(IMAGES, 2, "float32")
    expected = [
        *((0, [0, 0]), (0, [1, 0])),
        *((1, [0, 0]), (1, [0, 1])),
        *((2, [0, 0]), (2, [1, 0])),
    ]
    assert drawn(feed) == expected
    assert drawn(feed) == expected, "the converter may ask again"


def test_more_blocks_than_images():
    """Every block is open once; as decided an image runs once, and no more."""
    found = drawn(calibration_feed(IMAGES, 5, "float32"))
    assert [number for number, force in found if not any(force)] == [0, 1, 2]
    opened = [(number, force.index(1)) for number, force in found if any(force)]
    assert opened == [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4)]
    assert all(sum(force) <= 1 for _, force in found)


def test_nets_without_blocks_take_the_images_alone():
    found = drawn(calibration_feed(IMAGES, 0, "float32"))
    assert found == [(0, None), (1, None), (2, None)]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_images_have_the_type_of_the_input(dtype):
    feed = calibration_feed(IMAGES.astype("float64"), 1, dtype)
    assert {inputs["image"].dtype for _, inputs in feed()} == {np.dtype(dtype)}
