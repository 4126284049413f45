import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate import BatchShaping, BinaryGate, GatedInvertedResidual, GateSparsity
from keras_dyngate.layers.links import run
from tests.layer_checks import check_config, run_layer_test
from tests.stubs import FixedController, built, images

pytestmark = pytest.mark.usefixtures("numpy_initializers")
layers = keras.layers
to_numpy = ops.convert_to_numpy


def test_layer(tmp_path):
    run_layer_test(
        lambda: GatedInvertedResidual(
            4,
            12,
            kernel_size=5,
            channel_gate=BinaryGate(6, hidden=4, seed=3, regularizers=[BatchShaping()]),
            layer_gate=BinaryGate(
                1, hidden=4, seed=4, regularizers=[GateSparsity(0.1)]
            ),
            activation="silu",
            squeeze_filters=3,
            bn_epsilon=1e-4,
            bn_momentum=0.8,
        ),
        (7, 6, 4),
        (7, 6, 4),
        tmp_path / "block.keras",
    )


def test_strided_layer(tmp_path):
    run_layer_test(
        lambda: GatedInvertedResidual(4, 6, strides=2, channel_gate="salience"),
        (7, 6, 3),
        (4, 3, 4),
        tmp_path / "block.keras",
    )


def by_keras(block, shape, pad):
    """The same in Keras' own layers; `pad`: zeros around, then "valid", as MobileNetV2."""
    epsilon, act = {"epsilon": block.bn_epsilon}, block.activation
    conv = {"use_bias": False}
    made = [
        layers.Conv2D(block.inner_filters, 1, **conv),
        layers.BatchNormalization(**epsilon),
        layers.Activation(act),
        layers.DepthwiseConv2D(
            block.kernel_size,
            strides=block.strides,
            padding="valid" if pad else "same",
            **conv,
        ),
        layers.BatchNormalization(**epsilon),
        layers.Activation(act),
        layers.Conv2D(block.filters, 1, **conv),
        layers.BatchNormalization(**epsilon),
    ]
    if pad:
        half = block.kernel_size // 2
        sides = [(half - (1 - n % 2), half) for n in shape[:2]]
        made.insert(3, layers.ZeroPadding2D(sides))
    model = keras.Sequential([keras.Input(shape), *made])
    values = [
        to_numpy(w) for link in block.links() for w in getattr(link, "weights", ())
    ]
    model.set_weights(values)
    return model


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(
    ("strides", "filters", "pad"),
    [(1, 4, False), (1, 6, False), (2, 4, False), (2, 4, True)],
)
def test_plain_block_against_keras(strides, filters, pad, size):
    shape = (7, 8, 4)
    block = built(GatedInvertedResidual(filters, 12, size, strides), shape)
    x = images(2, *shape) / 64 - 1
    expected = to_numpy(by_keras(block, shape, pad)(x))
    if strides == 1 and filters == 4:
        expected = expected + x
    found = to_numpy(block(x))
    assert block.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    wide = to_numpy(run(block.links()[:3], ops.convert_to_tensor(x)))
    assert 0.05 < (wide == 6.0).mean() + (wide == 0.0).mean() < 0.95


