import keras
import numpy as np
import pytest

from keras_dyngate._graph import flat_graph, run_calls
from keras_dyngate._logits import last_calls, raw_operation, squashing_call
from tests.stubs import outputs, randomize

layers = keras.layers
X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def net(*after, **dense):
    x = image = keras.Input((4,))
    x = layers.Dense(3, name="dense", **dense)(x)
    for operation in after:
        x = operation(x)
    return randomize(keras.Model(image, x))


def nested(x):
    inside = keras.Input(x.shape[1:])
    y = layers.Dense(3, activation="softmax", name="inner")(inside)
    return keras.Model(inside, y, name="head")(x)


def run(model, raw):
    graph = flat_graph(model)
    table = {id(graph.inputs[0]): keras.ops.convert_to_tensor(X)}
    run_calls(graph.calls, table, raw_operation(graph) if raw else None)
    return keras.ops.convert_to_numpy(table[id(graph.outputs[0])])


def dense(model, x=X):
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.weights[:2])
    return x @ kernel + bias


@pytest.mark.parametrize(
    "made",
    [
        lambda: net(activation="softmax"),
        lambda: net(activation="sigmoid"),
        lambda: net(activation="hard_sigmoid"),
        lambda: net(layers.Softmax()),
        lambda: net(layers.Activation("sigmoid")),
        lambda: net(keras.ops.softmax),
        lambda: net(keras.ops.sigmoid),
        lambda: net(layers.Softmax(), layers.Identity()),
        lambda: net(layers.Softmax(), layers.Activation("linear"), layers.Dropout(0.5)),
    ],
)
def test_raw_scores(made):
    model = made()
    before, config = outputs(model, X), model.get_config()
    np.testing.assert_allclose(run(model, raw=True), dense(model), 1e-5, 1e-6)
    np.testing.assert_allclose(run(model, raw=False), before, 1e-5, 1e-6)
    assert np.abs(before - dense(model)).max() > 0.01
    np.testing.assert_array_equal(outputs(model, X), before)
    assert model.get_config() == config


def test_inside_a_nested_head():
    model = net(nested)
    inner = model.get_layer("head").get_layer("inner")
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in inner.weights)
    expected = dense(model) @ kernel + bias
    np.testing.assert_allclose(run(model, raw=True), expected, 1e-4, 1e-5)
    assert inner.activation is keras.activations.softmax


@pytest.mark.parametrize(
    "made",
    [
        lambda: net(),
        lambda: net(activation="relu"),
        lambda: net(layers.Softmax(), layers.Dense(3, name="last")),
        lambda: net(layers.Softmax(), layers.Rescaling(2.0)),
        lambda: net(lambda x: keras.ops.softmax(x) + x),
    ],
)
def test_other_ends_stay(made):
    model = made()
    assert squashing_call(flat_graph(model)) is None
    np.testing.assert_allclose(run(model, raw=True), outputs(model, X), 1e-5, 1e-6)


@pytest.mark.parametrize(
    "made, names",
    [
        (lambda: net(), ["dense"]),
        (lambda: net(activation="softmax"), ["dense"]),
        (
            lambda: net(layers.Softmax(name="s"), layers.Dropout(0.1, name="d")),
            "d s dense",
        ),
        (lambda: net(layers.ReLU(name="r"), layers.Identity(name="i")), "i r"),
        (lambda: net(layers.Dense(3, name="last")), ["last"]),
    ],
)
def test_last_calls(made, names):
    names = names.split() if isinstance(names, str) else names
    assert [call.path for call in last_calls(flat_graph(made()))] == names
