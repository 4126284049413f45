"""A net of any precision is exported in float32, and is afterwards what it was."""

import gc
import threading

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from keras_dyngate.export import exporter
from keras_dyngate.export.preparing import float32_twin, is_float32
from keras_dyngate.flatfile import flatbuffer
from tests.export.nets import SHAPE, conv_net, enliven, images, tinted, with_exits

layers, ops = keras.layers, keras.ops
X = tinted(8)

pytestmark = pytest.mark.heavy


def net(seed=0):
    """A cast, a constant, a sum, a nested model, a gated block, a softmax of its own."""
    keras.utils.set_random_seed(seed)
    inner = [
        keras.Input((12, 12, 8)),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ]
    image = x = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 64, -2.0)(x)
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    x = x + ops.cast(0.5 * keras.Sequential(inner, name="inner")(x), x.dtype)
    x = layers.Lambda(lambda x: x * 0.5)(x)
    x = kd.GatedBasicBlock(8, channel_gate=kd.BinaryGate(2), name="block")(x)
    x = layers.BatchNormalization(name="alone")(x)
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    return enliven(keras.Model(image, layers.Softmax()(x)), seed)


def snapshot(model):
    """All that an export may not change, of a net and of Keras."""
    found = list(model._flatten_layers())
    return {
        "policies": [layer.dtype_policy.name for layer in found],
        "heads": [getattr(layer, "activation", None) for layer in found],
        "trainable": [layer.trainable for layer in found],
        "nodes": [len(layer._inbound_nodes) for layer in found],
        "variables": [id(v) for v in model.variables],
        "weights": [w.tobytes() for w in map(np.asarray, model.get_weights())],
        "calls": [keras.layers.BatchNormalization.call, kd.BatchNormalization.call],
        "normalized": kd.SlicedBatchNormalization.normalized,
        "config": (keras.config.dtype_policy().name, keras.config.floatx()),
    }


@pytest.mark.parametrize(
    "policy", ["float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"]
)
def test_any_precision_is_exported_in_float32(tmp_path, dtype_policy, policy):
    dtype_policy(policy)
    model = net()
    dtype_policy("float32")
    clean = net()
    clean.set_weights([w.astype("float32") for w in model.get_weights()])
    before = snapshot(model)
    report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=X[:4])
    kd.export_tflite(clean, tmp_path / "clean.tflite", parity_data=False)
    assert report.parity.max_difference < 1e-5
    assert snapshot(model) == before
    content = (tmp_path / "a.tflite").read_bytes()
    kinds = flatbuffer.schema.TensorType
    used = {
        t.type for graph in flatbuffer.read(content).subgraphs for t in graph.tensors
    }
    assert not used & {kinds.FLOAT16, kinds.BFLOAT16, kinds.FLOAT64}
    ours, theirs = (
        kd.LiteRTModel(tmp_path / f"{name}.tflite") for name in ("a", "clean")
    )
    for image in X[:4]:
        found, expected = (
            ours.run("explain", image=image),
            theirs.run("explain", image=image),
        )
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exits", [False, True])
def test_what_was_traced_outlives_a_collection(
    tmp_path, dtype_policy, monkeypatch, exits
):
    dtype_policy("float16")
    model = with_exits(conv_net(), ["a"], X) if exits else net()
    convert = exporter.convert

    def after_collecting(*args, **kwargs):
        gc.collect()
        return convert(*args, **kwargs)

    monkeypatch.setattr(exporter, "convert", after_collecting)
    report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=X[:4])
    assert report.parity.max_difference < 1e-4


def test_two_threads_leave_the_net_alone(tmp_path):
    model = with_exits(conv_net(), ["a", "b"], X)
    model.predict(X)
    before, errors = snapshot(model), []

    def export(name, quantization):
        try:
            kd.export_tflite(
                model,
                tmp_path / name,
                quantization=quantization,
                representative_data=X,
                parity_data=False,
            )
        except Exception as error:  # it would be lost in the thread
            errors.append(error)

    threads = [
        threading.Thread(target=export, args=args)
        for args in (("float.tflite", None), ("int8.tflite", "int8"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and snapshot(model) == before
    exits = model.predict(X)["exit"]
    litert = kd.LiteRTModel(tmp_path / "float.tflite")
    assert [litert.run("classify", image=x)["exit"][0] for x in X] == exits.tolist()
    assert kd.LiteRTModel(tmp_path / "int8.tflite").run("classify", image=X[0])


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_an_export_that_fails_leaves_the_net_alone(
    tmp_path, dtype_policy, monkeypatch, quantization
):
    dtype_policy("mixed_bfloat16")
    model = net()
    dtype_policy("float32")
    before = snapshot(model)

    def fail(*args, **kwargs):
        assert snapshot(model) == before, "while it runs, too"
        raise RuntimeError("half-way")

    monkeypatch.setattr(exporter, "convert", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            quantization=quantization,
            representative_data=X,
        )
    assert snapshot(model) == before and not list(tmp_path.iterdir())


def test_a_transfer_learning_net_is_exported_without_its_augmentation(tmp_path):
    """Augmentation is off, a base of open size has the size it is called with."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(8, 3, activation="relu")]
    )
    x = image = keras.Input((16, 16, 3))
    augmentation = [
        layers.RandomFlip(),
        layers.RandomRotation(0.2),
        layers.RandomContrast(0.5),
    ]
    for layer in [*augmentation, layers.Rescaling(1 / 127.5, -1)]:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    x = layers.Dense(4, activation="softmax")(layers.Dropout(0.5)(x))
    model = keras.Model(image, x)
    pictures = images(4, (16, 16, 3))
    report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=pictures)
    assert report.parity.max_difference < 1e-5
    found = flatbuffer.op_counts((tmp_path / "a.tflite").read_bytes())
    assert not [name for name in found if "RANDOM" in name]
    assert found["CONV_2D"] == 1 and found["SOFTMAX"] == 0
    exits = kd.LiteRTModel(tmp_path / "a.tflite")
    outputs = model.predict(pictures, verbose=0)
    for image, expected in zip(pictures, outputs, strict=True):
        logits = exits.run("classify", image=image)["logits"][0]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


class Stubborn(layers.Layer):
    """Cannot be made anew."""

    def __init__(self, factor):
        super().__init__(name="stubborn")
        self.factor = factor

    def call(self, x):
        return x * self.factor


def test_a_layer_that_cannot_be_made_anew(tmp_path, dtype_policy):
    def model():
        image = keras.Input((4, 4, 3))
        return keras.Model(
            image, layers.Dense(2)(layers.Flatten()(Stubborn(2.0)(image)))
        )

    kd.export_tflite(model(), tmp_path / "a.tflite")  # used as it is
    dtype_policy("mixed_float16")
    mixed = model()
    with pytest.raises(ValueError, match="made anew|make anew.*'stubborn', a Stubborn"):
        kd.export_tflite(mixed, tmp_path / "b.tflite")
    assert not (tmp_path / "b.tflite").exists()


def test_a_twin_is_a_layer_of_its_own():
    forced = kd.BinaryGate(2)
    block = kd.GatedBasicBlock(4, channel_gate=forced, dtype="mixed_float16")
    block(ops.ones((1, 6, 6, 4)))
    forced.forced = [True, False]
    assert not is_float32(block)
    twin = float32_twin(block)
    assert is_float32(twin) and twin.name == block.name
    assert twin.channel_gate.forced.tolist() == [True, False]
    for ours, theirs in zip(twin.weights, block.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours is not theirs
