"""Heads of all kinds, cut before their last linear layer, and what a file makes of them."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate._graph import flat_graph  # noqa: E402
from keras_dyngate.export.float_kernels import float_kernels  # noqa: E402
from keras_dyngate.export.plan.exit_parts import ExitParts, Head  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import (  # noqa: E402
    assert_answers,
    column,
    conv_net,
    only_builtins,
    pooled_scores,
    tinted,
    tiny_first,
    with_exits,
)

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

X = tinted(40)


def ending(*layers):
    """A head from vectors of 6, that ends in some layers."""
    x = image = keras.Input((6,))
    for layer in layers:
        x = layer(x)
    return Head.of(flat_graph(keras.Model(image, x)))


@pytest.mark.parametrize(
    "layers, front, last",
    [
        ([keras.layers.Dense(3)], 0, 1),
        ([keras.layers.Dense(5), keras.layers.Dense(3, activation="softmax")], 1, 1),
        ([keras.layers.Dense(3), keras.layers.Dropout(0.1)], 0, 2),
        ([keras.layers.Dense(3), keras.layers.Softmax()], 0, 2),
        ([keras.layers.Dense(3), keras.layers.ReLU()], 2, 0),
        ([keras.layers.Rescaling(2.0), keras.layers.Softmax()], 2, 0),
    ],
)
def test_a_head_is_cut_before_its_last_linear_layer(layers, front, last):
    found = ending(*layers)
    assert (len(found.front.calls), len(found.last.calls)) == (front, last)
    assert (found.linear is not None) == bool(last)
    if last:
        assert found.linear is found.last.calls[0]
        assert found.last.inputs[0] is found.front.output


def test_scores_are_keras_own():
    model = with_exits(conv_net(), ["a", "b"], X, "score", head=["conv", pooled_scores])
    parts, outputs = ExitParts(model), model(X[:5], training=False)
    x = keras.ops.convert_to_tensor(X[:5])
    for index, gate in enumerate(model.gates):
        x = parts.features(index, x)
        np.testing.assert_allclose(
            parts.scores(index, x), outputs[gate.name], rtol=1e-4, atol=1e-4
        )
    kernel = model.gates[0].graph.calls[-1].operation.kernel
    np.testing.assert_array_equal(parts.kernel(0), kernel)
    assert parts.kernel(1) is None and not parts.first


def test_means_are_kept_in_heads_too():
    model = with_exits(conv_net(), ["b"], X, "score", head="conv", first=tiny_first())
    layers = {
        stage: [call.operation for call in gate.graph.calls]
        for stage, gate in enumerate(model.gates)
    }
    for int8 in (False, True):
        parts = ExitParts(model)
        parts.keep_means(X[:16], int8)
        shifted = set(parts.prepared.shifts)
        norms = {
            stage: [x for x in found if isinstance(x, keras.layers.BatchNormalization)]
            for stage, found in layers.items()
        }
        assert id(norms[0][0].moving_mean) in shifted
        # A kernel of fewer than 1,024 numbers is rounded in int8 alone.
        assert (id(norms[1][0].moving_mean) in shifted) == int8


def vectors():
    """A trunk of vectors, with a head of dense layers."""
    keras.utils.set_random_seed(0)
    layers, x = keras.layers, np.random.default_rng(0).normal(size=(40, 12))
    image = h = keras.Input((12,))
    h = layers.Dense(24, activation="relu", name="a")(h)
    h = layers.Dense(7)(layers.Dense(24, activation="relu")(h))
    x = x.astype("float32")
    dense = lambda shape: keras.Sequential(  # noqa: E731
        [keras.Input(shape), layers.Dense(20, activation="relu"), layers.Dense(7)]
    )
    model = with_exits(keras.Model(image, h), ["a"], x, "probability", head=dense)
    return model, x, {"FULLY_CONNECTED": 2}


def generic():
    """A head without a linear layer: all of it is int8."""
    model = with_exits(conv_net(), ["a"], X, "margin", head=pooled_scores)
    return model, X, {}


def separable():
    """Wide enough for kernels that are rounded in "dynamic" files too."""
    layers = keras.layers

    def head(shape):
        return keras.Sequential(
            [
                keras.Input(shape),
                layers.SeparableConv2D(72, 3, strides=2, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(6.0),
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.2),
                layers.Dense(7, activation="softmax"),
            ]
        )

    model = with_exits(conv_net(), ["a"], X, "entropy", head=head)
    return model, X, {"FULLY_CONNECTED": 2}


@pytest.mark.parametrize("quantization", [None, "dynamic", "int8"])
@pytest.mark.parametrize("make", [vectors, generic, separable])
def test_files_answer_as_keras(tmp_path, make, quantization):
    model, x, in_float = make()
    kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization=quantization,
        representative_data=x,
        parity_data=False,
        calibration_samples=16,
    )
    litert, predicted = kd.LiteRTModel(tmp_path / "a.tflite"), model.predict(x)
    content = litert.path.read_bytes()
    assert only_builtins(content)
    if quantization == "int8":
        assert float_kernels(flatbuffer.read(content)) == in_float
    found = [litert.run("classify", image=image) for image in x]
    if quantization is None:
        for index, answer in enumerate(found):
            assert_answers(answer, predicted, index)
        return
    same = column(found, "exit") == predicted["exit"]
    assert same.mean() >= 0.85
    assert (column(found, "label") == predicted["label"])[same].mean() >= 0.9


def test_a_head_with_a_loop_is_refused_in_int8(tmp_path):
    layers = keras.layers

    def head(shape):
        rows = layers.Reshape((shape[0], shape[1] * shape[2]))
        return keras.Sequential(
            [keras.Input(shape), rows, layers.GRU(4), layers.Dense(7)]
        )

    model = kd.add_decision_gates(conv_net(), ["b"], head=head)
    model.thresholds = [0.5]
    with pytest.raises(ValueError, match="must not be 'int8' for recurrent layers"):
        kd.export_tflite(
            model, tmp_path / "a.tflite", quantization="int8", representative_data=X
        )
