import keras
import numpy as np
import pytest

from keras_dyngate._graph import (
    Part,
    Stretch,
    flat_graph,
    graph_of,
    on_tensor,
    run_calls,
)
from tests.stubs import images, outputs, randomize

layers = keras.layers
X = images(2, 12, 12, 3)


def base(size=(None, None, 3), name="base"):
    x = image = keras.Input(size)
    x = layers.Conv2D(4, 3, strides=2, name="conv")(x)
    return keras.Model(image, x + layers.Conv2D(4, 1, name="side")(x), name=name)


def whole(inner, training=None):
    image = keras.Input((12, 12, 3), name="image")
    x = inner(layers.Rescaling(1 / 255, name="scale")(image), training=training)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(image, layers.Dense(2, name="dense")(x)))


def run(graph, x):
    table = {id(graph.inputs[0]): keras.ops.convert_to_tensor(x)}
    run_calls(graph.calls, table)
    return keras.ops.convert_to_numpy(table[id(graph.outputs[0])])


def state(model):
    """What reading must leave as it is."""
    return [
        (layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes))
        for layer in model._flatten_layers()
    ]


class TestFlatGraph:
    def test_paths_sizes_and_numbers(self):
        inner = base()
        model = whole(inner)
        plus = inner.operations[3].name
        before = state(model)
        graph = flat_graph(model)
        assert [(call.path, call.outputs[0].shape) for call in graph.calls] == [
            ("scale", (None, 12, 12, 3)),
            ("base/conv", (None, 5, 5, 4)),
            ("base/side", (None, 5, 5, 4)),
            (f"base/{plus}", (None, 5, 5, 4)),
            ("pool", (None, 4)),
            ("dense", (None, 2)),
        ]
        assert state(model) == before
        np.testing.assert_allclose(run(graph, X), outputs(model, X), 1e-6)
        last = graph.calls[3]
        assert graph.nested == {"base": [last.outputs]}
        assert graph.models == {"base": inner}
        # The model's own tensors, the nested model's own, and the call of it.
        for tensor in (inner.output, model.get_layer("pool").input):
            assert graph.known_as[id(tensor)] == [last.outputs[0]]

    def test_deeper_and_twice(self):
        inner = base((12, 12, 3))
        around = keras.Sequential([keras.Input((12, 12, 3)), inner], name="around")
        image = keras.Input((12, 12, 3))
        total = around(image) + inner(image * 0.5)
        model = randomize(keras.Model(image, total))
        graph = flat_graph(model)
        paths = [call.path for call in graph.calls if call.path.endswith("conv")]
        assert sorted(paths) == ["around/base/conv", "base/conv"]
        assert len(graph.known_as[id(inner.output)]) == 2
        np.testing.assert_allclose(run(graph, X), outputs(model, X), 1e-6)

    def test_other_sizes_and_whole_numbers(self):
        inner = base()
        image = keras.Input((None, None, 3), dtype="uint8")
        model = randomize(keras.Model(image, inner(image)))
        graph = flat_graph(model, [(1, 9, 7, 3)])
        assert graph.inputs[0].shape == (1, 9, 7, 3)
        assert [call.path for call in graph.calls][0] == "base/cast"
        assert graph.outputs[0].shape == (1, 4, 3, 4)
        x = X[:1, :9, :7].astype("uint8")
        np.testing.assert_allclose(run(graph, x), outputs(model, x), 1e-6)

    def test_without_a_graph(self):
        class Own(keras.Model):
            def call(self, x):
                return x

        for model in (Own(), keras.Sequential([layers.Dense(2)])):
            assert graph_of(model) is None and flat_graph(model) is None

    @pytest.mark.parametrize("training", [None, False])
    def test_a_base_that_is_held_in_inference(self, training):
        inside = keras.Input((4,))
        x = layers.BatchNormalization(name="bn")(inside)
        inner = keras.Model(inside, layers.Dropout(0.5, name="drop")(x), name="inner")
        image = keras.Input((4,))
        x = layers.Dropout(0.5, name="outer")(inner(image, training=training))
        calls = {call.path: call for call in flat_graph(keras.Model(image, x)).calls}
        held = {path: call.kwargs.get("training") for path, call in calls.items()}
        assert held == {"inner/bn": training, "inner/drop": training, "outer": None}


class TestPart:
    def parts(self, model, at=4):
        graph = flat_graph(model)
        middle = graph.calls[at - 1].outputs[0]
        first = Part(Stretch(graph.inputs, graph.calls[:at], middle))
        last = Part(Stretch((middle,), graph.calls[at:], graph.outputs[0]))
        return first, last

    def test_shares_layers_and_is_read_again(self):
        model = whole(base())
        first, last = self.parts(model)
        assert first.input_shape == (None, 12, 12, 3)
        assert first.output_shape == last.input_shape == (None, 5, 5, 4)
        assert last.compute_output_shape(None) == (None, 2)
        np.testing.assert_allclose(
            outputs(last, first(X)), outputs(model, X), rtol=1e-6
        )
        assert {id(w) for p in (first, last) for w in p.weights} == {
            id(w) for w in model.weights
        }
        graph = flat_graph(first)
        assert graph.calls == first.stretch.calls
        np.testing.assert_array_equal(run(graph, X), outputs(first, X))

    def test_another_operation(self):
        model = whole(base())
        _, last = self.parts(model)
        call = last.stretch.calls[-1]
        other = Part(
            last.stretch,
            lambda made: (
                (lambda x: 2.0 * call.operation(x)) if made is call else made.operation
            ),
        )
        x = images(2, 5, 5, 4)
        np.testing.assert_allclose(outputs(other, x), 2 * outputs(last, x), rtol=1e-6)
        assert [layer.name for layer in other.layers] == ["pool", "dense"]

    def test_predicts_and_trains(self):
        model = whole(base())
        first, last = self.parts(model)
        np.testing.assert_allclose(
            last.predict(first.predict(X, verbose=0), verbose=0),
            outputs(model, X),
            rtol=1e-5,
        )
        last.compile("sgd", "mse")
        before = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
        last.fit(images(2, 5, 5, 4), np.ones((2, 2)), verbose=0)
        after = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
        assert (before != after).any()


def test_a_graph_on_a_tensor_of_another():
    """The calls of one model go on from where another ends."""
    features = whole(base())
    x = features.outputs[0]
    inside = keras.Input(x.shape[1:])
    head = keras.Model(inside, keras.layers.Dense(3)(inside) * 2.0 + inside[:, :1])
    first, own = flat_graph(features), flat_graph(head)
    second = on_tensor(own, first.outputs[0])
    assert [call.path for call in second.calls] == [call.path for call in own.calls]
    table = {id(first.inputs[0]): X}
    run_calls([*first.calls, *second.calls], table)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(table[id(second.outputs[0])]),
        outputs(head, outputs(features, X)),
        rtol=1e-5,
        atol=1e-6,
    )
    assert own.inputs[0] is not first.outputs[0]  # the graph itself is as it was
