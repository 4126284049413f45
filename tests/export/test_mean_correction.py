"""Features keep their means where kernels are rounded to 8 bits."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from keras_dyngate._graph import Stretch, flat_graph
from keras_dyngate.export.lowering import weights_as_constants
from keras_dyngate.export.mean_correction import keep_means, rounded
from keras_dyngate.export.preparing import Prepared
from tests.export.nets import tinted

layers = keras.layers
X = tinted(24)


def test_rounded_by_hand():
    kernel = np.array([[1.27, -2.54], [0.006, 0.031], [0.0, 0.0]])
    found = rounded(kernel, (1,))  # steps of .01 and .02
    np.testing.assert_allclose(found, [[1.27, -2.54], [0.01, 0.04], [0.0, 0.0]])
    alone = rounded(kernel, (0, 1))  # each number has a scale of its own
    np.testing.assert_allclose(alone, kernel)


def net(between=lambda x: layers.BatchNormalization(name="norm")(x), bias=False):
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="first")(
        layers.Rescaling(1 / 255)(image)
    )
    x = layers.Conv2D(48, 3, use_bias=bias, strides=2, padding="same", name="conv")(x)
    x = layers.ReLU()(between(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def means_after(model, prepared, name):
    """Mean of each channel after a layer, all of the net's weights as in a file."""
    graph = flat_graph(model)
    index = [call.path for call in graph.calls].index(name)
    stretch = Stretch(graph.inputs, graph.calls[: index + 1], None)
    output = stretch.calls[-1].outputs[0]
    stretch = Stretch(graph.inputs, stretch.calls, output)
    prepared_again = Prepared(stretch.calls, graph)
    with weights_as_constants(prepared_again.layers, prepared.shifts):
        found = prepared_again.run(stretch, keras.ops.convert_to_tensor(X))
    return keras.ops.convert_to_numpy(found).mean((0, 1, 2))


def round_kernels(model, names):
    for name in names:
        layer = model.get_layer(name)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        channels = (2, 3) if name == "depthwise" else (3,)
        layer.kernel.assign(rounded(kernel, channels) + 0.01 * (kernel > 0.05))


@pytest.mark.parametrize("bias", [False, True])
def test_the_mean_after_a_rounded_kernel_is_that_before(bias, monkeypatch):
    """With an error that is large, and the same in every image."""

    def coarse(kernel, channels):
        return rounded(kernel, channels) + 0.01 * (kernel > 0.05)

    monkeypatch.setattr("keras_dyngate.export.mean_correction.rounded", coarse)
    between = (
        (lambda x: x) if bias else (lambda x: layers.BatchNormalization(name="n")(x))
    )
    model = net(between, bias)
    graph, after = flat_graph(model), "conv" if bias else "n"
    prepared = Prepared(graph.calls, graph)
    before = means_after(model, prepared, after)
    weights = model.get_weights()
    keep_means(prepared, graph.inputs[0], graph.calls, X, int8=False)
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)  # the model stays as it is
    assert len(prepared.shifts) == 1  # `first` has 432 numbers, depthwise is in float
    round_kernels(model, ["conv"])
    kept = means_after(model, prepared, after)
    lost = means_after(model, Prepared(graph.calls, graph), after)
    assert np.abs(lost - before).max() > 0.05 * before.std()
    np.testing.assert_allclose(kept, before, atol=1e-5)


def test_what_is_corrected_in_int8():
    model = net()
    graph = flat_graph(model)
    prepared = Prepared(graph.calls, graph)
    keep_means(prepared, graph.inputs[0], graph.calls, X, int8=True)
    variables = [
        model.get_layer("first").bias,
        model.get_layer("norm").moving_mean,
        model.get_layer("depthwise").bias,
    ]
    assert set(prepared.shifts) == {id(variable) for variable in variables}


@pytest.mark.parametrize(
    "between",
    [
        lambda x: layers.BatchNormalization()(layers.ReLU()(x)),  # not right behind it
        lambda x: layers.Add()([x, layers.BatchNormalization()(x)]),  # needed elsewhere
        lambda x: layers.BatchNormalization(axis=1)(x),
    ],
)
def test_an_error_without_a_place_to_go_is_left(between):
    graph = flat_graph(net(between))
    prepared = Prepared(graph.calls, graph)
    keep_means(prepared, graph.inputs[0], graph.calls, X, int8=False)
    assert prepared.shifts == {}


def test_a_shared_layer_is_left():
    image = keras.Input((12, 12, 16))
    conv = layers.Conv2D(16, 3, padding="same")
    model = keras.Model(image, layers.Flatten()(conv(conv(image))))
    graph = flat_graph(model)
    prepared = Prepared(graph.calls, graph)
    keep_means(prepared, graph.inputs[0], graph.calls, np.ones((2, 12, 12, 16)), True)
    assert prepared.shifts == {}


def test_a_file_is_closer_to_keras(tmp_path):
    """Kernels far from 8 bits, behind a ReLU: most of their error is a mean."""
    model = net()
    layer = model.get_layer("conv")
    kernel = np.abs(keras.ops.convert_to_numpy(layer.kernel)) * 0.02
    kernel[0, 0, 0] = 1.0  # what sets the step, .008
    layer.kernel.assign(kernel)
    norm = model.get_layer("norm")
    norm.moving_variance.assign(np.full(48, 0.01))
    differences = []
    for data in (None, X):
        report = kd.export_tflite(
            model,
            tmp_path / "net.tflite",
            quantization="dynamic",
            representative_data=data,
            parity_data=X,
        )
        differences.append(report.parity.max_difference)
    assert differences[1] < 0.5 * differences[0]


@pytest.mark.parametrize("int8", [False, True])
def test_both_kernels_of_a_separable_convolution(int8, monkeypatch):
    def coarse(kernel, channels):
        return rounded(kernel, channels) + 0.01 * (kernel > 0.05)

    monkeypatch.setattr("keras_dyngate.export.mean_correction.rounded", coarse)
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.SeparableConv2D(
        48, 3, strides=2, depth_multiplier=16, use_bias=False, name="both"
    )(x)
    model = keras.Model(image, layers.BatchNormalization(name="norm")(x))
    graph, both = flat_graph(model), model.get_layer("both")
    prepared = Prepared(graph.calls, graph)
    before = means_after(model, prepared, "norm")
    keep_means(prepared, graph.inputs[0], graph.calls, X, int8)
    for variable, channels, is_rounded in (
        (both.depthwise_kernel, (2, 3), int8),
        (both.pointwise_kernel, (3,), True),
    ):
        if is_rounded:
            variable.assign(coarse(keras.ops.convert_to_numpy(variable), channels))
    kept = means_after(model, prepared, "norm")
    lost = means_after(model, Prepared(graph.calls, graph), "norm")
    assert np.abs(lost - before).max() > 0.05 * before.std()
    np.testing.assert_allclose(kept, before, atol=1e-5)
