import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate._hooks import recording
from keras_dyngate.decisions import predict_with_decisions
from tests.stubs import images, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")


def gates(units, masks=1):
    return {
        "channel_gate": kd.BinaryGate(units * masks, hidden=3),
        "layer_gate": kd.BinaryGate(1, hidden=3),
    }


@pytest.fixture
def model():
    """A net of both kinds of blocks, one of them plain, one without a layer gate."""
    image = keras.Input((5, 5, 3))
    x = kd.GatedBasicBlock(4, **gates(2), name="a")(image)
    x = kd.GatedBasicBlock(4, name="plain")(x)
    x = kd.GatedBottleneckBlock(4, **gates(4, 2), name="b")(x)
    x = kd.GatedBasicBlock(4, channel_gate=kd.BinaryGate(4, hidden=3), name="c")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, keras.layers.Dense(2)(x)), seed=3)


X = images(7, 5, 5, 3)


def test_keys_shapes_values(model):
    decisions = kd.decide(model, X, batch_size=3)
    assert {key: value.shape for key, value in decisions.items()} == {
        "a/channel": (7, 2),
        "a/layer": (7, 1),
        "b/channel": (7, 4),
        "b/channel_2": (7, 4),
        "b/layer": (7, 1),
        "c/channel": (7, 4),
    }
    assert all(type(value) is np.ndarray for value in decisions.values())
    assert {v for value in decisions.values() for v in np.unique(value)} == {0.0, 1.0}

    # As the gates say, asked one by one on what comes into their block.
    x = X
    for layer in model.layers[1:5]:
        for key, gate in (("channel", layer.channel_gate), ("layer", layer.layer_gate)):
            if gate is None:
                continue
            said = keras.ops.convert_to_numpy(gate(x).score)
            if layer.layer_gate is not None and key == "channel":
                said = said * keras.ops.convert_to_numpy(layer.layer_gate(x).score)
            if layer.name == "b" and key == "channel":
                found = [decisions["b/channel"], decisions["b/channel_2"]]
            else:
                found = [decisions[f"{layer.name}/{key}"]]
            np.testing.assert_array_equal(np.concatenate(found, axis=1), said)
        x = layer(x)


def test_units_of_a_skipped_block_read_0(model):
    model.get_layer("b").layer_gate.expand.bias.assign([-1e3])
    model.get_layer("b").channel_gate.expand.bias.assign(np.full(8, 1e3))
    decisions = kd.decide(model, X)
    for key in ("b/layer", "b/channel", "b/channel_2"):
        assert not decisions[key].any()
    model.get_layer("b").layer_gate.expand.bias.assign([1e3])
    decisions = kd.decide(model, X)
    for key in ("b/layer", "b/channel", "b/channel_2"):
        assert decisions[key].all()


def test_outputs_come_from_the_same_pass(model):
    outputs, decisions = predict_with_decisions(model, X)
    np.testing.assert_allclose(
        outputs, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )
    assert set(decisions) == set(kd.decide(model, X))


def test_after_fit(model):
    """What `fit` and `predict` compiled before knows nothing of the recorder."""
    model.compile(keras.optimizers.SGD(0.5), "mse")
    before = kd.decide(model, X)
    model.predict(X, verbose=0)
    model.fit(X, np.ones((7, 2)), batch_size=7, epochs=2, verbose=0)
    after = kd.decide(model, X)
    with recording() as eager:
        model(X)
    assert list(after) == list(before) == list(eager)
    for key, value in after.items():
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(eager[key]))
    assert any((before[key] != after[key]).any() for key in after)


def test_nested_models(model):
    image = keras.Input((5, 5, 3))
    outer = keras.Model(image, keras.layers.Activation("relu")(model(image)))
    expected = kd.decide(model, X)
    found = kd.decide(outer, X)
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


def test_a_shared_layer_decides_each_time():
    block = kd.GatedBasicBlock(3, **gates(3), name="b")
    image = keras.Input((5, 5, 3))
    model = randomize(keras.Model(image, block(block(image))), seed=1)
    found = kd.decide(model, X)
    assert set(found) == {"b/channel", "b/layer", "b:2/channel", "b:2/layer"}
    y = block(X)
    for x, key in ((X, "b/layer"), (y, "b:2/layer")):
        said = keras.ops.convert_to_numpy(block.layer_gate(x).score)
        np.testing.assert_array_equal(found[key], said)


def test_nothing_is_recorded_outside(model):
    with recording() as found:
        pass
    model(X)
    assert found == {}


def test_a_model_without_controllers_is_refused():
    model = kd.resnet20(input_shape=(8, 8, 3), width=0.25)
    with pytest.raises(ValueError, match="`model` must hold controllers.*'resnet20'"):
        kd.decide(model, np.zeros((1, 8, 8, 3)))
