"""A net on smaller pictures: the same weights, its own input."""

import keras
import numpy as np
import pytest

from keras_dyngate.models.resolution import at_size
from tests.models.gating.nets import mobile
from tests.stubs import images

layers = keras.layers


def test_it_sees_what_is_resized():
    model = mobile(shape=(32, 32, 3))
    small = at_size(model, 16, 24)
    assert small.input_shape == model.input_shape and small.name == "mobile_16"
    x = images(3, 32, 32, 3)
    resized = layers.Resizing(16, 24, interpolation="bilinear")(x)
    same = mobile(shape=(16, 24, 3))
    same.set_weights(model.get_weights())
    np.testing.assert_allclose(
        small.predict(x, verbose=0), same.predict(resized, verbose=0), atol=1e-6
    )
    small.layers[-1].set_weights([0 * w for w in small.layers[-1].get_weights()])
    assert np.abs(model.get_weights()[0]).sum() > 0  # its own weights stay


def test_a_net_for_one_size():
    parts = [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((16, 16, 3)), *parts])
    with pytest.raises(ValueError, match=r"made for pictures of \(16, 16\) only"):
        at_size(model, 8, 8)
    with pytest.raises(ValueError, match="`model` must be functional, of one picture"):
        at_size(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), 8, 8)
