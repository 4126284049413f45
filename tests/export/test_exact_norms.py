"""Batch normalization on its own in an int8 file: a scale for each channel."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

from keras_dyngate.flatfile import flatbuffer


def net(after_padding, groups=1):
    """Channels that are always 0, and what a trained normalization makes of them."""
    keras.utils.set_random_seed(0)
    image = x = keras.Input((12, 12, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(8, 3, use_bias=False, padding="same")(x)
    if groups > 1:
        x = keras.layers.Conv2D(8, 3, groups=groups)(x)
    if after_padding:
        x = kd.ChannelPadding(8, 16)(x)
    norm = keras.layers.BatchNormalization(epsilon=1e-5)
    x = keras.layers.ReLU()(norm(x))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(10)(x))
    channels = norm.moving_variance.shape[0]
    variance = np.full(channels, 0.2, "float32")
    variance[8:] = 0.0
    norm.moving_variance.assign(variance)
    norm.beta.assign(np.linspace(-0.2, 0.3, channels))
    return model


def counts(path):
    return flatbuffer.op_counts(path.read_bytes())


def test_channels_that_are_always_zero_do_not_spoil_the_others(tmp_path):
    model, x = net(after_padding=True), images(24, 12, 12, 3)
    report = kd.export_tflite(
        model,
        tmp_path / "int8.tflite",
        quantization="int8",
        representative_data=x,
        parity_data=x,
    )
    assert report.parity.max_difference < 0.05
    assert report.parity.argmax_agreement > 0.8
    found = counts(tmp_path / "int8.tflite")
    assert found["DEPTHWISE_CONV_2D"] == 1 and found["RELU"] == 0


@pytest.mark.parametrize(("groups", "convolutions"), [(1, 2), (2, 3)])
def test_after_a_convolution_it_is_folded_as_ever(groups, convolutions, tmp_path):
    model, x = net(after_padding=False, groups=groups), images(8, 12, 12, 3)
    kd.export_tflite(
        model, tmp_path / "int8.tflite", quantization="int8", representative_data=x
    )
    found = counts(tmp_path / "int8.tflite")
    assert found["DEPTHWISE_CONV_2D"] == 0 and found["CONV_2D"] == convolutions


def test_floats_need_no_convolution_and_the_layers_are_as_before(tmp_path):
    model, x = net(after_padding=True), images(4, 12, 12, 3)
    call = keras.layers.BatchNormalization.call
    expected = model.predict(x, verbose=0)
    report = kd.export_tflite(model, tmp_path / "float.tflite", parity_data=x)
    assert report.parity.max_difference < 1e-5
    assert counts(tmp_path / "float.tflite")["DEPTHWISE_CONV_2D"] == 0
    kd.export_tflite(
        model, tmp_path / "int8.tflite", quantization="int8", representative_data=x
    )
    assert keras.layers.BatchNormalization.call is call
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
