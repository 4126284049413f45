"""`x + s(x) * f(x)`, with anything for f: gated layers too."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.layers import GatedResidual
from tests.layer_checks import check_config
from tests.stubs import images, randomize

SHAPE = (8, 8, 6)


def branch(inner=False, channels=6, name="f"):
    """A branch that widens, works depthwise and narrows, or one with a gated block."""
    layers = keras.layers
    x = image = keras.Input((8, 8, 6))
    x = layers.Conv2D(12, 1, use_bias=False, name=f"{name}_wide")(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    x = layers.ReLU(6.0)(x)
    if inner:
        x = kd.GatedBasicBlock(12, channel_gate=kd.BinaryGate(2), name=f"{name}_in")(x)
    else:
        x = layers.DepthwiseConv2D(3, padding="same", name=f"{name}_each")(x)
    x = layers.Conv2D(channels, 1, name=f"{name}_narrow")(x)
    return keras.Model(image, x, name=name)


def net(inner=False, gate="binary", seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 64, -2.0)(image)
    for name in ("a", "b"):
        layer = GatedResidual(branch(inner, name=name), gate, name=f"{name}_gated")
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(image, keras.layers.Dense(3, name="top")(x)))
    x = images(8, *SHAPE)
    for layer in dynamic_layers(model):
        for item in layer.decisions():
            feed = model.input if item.whole else None
            if feed is not None:
                features = keras.Model(feed, layer.input)(x)
                dense = getattr(item.controller, "expand", None)
                dense = dense or item.controller.dense
                logits = ops.convert_to_numpy(item.controller(features).logit)
                dense.bias.assign(dense.bias - np.median(logits, axis=0))
            else:
                dense = item.controller.expand  # the first group is always open
                dense.kernel.assign(dense.kernel * [[0.0, 1.0]])
                dense.bias.assign([1.0, 0.0])
    return model, x


def test_config():
    check_config(GatedResidual(branch(), kd.BinaryGate(1)))


@pytest.mark.parametrize("gate", ["binary", "salience"])
def test_against_its_parts(gate):
    model, x = net(gate=gate)
    layer = model.get_layer("a_gated")
    features = keras.Model(model.input, layer.input)(x)
    score = ops.convert_to_numpy(layer.layer_gate(features).score)
    assert 0 < (score > 0).mean() < 1
    y = ops.convert_to_numpy(layer.body(features, training=False))
    expected = ops.convert_to_numpy(features) + score[:, None, None] * y
    np.testing.assert_allclose(layer(features), expected, rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape((None, *SHAPE)) == (None, *SHAPE)


def test_what_is_inside_a_skipped_branch_reads_zero():
    model, x = net(inner=True)
    found = kd.decide(model, x)
    assert list(found) == [
        "a_gated/layer",
        "a_in/channel",
        "b_gated/layer",
        "b_in/channel",
    ]
    for name in "ab":
        runs = found[f"{name}_gated/layer"][:, 0] > 0
        assert 0 < runs.mean() < 1
        assert not found[f"{name}_in/channel"][~runs].any()
        assert found[f"{name}_in/channel"][runs].any()


def test_cost_by_hand():
    model, x = net(inner=True)
    found = kd.decide(model, x)
    asks, inner_asks = 16 * (6 + 1), 16 * (12 + 2)
    ends, inner = 64 * 2 * 6 * 12, 2 * 64 * 9 * 12 * 12
    expected = np.full(8, 6 * 3)
    for name in "ab":
        runs = found[f"{name}_gated/layer"][:, 0]
        share = found[f"{name}_in/channel"].mean(1)
        expected = expected + asks + runs * (inner_asks + ends) + share * inner
    profile = kd.count_macs(model)
    np.testing.assert_array_equal(profile.of(found), expected)
    assert profile.total == 2 * (ends + inner) + 6 * 3
    with kd.force_open_rate(model, 1.0, layer_rate=0.5):
        assert [v.any() for k, v in kd.decide(model, x).items() if "layer" in k] == [
            True,
            False,
        ]


def test_training_teaches_the_branch_and_its_gate(tmp_path):
    model, x = net(inner=True)
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile("adam", "mse")
    model.fit(x, np.ones((8, 3)), epochs=2, verbose=0)
    pairs = zip(model.trainable_variables, before, strict=True)
    still = [v.path for v, old in pairs if np.array_equal(v, old)]
    assert not still
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(
        again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )


def test_bad_bodies():
    for body in (keras.layers.Dense(3), "f"):
        with pytest.raises(ValueError, match="`body` must be a functional.*Received"):
            GatedResidual(body)
    with pytest.raises(ValueError, match="`body` must put out what it takes"):
        GatedResidual(branch(channels=5))
    with pytest.raises(ValueError, match="`layer_gate` must be a controller with one"):
        GatedResidual(branch(), kd.BinaryGate(2))
    with pytest.raises(ValueError, match="`layer_gate` must be a controller with one"):
        GatedResidual(branch(), None)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("inner, gate", [(True, "binary"), (False, "salience")])
def test_its_file_skips(tmp_path, inner, gate, quantization):
    model, x = net(inner, gate)
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(
        model, path, quantization=quantization, representative_data=x
    )
    names = [branch.name for branch in report.branches]
    assert names[0] == "a_gated/layer"
    top = sum(b.macs for b in report.branches if b.name.endswith("/layer"))
    assert top == report.macs.gateable + inner * 2 * 16 * (12 + 2)
    outputs, decisions = predict_with_decisions(model, x)
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    file = kd.LiteRTModel(path)
    largest = np.abs(outputs).max()
    for row, picture in enumerate(x):
        found = file.run("explain", image=picture)
        near = 1e-5 if quantization is None else 0.1
        np.testing.assert_allclose(
            found["logits"][0], outputs[row], atol=near * largest
        )
        assert abs(found["executed_macs"][0] - macs[row] / 1000) <= 1
        for key, values in decisions.items():
            if quantization is None:
                np.testing.assert_allclose(found[key][0], values[row], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_skipped_weights_are_not_touched(tmp_path):
    model, x = net(inner=True)
    for name, is_open in (("a", True), ("b", False)):
        model.get_layer(f"{name}_gated").layer_gate.forced = [is_open]
    expected = model.predict(x, verbose=0)
    for weight in model.get_layer("b_gated").body.weights:
        if len(weight.shape) > 1:
            weight.assign(np.full(weight.shape, np.nan))
    kd.export_tflite(model, tmp_path / "net.tflite", parity_data=False)
    file = kd.LiteRTModel(tmp_path / "net.tflite")
    for row, picture in enumerate(x):
        np.testing.assert_allclose(
            file.run("classify", image=picture)["logits"][0], expected[row], rtol=1e-4
        )
