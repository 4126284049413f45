"""The usual transfer-learning net with exits inside its base, from data to file."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

layers = keras.layers
N = 24
X = images(N, 32, 32, 3)
Y = np.arange(N) % 3


def transfer(size):
    """Augmentation, scaling, a nested base, pooling, dropout and a classifier."""
    x = inner = keras.Input(size)
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="bn")(x))
    x = x + layers.Conv2D(4, 3, padding="same", name="side")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="top")(x)
    base = keras.Model(inner, x, name="base")
    x = image = keras.Input((32, 32, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(x))
    x = base(layers.Rescaling(1 / 127.5, -1)(x), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(3, activation="softmax", name="head")(x)
    return randomize(keras.Model(image, x, name="whole")), base


@pytest.mark.parametrize("size", [(32, 32, 3), (None, None, 3)])
def test_transfer_learning(size, tmp_path):
    net, base = transfer(size)
    plus = base.operations[5]
    assert type(plus).__name__ == "Add"
    model = kd.add_decision_gates(net, after=["stem_relu", plus.output])
    assert model.after == ("base/stem_relu", f"base/{plus.name}")
    kernel_macs = [15**2 * 27 * 4, 15**2 * 36 * 4, 7**2 * 36 * 6 + 18]
    gates = np.cumsum([4 * 3, 4 * 3, 0])
    assert kd.count_macs(model).per_exit == tuple(np.cumsum(kernel_macs) + gates)

    before = [np.array(w) for w in net.get_weights()]
    fits = model.fit_gates(X, Y, epochs=3)
    assert [fit.features for fit in fits.values()] == [4, 4]
    outcome = model.calibrate(X, Y, exit_shares=[0.25, 0.25])
    found = model.predict(X, verbose=0)
    np.testing.assert_array_equal(np.bincount(found["exit"]), [6, 6, 12])
    assert outcome.shares == (0.25, 0.25, 0.5)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    dense = {
        k: keras.ops.convert_to_numpy(v) for k, v in model(X, training=False).items()
    }
    np.testing.assert_allclose(dense["head"], outputs(net, X), 1e-5, 1e-6)
    features = outputs(
        keras.Model(base.input, base.get_layer("stem_relu").output), X / 127.5 - 1
    )
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.gates[0].weights)
    expected = features.mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(dense["gate_1"], expected, 1e-3, 1e-4)

    base.trainable = False
    model.save(tmp_path / "exits.keras")
    again = keras.saving.load_model(tmp_path / "exits.keras")
    assert again.after == model.after
    for name, values in again.predict(X, verbose=0).items():
        np.testing.assert_allclose(values, found[name], 1e-5, 1e-6)

    again.compile(keras.optimizers.SGD(0.1))
    again.fit(X, Y, verbose=0)
    inner = again.trunk.get_layer("base")
    for old, new in zip(base.get_weights(), inner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # frozen, also its statistics
    head = again.trunk.get_layer("head").get_weights()[0]
    assert (head != net.get_layer("head").get_weights()[0]).any()


def test_a_base_of_keras_applications():
    base = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35
    )
    image = keras.Input((32, 32, 3))
    x = base(layers.Rescaling(1 / 127.5, -1)(layers.RandomFlip()(image)))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    net = keras.Model(image, layers.Dense(5, activation="softmax")(x))
    places = ("block_6_expand_relu", base.get_layer("block_6_expand_relu"))
    for place in (*places, f"{base.name}/block_6_expand_relu"):
        model = kd.add_decision_gates(net, after=[place, "block_13_depthwise"])
        assert model.after[0] == f"{base.name}/block_6_expand_relu"
    shares = {p.layer: p.share for p in kd.cut_points(net)}
    per_exit = kd.count_macs(model).per_exit
    gates = [gate.dense.kernel.shape[0] * 5 for gate in model.gates]
    assert per_exit[0] - gates[0] == pytest.approx(
        shares[model.after[0]] * (per_exit[-1] - sum(gates))
    )


def test_several_inputs_are_refused_at_once():
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, name="c")(first + second)
    x = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    net = keras.Model([first, second], x)
    for use in (kd.cut_points, lambda net: kd.add_decision_gates(net, ["c"])):
        with pytest.raises(ValueError, match="`model` must have one input.*2 inputs"):
            use(net)
