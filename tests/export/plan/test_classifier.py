"""What a file answers: raw scores and labels, whatever a net ends in."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from tests.export.nets import SHAPE, images

layers = keras.layers
X = images(6)

pytestmark = pytest.mark.heavy


def trunk():
    keras.utils.set_random_seed(0)
    image = x = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, activation="relu", name="a")(layers.Rescaling(1 / 255)(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="b")(x))
    return image, x


def inside(units, *after):
    head = [keras.Input((8,)), layers.Dense(units), *after]
    return keras.Sequential(head)


HEADS = {
    "argument": (5, lambda x: layers.Dense(5, activation="softmax")(x)),
    "Activation": (5, lambda x: layers.Activation("softmax")(layers.Dense(5)(x))),
    "Softmax": (5, lambda x: layers.Softmax()(layers.Dense(5)(x))),
    "operator": (5, lambda x: keras.ops.softmax(layers.Dense(5)(x))),
    "nested": (5, lambda x: inside(5, layers.Softmax())(x)),
    "before an Identity": (
        5,
        lambda x: layers.Identity()(layers.Softmax()(layers.Dense(5)(x))),
    ),
    "sigmoid": (1, lambda x: layers.Dense(1, activation="sigmoid")(x)),
    "nested sigmoid": (1, lambda x: inside(1, layers.Activation("sigmoid"))(x)),
    "sigmoid operator": (1, lambda x: keras.ops.sigmoid(layers.Dense(1)(x))),
    "logit": (1, lambda x: layers.Dense(1)(x)),
}


@pytest.mark.parametrize(
    ("kind", "exits"),
    [*((kind, False) for kind in HEADS), ("nested", True), ("sigmoid operator", True)],
)
def test_logits_are_raw_scores(tmp_path, kind, exits):
    outputs, head = HEADS[kind]
    image, features = trunk()
    model = keras.Model(image, head(features))
    dense = next(
        layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)
    )
    kernel, bias = dense.get_weights()
    pooled = keras.Model(image, features).predict(X, verbose=0)
    bias = -np.median(pooled @ kernel, 0)
    dense.set_weights([kernel, bias])
    expected = pooled @ kernel + bias
    net = model
    if exits:
        net = kd.add_decision_gates(model, ["a"])
        net.thresholds = [1e9]
    before = model.predict(X, verbose=0)
    report = kd.export_tflite(net, tmp_path / "a.tflite", parity_data=X)
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    assert report.parity.argmax_agreement == 1.0
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    found = [litert.run("classify", image=x) for x in X]
    logits = np.stack([answer["logits"][0] for answer in found])
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    labels = [int(answer["label"][0]) for answer in found]
    if outputs == 1:
        assert labels == (expected[:, 0] > 0).astype(int).tolist()
        assert set(labels) == {0, 1}
    else:
        assert labels == expected.argmax(-1).tolist()
    assert found[0]["label"].shape == (1,) and found[0]["label"].dtype == np.int32


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_one_channel_tells_two_kinds_of_pixels(tmp_path, quantization):
    keras.utils.set_random_seed(0)
    image = x = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(
        layers.Rescaling(0.01)(x)
    )
    x = layers.Conv2DTranspose(8, 2, strides=2)(x)  # its data input is its third
    head = layers.Conv2D(1, 1)
    x = head(layers.AveragePooling2D(2)(x))
    model = keras.Model(image, layers.Activation("sigmoid")(x))
    probabilities = model.predict(X, verbose=0)
    head.bias.assign([-np.median(np.log(probabilities / (1 - probabilities)))])
    expected = model.predict(X, verbose=0)[..., 0] > 0.5
    report = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization=quantization,
        representative_data=X,
        labels=["ground", "sky"],
    )
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    found = np.stack([litert.run("segment", image=image)["labels"][0] for image in X])
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert set(np.unique(found)) == {0, 1}
    assert (found == expected).mean() >= (0.95 if quantization else 0.999)
    assert report.parity.samples == (6 if quantization else 16)