@pytest.mark.parametrize("squeeze", [None, 3])
@pytest.mark.parametrize("strides", [1, 2])
def test_shut_channels_are_removed_filters(strides, squeeze):
    scores = np.array([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
    shape, options = (5, 6, 4), {"strides": strides, "squeeze_filters": squeeze}
    block = built(
        GatedInvertedResidual(4, 6, channel_gate=FixedController(scores), **options),
        shape,
    )
    x = images(3, *shape) / 64 - 1
    found = to_numpy(block(x))
    for image, keep, y in zip(x[:2], scores == 1, found, strict=False):
        kept = np.flatnonzero(keep)
        narrow = built(GatedInvertedResidual(4, len(kept), **options), shape)
        for ours, theirs in zip(narrow.weights, block.weights, strict=True):
            value = to_numpy(theirs)
            for axis, (few, many) in enumerate(
                zip(ours.shape, theirs.shape, strict=True)
            ):
                if few != many:
                    value = np.take(value, kept, axis)
            ours.assign(value)
        np.testing.assert_allclose(
            y, to_numpy(narrow(image[None]))[0], rtol=1e-4, atol=1e-5
        )
    # With all shut, the last normalization is left of the branch.
    norm = block.project[1]
    nothing = to_numpy(norm(ops.zeros((1, 1, 1, 4)), training=False))
    expected = nothing[0] + (x[2] if strides == 1 else 0)
    np.testing.assert_allclose(found[2] - expected, 0, atol=1e-5)


def test_a_shut_layer_leaves_the_input():
    gate = FixedController([[1], [0]])
    block = built(GatedInvertedResidual(4, 8, layer_gate=gate), (5, 5, 4))
    x = images(2, 5, 5, 4)
    found = to_numpy(block(x))
    np.testing.assert_array_equal(found[1], x[1])
    assert (found[0] != x[0]).any()


def test_it_is_counted_by_hand():
    image = keras.Input((6, 8, 4))
    block = GatedInvertedResidual(
        4,
        12,
        5,
        channel_gate="binary",
        layer_gate="binary",
        squeeze_filters=3,
        name="b",
    )
    profile = kd.count_macs(keras.Model(image, block(image)))
    pixels, asks = 48, 16 * (4 + 12)
    each = pixels * (4 + 25 + 4)  # of one wide channel, in all three kernels
    assert profile.total == 12 * each + 2 * 12 * 3
    assert profile.controllers == asks + 16 * (4 + 1)
    gate = profile.controllers - asks
    channels = np.zeros((3, 12))
    channels[1, :5] = channels[2] = 1
    runs = np.array([[0], [1], [1]])
    decisions = {"b/channel": channels * runs, "b/layer": runs}
    np.testing.assert_array_equal(
        profile.of(decisions), [gate, *(gate + asks + n * each + 72 for n in (5, 12))]
    )
    strided = GatedInvertedResidual(6, 12, 3, 2, channel_gate="binary", name="b")
    profile = kd.count_macs(keras.Model(image, strided(image)))
    assert profile.total == 12 * (48 * 4 + 12 * 9 + 12 * 6)


@keras.saving.register_keras_serializable(package="tests")
def leaky(x):
    return ops.leaky_relu(x, 0.1)


def test_config():
    for options in ({}, {"activation": leaky}, {"squeeze_filters": 2, "strides": 2}):
        check_config(GatedInvertedResidual(4, 8, **options))
    again = GatedInvertedResidual(4, 8, activation=leaky).get_config()
    assert GatedInvertedResidual.from_config(again).activation is leaky
    block = GatedInvertedResidual(4, 8, channel_gate="binary", layer_gate="binary")
    assert (block.channel_gate.units, block.layer_gate.units) == (8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "`filters` must be a positive integer"),
        ({"inner_filters": 0}, "`inner_filters` must be a positive integer"),
        ({"kernel_size": 0}, "`kernel_size` must be a positive integer"),
        ({"strides": 0}, "`strides` must be a positive integer"),
        ({"squeeze_filters": 0}, "`squeeze_filters` must be a positive integer"),
        ({"activation": "softmax"}, "`activation` must treat every .*'softmax'"),
        ({"data_format": "channels_first"}, "`data_format` must be 'channels_last'"),
        (
            {"channel_gate": BinaryGate(3)},
            "`channel_gate` must have 1 x a divisor of the 8 wide channels.* units=3",
        ),
        ({"layer_gate": BinaryGate(2)}, "`layer_gate` must have one unit.*units=2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatedInvertedResidual(**{"filters": 4, "inner_filters": 8, **arguments})


@pytest.mark.parametrize("options", [{"strides": 2}, {"filters": 6}])
def test_a_layer_gate_needs_a_shortcut(options):
    block = GatedInvertedResidual(
        **{"filters": 4, "inner_filters": 8, "layer_gate": "binary", **options}
    )
    with pytest.raises(
        ValueError, match="`layer_gate` needs a shortcut.*Received: str"
    ):
        block.build((None, 6, 6, 4))


def test_unknown_channels():
    with pytest.raises(ValueError, match="number of input channels must be known"):
        GatedInvertedResidual(4, 8).build((None, 6, 6, None))
