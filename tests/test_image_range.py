"""Images from 0 to 1 where 0 to 255 is meant."""

import warnings

import numpy as np
import pytest

from keras_dyngate._image_range import RangeWatch

BRIGHT = np.linspace(0, 255, 48).reshape(1, 4, 4, 3)


def said(*images):
    watch = RangeWatch()
    for image in images:
        watch.look(image)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.warn("x")
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("scaled", [BRIGHT / 255, BRIGHT / 127.5 - 1])
def test_scaled_images_are_noticed(scaled):
    (message,) = said(scaled.astype("float32"), scaled)
    assert message.startswith("`x` should hold images from 0 to 255")
    assert message.endswith(f"{scaled.min():.3g} to {scaled.max():.3g}")


@pytest.mark.parametrize(
    "images",
    [
        [BRIGHT],
        [BRIGHT.astype("uint8")],
        [BRIGHT / 255, BRIGHT],  # a dark one among others
        [np.zeros((1, 4, 4, 3), "float32")],
        [(BRIGHT > 99).astype("float32")],  # black and white
        [np.zeros((0, 4, 4, 3))],
        [],
    ],
)
def test_others_are_not(images):
    assert said(*images) == []
