"""Rounding beside NumPy's arithmetic, and the environment beside what it was."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dyngate as kd

if keras.backend.backend() != "tensorflow":
    pytest.skip("quantizing needs TensorFlow", allow_module_level=True)

from keras_dyngate.quantization import _tfmot
from keras_dyngate.quantization.fake_quantize import FakeQuantize
from keras_dyngate.quantization.quantized_layer import QuantizedLayer, kernels, rounded

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy


def steps_of(x, low, high):
    """256 steps from `low` to `high`, moved so that 0 is one of them."""
    scale = (high - low) / 255
    zero = np.clip(np.round(-low / scale), 0, 255)
    return (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale


@pytest.mark.parametrize("ends", [(-1.0, 2.0), (0.0, 6.0), (-3.0, 0.1)])
def test_activations(ends):
    layer = FakeQuantize()
    layer.build((None, 50))
    layer.set_range(*ends)
    x = np.random.default_rng(0).normal(0, 2, (4, 50)).astype("float32")
    found = to_numpy(layer(x))
    step = (ends[1] - ends[0]) / 255
    expected = steps_of(x.astype("float64"), *ends)
    # Halves of a step are rounded up there, to even here.
    assert np.mean(np.abs(found - expected) > 1e-4 * step) < 0.02
    assert np.abs(found - expected).max() < 1.001 * step
    assert (np.unique(found).size <= 256) and (0 in to_numpy(layer(np.zeros((1, 50)))))


def made(layer, shape):
    layer.build(shape)
    for seed, weight in enumerate(layer.weights):
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        made(layers.Conv2D(4, 3), (None, 8, 8, 3)),
        made(layers.DepthwiseConv2D(3, depth_multiplier=2), (None, 8, 8, 3)),
        made(layers.Conv2DTranspose(4, 3), (None, 8, 8, 3)),
        made(layers.Dense(5), (None, 7)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_kernels(layer):
    ((kernel, axes),) = kernels(layer)
    value = to_numpy(kernel).astype("float64")
    rest = tuple(n for n in range(value.ndim) if n not in axes)
    scale = np.abs(value).max(axis=rest, keepdims=True) / 127
    found = to_numpy(rounded(kernel, axes))
    np.testing.assert_allclose(found, np.round(value / scale) * scale, atol=1e-5)
    wrapped = QuantizedLayer(layer)
    x = np.random.default_rng(9).normal(size=(2, *[8] * (value.ndim - 2 or 0), 3))
    x = x if value.ndim == 4 else np.ones((2, 7))
    ours = to_numpy(wrapped(x))
    kernel.assign(found)
    np.testing.assert_allclose(ours, to_numpy(layer(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("layer", [layers.Conv2D(4, 3), layers.DepthwiseConv2D(3)])
def test_biases(layer, normed):
    """Sums of whole numbers and a whole bias, as a file has them."""
    layer = made(type(layer).from_config(layer.get_config()), (None, 8, 8, 4))
    norm = made(layers.BatchNormalization(), (None, 6, 6, 4)) if normed else None
    x = np.random.default_rng(9).normal(size=(2, 8, 8, 4)).astype("float32")
    image = keras.Input((8, 8, 4))
    steps, wrapped = FakeQuantize(), QuantizedLayer(layer)
    y = wrapped(steps(image))
    if norm is not None:
        norm.moving_variance.assign([0.5, 1.0, 2.0, 3.0])
        y = norm(y)
    net = keras.Model(image, y)
    steps.set_range(-2.0, 2.02)
    step = 4.02 / 255
    ((kernel, axes),) = kernels(layer)
    value = to_numpy(kernel).astype("float64")
    factor, offset = np.ones(4), to_numpy(layer.bias).astype("float64")
    if norm is not None:
        gamma, beta, mean, variance = (
            to_numpy(w).astype("float64") for w in norm.weights
        )
        factor = gamma / np.sqrt(variance + norm.epsilon)
        offset = (offset - mean) * factor + beta
    folded = value * factor.reshape([-1, 1] if len(axes) == 2 else [-1])
    rest = tuple(n for n in range(4) if n not in axes)
    scales = np.abs(folded).max(axis=rest, keepdims=True) / 127
    pixels = np.round(to_numpy(steps(x)) / step)
    whole = layer.__class__.from_config({**layer.get_config(), "use_bias": False})
    whole.build((None, 8, 8, 4))
    whole.kernel.assign(np.round(folded / scales))
    units = step * scales.reshape(-1)
    expected = to_numpy(whole(pixels)) + np.round(offset / units)
    np.testing.assert_allclose(to_numpy(net(x)) / units, expected, rtol=1e-5, atol=0.05)
    assert np.abs(offset / units - np.round(offset / units)).max() > 0.1  # it is seen


def test_gradients_pass_through():
    import tensorflow as tf

    wrapped = QuantizedLayer(made(layers.Dense(3), (None, 4)))
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 4)), tf.float32)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(wrapped(x) ** 2)
    (found,) = tape.gradient(y, [wrapped.layer.kernel.value])
    with tf.GradientTape() as tape:  # the rounded kernel's own
        kernel = rounded(wrapped.layer.kernel, (1,))
        tape.watch(kernel)
        y = tf.reduce_sum((x @ kernel + wrapped.layer.bias) ** 2)
    np.testing.assert_allclose(found, tape.gradient(y, kernel), rtol=1e-4, atol=1e-4)


def test_nothing_in_the_environment_changes():
    code = (
        "import os, keras, tensorflow, ai_edge_litert.interpreter; "
        "before = dict(os.environ); import keras_dyngate as kd; "
        "layers = [keras.Input((4,)), keras.layers.Dense(2)]; "
        "kd.quantize_aware(keras.Sequential(layers)); "
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())"
        "; assert keras.__version__[0] == '3' and tensorflow.keras.__version__[0] == '3'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr


def test_without_tfmot_it_says_what_to_install(monkeypatch):
    _tfmot.quantizers.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    name = "tensorflow_model_optimization.quantization.keras"
    monkeypatch.setitem(sys.modules, name, None)
    net = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(
        ImportError, match=r"pip install .keras_dyngate\[quantization\]"
    ):
        kd.quantize_aware(net)
    _tfmot.quantizers.cache_clear()
