"""Layers that hold layers, and models without a graph."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_dyngate as kd
from keras_dyngate.cost import used_parameters

pytestmark = pytest.mark.usefixtures("numpy_initializers")


class Holder(layers.Layer):
    """A convolution, a block, a weight of its own, and a nested model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, padding="same", name="conv")
        gate = kd.BinaryGate(4, hidden=3)
        self.block = kd.GatedBasicBlock(4, channel_gate=gate, name="block")
        self.norm = layers.BatchNormalization()
        self.net = keras.Sequential([layers.Dense(2, name="dense")], name="net")

    def build(self, input_shape):
        self.weight = self.add_weight(shape=(4, 4), name="weight")

    def call(self, x, training=None):
        x = self.norm(self.block(self.conv(x)), training=training)
        return self.net(ops.matmul(ops.relu(x), self.weight))


ROWS = {
    "holder/conv": 16 * 9 * 3 * 4,
    "block/channel_gate": 3 * (4 + 4),
    "block/conv1": 16 * 9 * 4 * 4,
    "block/conv2": 16 * 9 * 4 * 4,
    "holder/matmul": 16 * 4 * 4,
    "holder/net/dense": 16 * 4 * 2,
}


def held():
    image = keras.Input((4, 4, 3))
    return keras.Model(image, Holder(name="holder")(image))


def test_rows_of_a_layer_that_holds_layers():
    profile = kd.count_macs(held())
    assert {row.name: row.macs for row in profile.layers} == ROWS
    assert len(profile.layers) == len(ROWS) and profile.unknown == ()
    assert profile.controllers == ROWS["block/channel_gate"]


def test_counting_leaves_no_trace():
    model = held()
    holder = model.layers[-1]
    parts = [holder, *holder._flatten_layers(include_self=False)]
    marks = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in parts]
    weights = [np.copy(w) for w in model.get_weights()]
    config = model.to_json(default=str)
    assert kd.count_macs(model) == kd.count_macs(model)
    assert [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in parts] == marks
    assert model.to_json(default=str) == config and model.losses == []
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_used_parameters_of_a_layer_that_holds_layers():
    model = held()
    count = sum(np.size(w) for w in model.trainable_weights)
    assert used_parameters(model) == count > 0


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def call(self, inputs):
        left, right = self.dense(inputs["left"]), self.dense(inputs["right"])
        return {
            "scores": left * right,
            "kernel": ops.matmul(left, ops.transpose(right)),
        }


def test_a_model_without_a_graph():
    """Called on 7 samples; counted for one."""
    model = Net()
    model({"left": np.zeros((7, 5), "float32"), "right": np.zeros((7, 5), "float32")})
    profile = kd.count_macs(model)
    found = [(row.name, row.macs) for row in profile.layers]
    assert found == [("dense", 15), ("dense", 15), ("matmul", 3)]
    assert used_parameters(model) == 5 * 3 + 3


def native(x):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.abs(x)
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.abs(x)
    return x.abs()


class Native(layers.Layer):
    """What it does with `native` cannot be seen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def call(self, x):
        return self.dense(native(x))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)


def test_what_uses_the_backend_is_said_and_its_layers_counted():
    x = keras.Input((5,))
    layer = Native(name="native")
    layer(np.zeros((1, 5), "float32"))
    with pytest.warns(UserWarning, match=r"not counted.*\['native'\]"):
        profile = kd.count_macs(keras.Model(x, layer(x)))
    assert profile.unknown == ("native",)
    assert [(row.name, row.macs) for row in profile.layers] == [("native/dense", 15)]


def test_a_layer_of_keras_with_a_call_of_its_own():
    class Twice(layers.Dense):
        def call(self, inputs, training=None):
            return super().call(super().call(inputs))

    x = keras.Input((4,))
    assert kd.count_macs(keras.Model(x, Twice(4)(x))).total == 2 * 4 * 4


def test_a_layer_of_a_function():
    x = keras.Input((5, 6))
    layer = layers.Lambda(lambda x: x @ ops.transpose(x, (0, 2, 1)))
    assert kd.count_macs(keras.Model(x, layer(x))).total == 5 * 5 * 6
