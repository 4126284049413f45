"""Nets that were trained on scaled images: made to take pixels, and noticed."""

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.export.nets import (  # noqa: E402
    cascade,
    small_net,
    spread_gates,
    tinted,
    with_exits,
)

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "input_scale.py"
tool = runpy.run_path(str(SCRIPT))
rescaled, seems_scaled, invented = (
    tool[name] for name in ("rescaled", "seems_scaled", "invented")
)
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a tool of TensorFlow's export"
)
SHAPE, CLASSES = (6, 6, 3), 4


def kinds(count, seed=0):
    """Pictures of four mean colours, and which: easy to tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [150, 150, 150]])
    noise = rng.normal(0, 20, (count, *SHAPE))
    x = np.clip(colours[labels][:, None, None] + noise, 0, 255)
    return np.round(x).astype("float32"), labels


def nearest(scale=1.0, offset=0.0, activation="softmax", norm=None, outputs=CLASSES):
    """The best linear classifier of such pictures, trained on scale * pixels + offset.

    Its weights are the classes' means, as a fit would find them. `norm` is a layer in
    front; where it normalises, the net was trained on what it puts out.
    """
    x, labels = kinds(400, seed=1)
    x = scale * x + offset
    image = y = keras.Input(SHAPE)
    if norm is not None:
        y = norm(y)
        x = keras.ops.convert_to_numpy(keras.Model(image, y)(x))
    flat = x.reshape(len(x), -1)
    means = np.stack([flat[labels == k].mean(0) for k in range(CLASSES)])
    # Gaussian classes of one variance: logits are (x - mean / 2) mean / variance.
    variance = np.mean((flat - means[labels]) ** 2) * 1000  # of a cautious classifier
    kernel, bias = means.T / variance, -(means**2).sum(-1) / 2 / variance
    if outputs == 1:  # class 0 or not
        kernel, bias = (
            v[..., :1] - v[..., 1:].mean(-1, keepdims=True) for v in (kernel, bias)
        )
    dense = keras.layers.Dense(outputs, activation=activation)
    y = dense(keras.layers.Flatten()(y))
    dense.set_weights([kernel, bias])
    model = keras.Model(image, y)
    x, labels = kinds(40)
    found = model.predict(scale * x + offset, verbose=0)
    if outputs > 1:
        assert (found.argmax(-1) == labels).mean() > 0.9, "it must be a good net"
    return model


def normalised(x):
    norm = keras.layers.Normalization()
    norm.adapt(x)
    return norm


SCALED = {
    "0 to 1": lambda: nearest(1 / 255),
    "0 to 1, logits": lambda: nearest(1 / 255, activation=None),
    "0 to 1, sigmoid": lambda: nearest(1 / 255, activation="sigmoid", outputs=1),
    "-1 to 1": lambda: nearest(1 / 127.5, -1.0),
    "mean 0, deviation 1": lambda: nearest(1 / 70, -1.6),
}
PIXELS = {
    "pixels": lambda: nearest(),
    "pixels, logits": lambda: nearest(activation=None),
    "pixels, sigmoid": lambda: nearest(activation="sigmoid", outputs=1),
    "Rescaling": lambda: nearest(norm=keras.layers.Rescaling(1 / 255)),
    "Rescaling to -1": lambda: nearest(norm=keras.layers.Rescaling(1 / 127.5, -1)),
    "Normalization": lambda: nearest(norm=normalised(kinds(40)[0])),
    "each image": lambda: nearest(
        norm=keras.layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-9)
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_nets_that_take_about_1_are_noticed(name):
    model = SCALED[name]()
    assert seems_scaled(model, kinds(24)[0])
    assert seems_scaled(model, invented(SHAPE))


@pytest.mark.parametrize("name", PIXELS)
def test_nets_that_take_pixels_are_left_alone(name):
    model = PIXELS[name]()
    assert not seems_scaled(model, kinds(24)[0])
    assert not seems_scaled(model, invented(SHAPE))


def test_our_own_nets_are_left_alone():
    x = tinted(12)
    gated = spread_gates(small_net(), x)
    for model in (gated, with_exits(gated, ["block1"], x)):
        assert not seems_scaled(model, x)
    anytime = kd.sliced_resnet(blocks=1, width=8, subnetworks=2, input_shape=SHAPE)
    assert not seems_scaled(anytime, kinds(4)[0])


@pytest.mark.parametrize("scale,offset", [(1 / 255, 0.0), (1 / 127.5, -1.0)])
def test_rescaled_nets_take_pixels(scale, offset):
    model = nearest(scale, offset)
    x, _ = kinds(40)
    pixels = rescaled(model, [scale], [offset])
    assert pixels.name == model.name and not seems_scaled(pixels, x)
    expected = model.predict(scale * x + offset, verbose=0)
    np.testing.assert_allclose(pixels.predict(x, verbose=0), expected, atol=1e-5)


def plain():
    """An operator, a nested net, a shared layer and a name that is taken."""
    layers = keras.layers
    nested = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, padding="same"), layers.ReLU()]
    )
    image = keras.Input(SHAPE)
    x = nested(image) * 2 + layers.Conv2D(4, 1, name="input_scale")(image)
    x = keras.ops.mean(x, (1, 2))
    return keras.Model(image, layers.Dense(3)(x))


def exits():
    x = tinted(12)
    return with_exits(spread_gates(small_net(), x), ["block1"], x)


def combined():
    return cascade(tinted(12))


def sequential():
    return keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)]
    )


@pytest.mark.parametrize("make", [plain, sequential, exits, combined, small_net])
def test_nets_of_every_kind(make):
    model = make()
    x = tinted(12)[:, : model.input_shape[1], : model.input_shape[2]]
    pixels = rescaled(model, [0.5, 0.25, 2.0], [-3.0])
    assert type(pixels) is type(model) or make is sequential
    if make in (exits, combined):
        np.testing.assert_array_equal(pixels.thresholds, model.thresholds)
        np.testing.assert_array_equal(pixels.mixing, model.mixing)
        assert pixels.combine == model.combine
        assert [g.confidence for g in pixels.gates] == [
            g.confidence for g in model.gates
        ]
    for ours, theirs in zip(
        keras.tree.flatten(pixels(x, training=False)),
        keras.tree.flatten(model(np.array([0.5, 0.25, 2]) * x - 3, training=False)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert kd.count_macs(pixels).total == kd.count_macs(model).total


def test_what_cannot_be_rescaled():
    anytime = kd.sliced_resnet(blocks=1, width=8, subnetworks=2, input_shape=SHAPE)
    image = keras.Input(SHAPE)
    two = keras.Model(image, [keras.layers.Flatten()(image), image])
    for model, kind in ((anytime, "AnytimeModel"), (two, "Functional")):
        with pytest.raises(ValueError, match=f"need a functional.*Received: {kind}"):
            rescaled(model, [0.5], [0.0])
    for scale, offset, message in (
        ([0.0], [1.0], "--input_scale must not be 0"),
        ([np.nan], [0.0], "--input_scale must be one number, or 3.*Received: nan"),
        ([1.0], [np.inf], "--input_offset must be one number, or 3.*Received: inf"),
        ([1.0, 2.0], [0.0], "--input_scale must be one number, or 3.*: 1.0,2.0"),
        ([1.0], [], "--input_offset must be one number"),
    ):
        with pytest.raises(ValueError, match=message):
            rescaled(sequential(), scale, offset)
