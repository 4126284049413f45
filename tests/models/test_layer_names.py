"""Weights go from one net of anybody's to another, gated or not."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.models.gating.nets import mobile, nested, pictures, segmenter
from tests.stubs import outputs, randomize

NETS = {"mobile": mobile, "nested": nested, "segmenter": segmenter}
WAYS = {
    "plain": lambda m: keras.models.clone_model(m),
    "channels": kd.add_channel_gates,
    "layers": kd.add_layer_gates,
    "both": lambda m: kd.add_layer_gates(kd.add_channel_gates(m)),
}
CASES = [
    (net, way)
    for net in NETS
    for way in WAYS
    if (net, way) not in {("nested", "layers"), ("nested", "both")}
]


@pytest.mark.parametrize("net, way", CASES)
def test_from_the_plain_net_and_back(net, way):
    source, x = NETS[net](), pictures(2)
    target = randomize(WAYS[way](NETS[net]()), 7)
    back = randomize(NETS[net](), 8)
    expected = outputs(source, x)
    assert not np.allclose(outputs(back, x), expected, atol=1e-2)
    kd.load_trunk_weights(target, source)
    if way == "plain":
        found = outputs(target, x)
    else:
        with kd.force_open_rate(target, 1.0):
            found = outputs(target, x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    kd.load_trunk_weights(back, target)
    np.testing.assert_array_equal(outputs(back, x), expected)


def test_another_number_of_classes_and_another_trunk():
    source, target = mobile(), kd.add_channel_gates(mobile(classes=3))
    top = [np.asarray(keras.ops.convert_to_numpy(v)) for v in target.layers[-1].weights]
    randomize(target.get_layer("stem"), 5)
    kd.load_trunk_weights(target, source)
    for ours, theirs in zip(
        target.get_layer("stem").weights, source.get_layer("stem").weights, strict=True
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )
    for variable, old in zip(target.layers[-1].weights, top, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), old)
    with pytest.raises(ValueError, match="another architecture"):
        kd.load_trunk_weights(segmenter(), source)


def test_nets_whose_layers_have_names_of_ours():
    """Of EfficientNetB0 not the stem alone; MobileNetV3 ends in an activation."""
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 4}
    for make in (
        keras.applications.EfficientNetB0,
        keras.applications.MobileNetV3Small,
    ):
        source, target = make(**options), make(**options)
        for variable in source.weights:
            variable.assign(variable + 0.25)
        kd.load_trunk_weights(target, source)
        for ours, theirs in zip(target.weights, source.weights, strict=True):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
            )
