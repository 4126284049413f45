import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.models.inverted_residuals import (
    Stage,
    build_inverted_residuals,
    divisible,
)
from tests.export.nets import enliven, spread_gates
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

BOTH = kd.Gates(groups=2, layer="binary")
STAGES = [
    Stage(3, 1, 16, 1, 1),  # a shortcut, and no chain
    Stage(5, 2, 24, 2, 4),
    Stage(3, 1, 24, 1, 2),
]


def net(**arguments):
    usual = {
        "gates": BOTH,
        "side": 24,
        "mean": 0.5,
        "std": 0.25,
        "include_top": True,
        "weights": None,
        "input_shape": None,
        "pooling": None,
        "classes": 5,
        "classifier_activation": "softmax",
        "name": "mobile",
        "include_preprocessing": True,
    }
    return build_inverted_residuals(16, STAGES, 40, **{**usual, **arguments})


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(3, 8), (8, 8), (11.2, 16), (11.9, 16), (17.6, 16), (20, 24), (28.8, 32), (5, 8)],
)
def test_divisible(channels, expected):
    """11.2 is nearer to 8, which is less than 0.9 of it."""
    assert divisible(channels) == expected


def test_names_and_places_of_gates():
    model = net()
    names = [layer.name for layer in model.layers if layer.weights]
    plain = ("depthwise_conv", "depthwise_bn", "project_conv", "project_bn")
    assert [name for name in names if name != "preprocessing"] == [
        "stem_conv",
        "stem_bn",
        *(f"stage1_block1_{part}" for part in plain),
        "stage2_block1",
        "stage2_block2",
        "stage3_block1",
        "head_conv",
        "head_bn",
        "predictions",
    ]
    decisions = [
        f"{layer.name}/{item.key}"
        for layer in dynamic_layers(model)
        for item in layer.decisions()
    ]
    assert decisions == [
        "stage2_block1/channel",
        "stage2_block2/channel",
        "stage2_block2/layer",
        "stage3_block1/channel",
        "stage3_block1/layer",
    ]
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-3, 0.99)}


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"dropout_rate": 0.5}, (None, 5)),
        ({"include_top": False, "dropout_rate": 0.5}, (None, 6, 6, 40)),
        ({"include_top": False, "pooling": "max"}, (None, 40)),
        ({"include_top": False, "input_shape": (None, 33, 4)}, (None, None, 9, 40)),
    ],
)
def test_heads(arguments, shape):
    model = net(**arguments)
    assert model.output_shape == shape
    dropouts = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert dropouts == [0.5] * (len(shape) == 2 and "dropout_rate" in arguments)


def test_normalization_is_inside():
    raw = randomize(net(gates=None, include_preprocessing=False))
    full = kd.load_trunk_weights(net(gates=None), raw)
    x = images(2, 24, 24, 3)
    expected = outputs(raw, (x / 255.0 - 0.5) / 0.25)
    np.testing.assert_allclose(outputs(full, x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_own_files(tmp_path, ending):
    """Those of nets with gates; a net of keras.applications is not asked for."""
    source = randomize(net())
    path = tmp_path / f"net{ending}"
    (source.save if ending == ".keras" else source.save_weights)(path)
    x = images(3, 24, 24, 3)
    found = net(weights=path, theirs=lambda classes: pytest.fail("was asked for"))
    np.testing.assert_array_equal(outputs(found, x), outputs(source, x))
    if ending == ".keras":
        loaded = keras.saving.load_model(path)
        np.testing.assert_array_equal(outputs(loaded, x), outputs(source, x))


def test_gates_travel_and_plain_nets_take_the_trunk():
    source = randomize(net())
    x = images(3, 24, 24, 3)
    again = kd.load_trunk_weights(net(), source)
    np.testing.assert_array_equal(outputs(again, x), outputs(source, x))
    plain = kd.load_trunk_weights(net(gates=None), source)
    with kd.force_open_rate(source, 1.0):
        expected = outputs(source, x)
    np.testing.assert_allclose(outputs(plain, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.heavy
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)
def test_in_a_file(tmp_path):
    model = enliven(net(classifier_activation=None))
    x = images(8, 24, 24, 3)
    spread_gates(model, x)
    decisions, expected = kd.decide(model, x), outputs(model, x)
    assert all(0 < values.mean() < 1 for values in decisions.values())
    kd.export_tflite(model, tmp_path / "net.tflite", parity_data=False)
    file = kd.LiteRTModel(tmp_path / "net.tflite")
    macs = kd.count_macs(model).of(decisions)
    assert len(set(macs)) > 1
    for index, image in enumerate(x):
        answer = file.run("explain", image=image)
        logits = answer["logits"][0]
        np.testing.assert_allclose(logits, expected[index], rtol=1e-4, atol=1e-4)
        assert abs(answer["executed_macs"][0] - macs[index] / 1000) <= 1
        for key, values in decisions.items():
            np.testing.assert_array_equal(np.ravel(answer[key]), values[index])
