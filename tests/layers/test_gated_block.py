"""What the basic block and the bottleneck have in common."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dyngate import BinaryGate, GatedBasicBlock, GatedBottleneckBlock
from keras_dyngate._hooks import lowering, recording
from keras_dyngate.layers.links import run
from tests import reference
from tests.backend_utils import gradients
from tests.layer_checks import check_config
from tests.stubs import FixedController, built, images, torch_weights

pytestmark = pytest.mark.usefixtures("numpy_initializers")

BLOCKS = (GatedBasicBlock, GatedBottleneckBlock)
to_numpy = ops.convert_to_numpy


@pytest.mark.parametrize("cls", BLOCKS)
@pytest.mark.parametrize(
    ("shape", "filters", "strides", "shortcut"),
    [
        ((6, 7, 4), 4, 1, "projection"),
        ((6, 7, 4), 4, 2, "projection"),
        ((7, 6, 3), 4, 2, "pad"),
    ],
)
def test_plain_block_against_numpy(cls, shape, filters, strides, shortcut):
    """Zeros by one on all sides, also where the stride is 2 and the size even."""
    block = built(cls(filters, strides=strides, shortcut=shortcut), shape)
    x = images(2, *shape) / 255 - 0.3
    expected = reference.block(x, torch_weights(block), "b", strides)
    found = to_numpy(block(x))
    assert block.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    assert 0.1 < (expected > 0).mean() < 0.95


@pytest.mark.parametrize("cls", BLOCKS)
@pytest.mark.parametrize("rate", [2, 3])
def test_dilation_against_numpy(cls, rate):
    """A dilated kernel is a larger one with zeros between its weights."""
    shape = (7, 8, 5)
    gate = FixedController([[1, 0] * len(cls.masked), [1, 1] * len(cls.masked)])
    block = built(cls(4, channel_gate=gate, dilation_rate=rate), shape)
    plain = built(cls(4, channel_gate=gate), shape)
    x = images(2, *shape) / 255 - 0.3
    weights = torch_weights(block)
    for name, kernel in weights.items():
        if kernel.shape[2:] == (3, 3):
            weights[name] = np.zeros((*kernel.shape[:2], *[2 * rate + 1] * 2))
            weights[name][:, :, ::rate, ::rate] = kernel
    halves = np.split(np.repeat(gate.scores, 2, axis=1), len(cls.masked), axis=1)
    expected = reference.block(x, weights, "b", masks=halves)
    np.testing.assert_allclose(to_numpy(block(x)), expected, rtol=1e-4, atol=2e-5)
    assert block.compute_output_shape(x.shape) == expected.shape
    assert [row.macs for row in block.cost_rows((None, *shape))] == [
        row.macs for row in plain.cost_rows((None, *shape))
    ]


@pytest.mark.parametrize("cls", BLOCKS)
def test_dilation_is_kept_and_goes_without_strides(cls):
    check_config(cls(4, dilation_rate=2))
    assert cls.from_config(cls(4, dilation_rate=2).get_config()).dilation_rate == 2
    with pytest.raises(ValueError, match="`dilation_rate` must be 1.*strides=2"):
        cls(4, strides=2, dilation_rate=2)
    with pytest.raises(ValueError, match="`dilation_rate` must be a positive integer"):
        cls(4, dilation_rate=0)


@pytest.mark.parametrize(
    ("channels", "filters", "before", "after"), [(2, 4, 1, 1), (3, 8, 2, 3)]
)
def test_option_a_pads_channels_on_both_sides(channels, filters, before, after):
    block = built(GatedBasicBlock(filters, 2, shortcut="pad"), (5, 4, channels))
    x = images(2, 5, 4, channels)
    found = to_numpy(run(block.shortcut_links(), ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(
        found[..., before : before + channels], x[:, ::2, ::2]
    )
    assert found.shape == (2, 3, 2, filters)
    assert not found[..., :before].any() and not found[..., filters - after :].any()
    assert block.shortcut_conv is None


@pytest.mark.parametrize("cls", BLOCKS)
def test_a_shut_layer_leaves_the_shortcut(cls):
    gate = FixedController([[1], [0], [0]])
    block = built(cls(4, 2, layer_gate=gate), (6, 6, 3))
    x = ops.convert_to_tensor(images(3, 6, 6, 3))
    expected = to_numpy(ops.relu(run(block.shortcut_links(), x)))
    found = to_numpy(block(x))
    np.testing.assert_array_equal(found[1:], expected[1:])
    assert (found[0] != expected[0]).any()


@pytest.mark.parametrize("cls", BLOCKS)
def test_both_gates_against_numpy(cls):
    rng = np.random.default_rng(0)
    channel = rng.integers(0, 2, (4, 2 * len(cls.masked)))
    runs = [[1], [1], [0], [1]]
    block = cls(
        4, channel_gate=FixedController(channel), layer_gate=FixedController(runs)
    )
    built(block, (5, 5, 6))
    x = images(4, 5, 5, 6) / 255 - 0.3
    masks = np.split(np.repeat(channel, 2, axis=1), len(cls.masked), axis=1)
    expected = reference.block(
        x, torch_weights(block), "b", masks=masks, runs=np.ravel(runs)
    )
    np.testing.assert_allclose(to_numpy(block(x)), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("cls", BLOCKS)
def test_gates_see_the_input_of_the_block(cls):
    channel, layer = BinaryGate(4 * len(cls.masked), hidden=3), BinaryGate(1, hidden=3)
    block = cls(4, 2, channel_gate=channel, layer_gate=layer, name="b")
    built(block, (6, 6, 3), seed=2)
    x = images(6, 6, 6, 3)
    with recording() as found:
        block(x)
    runs = to_numpy(layer(x).score)
    parts = np.split(to_numpy(channel(x).score) * runs, len(cls.masked), axis=1)
    assert list(found) == ["b/channel", "b/channel_2", "b/layer"][: len(cls.masked)] + [
        "b/layer"
    ]
    np.testing.assert_array_equal(to_numpy(found["b/layer"]), runs)
    for key, expected in zip(block.channel_keys, parts, strict=True):
        np.testing.assert_array_equal(to_numpy(found[f"b/{key}"]), expected)
    assert 0 < runs.mean() < 1 and 0 < np.mean(parts) < runs.mean()


def test_a_shut_gate_can_learn_to_open():
    """The straight-through gradient reaches the logits of shut and open units alike."""
    gate = BinaryGate(4, hidden=3, seed=1)
    block = built(GatedBasicBlock(4, channel_gate=gate, name="b"), (5, 5, 4))
    gate.expand.bias.assign([-1.5, -1.0, 1.0, 1.5])
    x = images(2, 5, 5, 4) / 255
    _, gradient = gradients(
        lambda x: ops.sum(ops.square(block(x, training=True))),
        x,
        variables=[gate.expand.bias],
    )[1:]
    assert np.isfinite(gradient).all() and (gradient != 0).all()


def test_a_shut_layer_gate_can_learn_to_open():
    gate = BinaryGate(1, hidden=3, bias_initializer=-3.0, seed=1)
    block = built(GatedBasicBlock(4, layer_gate=gate, name="b"), (5, 5, 4))
    gate.expand.bias.assign([-3.0])
    x = images(2, 5, 5, 4) / 255
    _, gradient = gradients(
        lambda x: ops.sum(ops.square(block(x, training=True))),
        x,
        variables=[gate.expand.bias],
    )[1:]
    assert np.isfinite(gradient).all() and (gradient != 0).all()


@pytest.mark.parametrize("cls", BLOCKS)
def test_penalties_of_both_gates_reach_the_block(cls):
    block = cls(
        4,
        channel_gate=BinaryGate(2 * len(cls.masked), regularizers=["batch_shaping"]),
        layer_gate=BinaryGate(1, regularizers=["gate_sparsity", "batch_shaping"]),
    )
    x = images(3, 4, 4, 4)
    block(x)
    assert block.losses == []
    block(x, training=True)
    assert len(block.losses) == 3


def test_gates_from_identifiers():
    made = []

    def make(units):
        made.append(units)
        return BinaryGate(units, hidden=2)

    block = GatedBottleneckBlock(4, channel_gate=make, layer_gate="binary")
    assert made == [8] and block.group_size == 1
    assert (block.layer_gate.units, block.layer_gate.hidden) == (1, 16)
    assert GatedBasicBlock(4).group_size is None
    assert GatedBasicBlock(8, channel_gate=BinaryGate(2)).group_size == 4
    assert GatedBottleneckBlock(8, channel_gate=BinaryGate(4)).group_size == 4


def test_an_exporter_can_take_the_place_of_a_block():
    block = built(GatedBasicBlock(4, channel_gate="binary"), (4, 4, 4))
    x = ops.convert_to_tensor(images(2, 4, 4, 4))
    seen = []
    with lowering(lambda layer, x: seen.append((layer, x)) or x * 2), recording() as d:
        found = block(x)
    np.testing.assert_array_equal(to_numpy(found), 2 * to_numpy(x))
    assert seen[0][0] is block and d == {}
    expected = to_numpy(block(x))
    assert (to_numpy(found) != expected).any()
    with lowering(lambda layer, x: None):  # declined
        np.testing.assert_array_equal(to_numpy(block(x)), expected)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (GatedBasicBlock, {"filters": 0}, "`filters` must be a positive integer"),
        (GatedBasicBlock, {"filters": 4, "strides": 0}, "`strides` must be a positive"),
        (GatedBasicBlock, {"filters": 4, "shortcut": "c"}, "`shortcut` must be one of"),
        (
            GatedBasicBlock,
            {"filters": 4, "data_format": "channels_first"},
            "`data_format` must be 'channels_last'",
        ),
        (
            GatedBasicBlock,
            {"filters": 4, "channel_gate": BinaryGate(3)},
            "`channel_gate` must have 1 x a divisor of the 4 filters.* units=3",
        ),
        (
            GatedBottleneckBlock,
            {"filters": 4, "channel_gate": BinaryGate(1)},
            "`channel_gate` must have 2 x a divisor of the 4 filters.* units=1",
        ),
        (
            GatedBasicBlock,
            {"filters": 4, "layer_gate": BinaryGate(2)},
            "`layer_gate` must have one unit. Received: units=2",
        ),
        (
            GatedBasicBlock,
            {"filters": 4, "channel_gate": "soft"},
            "A gate must be None",
        ),
    ],
)
def test_bad_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_the_global_data_format_is_refused_too():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            GatedBasicBlock(4)
        assert GatedBasicBlock(4, data_format="channels_last").filters == 4
    finally:
        keras.config.set_image_data_format(before)


def test_bad_input_shapes():
    with pytest.raises(ValueError, match="number of input channels must be known"):
        GatedBasicBlock(4).build((None, 4, 4, None))
    with pytest.raises(ValueError, match="cannot take any away. Received: 8 .* 4 out"):
        GatedBasicBlock(4, shortcut="pad").build((None, 4, 4, 8))
