"""Squeeze-and-excite as a layer: by hand, saved, and refused."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, randomize

layers = keras.layers


def body(channels=6, made=6, flat=True):
    if flat:
        parts = [layers.Input((channels,)), layers.Dense(2, "relu")]
        parts.append(layers.Dense(made, "sigmoid"))
    else:
        parts = [layers.Input((1, 1, channels)), layers.Conv2D(2, 1, activation="relu")]
        parts.append(layers.Conv2D(made, 1, activation="sigmoid"))
    return randomize(keras.Sequential(parts))


@pytest.mark.parametrize("flat", [True, False])
def test_by_hand_and_saved(tmp_path, flat):
    x = images(3, 5, 4, 6) / 255
    small = body(flat=flat)
    image = keras.Input(x.shape[1:])
    model = keras.Model(image, kd.SqueezeExcite(small)(image))
    means = x.mean((1, 2))
    first, bias, last, shift = (np.squeeze(w) for w in small.get_weights())
    scale = 1 / (1 + np.exp(-(np.maximum(means @ first + bias, 0) @ last + shift)))
    expected = x * scale[:, None, None]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [None, layers.Dense(6), lambda x: x])
def test_another_body(bad):
    with pytest.raises(
        ValueError, match="`body` must be a functional .*Received: body"
    ):
        kd.SqueezeExcite(bad)


@pytest.mark.parametrize(("channels", "made"), [(4, 6), (6, 4)])
def test_other_channels(channels, made):
    message = (
        f"`body` must make as many .*Received: {channels} -> {made} for 6 channels"
    )
    with pytest.raises(ValueError, match=message):
        kd.SqueezeExcite(body(channels, made))(np.ones((1, 4, 4, 6)))
