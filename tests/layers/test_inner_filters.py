"""Blocks whose gated activations are not as wide as their output."""

import keras
import numpy as np
import pytest

from keras_dyngate import GatedBasicBlock, GatedBottleneckBlock, count_macs
from tests import reference
from tests.layer_checks import check_config
from tests.stubs import FixedController, images, randomize


def torch_weights(block):
    """The block's variables by PyTorch's names and layouts."""
    found = {}
    layers = [*block.convs, *block.norms]
    if block.shortcut_conv is not None:
        layers += [block.shortcut_conv, block.shortcut_norm]
    for layer in layers:
        name = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(
            layer.name, layer.name
        )
        values = [keras.ops.convert_to_numpy(w) for w in layer.weights]
        if len(values) == 1:
            found[f"b.{name}.weight"] = values[0].transpose(3, 2, 0, 1)
        else:
            keys = ("weight", "bias", "running_mean", "running_var")
            found |= {f"b.{name}.{k}": v for k, v in zip(keys, values, strict=True)}
    return found


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(
    "cls, masks", [(GatedBasicBlock, 1), (GatedBottleneckBlock, 2)]
)
def test_computes_what_narrower_convolutions_compute(cls, masks, strides):
    rng = np.random.default_rng(0)
    scores = rng.random((3, masks * 6)) < 0.5
    gate = FixedController(scores)
    block = cls(8, strides, channel_gate=gate, inner_filters=6)
    x = images(3, 6, 6, 8) / 100
    block.build(x.shape)
    randomize(block)
    assert block.convs[0].kernel.shape[-1] == block.convs[1].kernel.shape[2] == 6
    expected = reference.block(
        x, torch_weights(block), "b", strides, masks=np.split(scores, masks, axis=1)
    )
    assert expected.shape[-1] == 8 * cls.expansion
    output = keras.ops.convert_to_numpy(block(x))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    assert block.compute_output_shape(x.shape) == expected.shape


def test_macs_follow_the_inner_channels():
    image = keras.Input((5, 5, 8))
    block = GatedBasicBlock(8, channel_gate="binary", inner_filters=6)
    profile = count_macs(keras.Model(image, block(image)))
    assert profile.gateable == 25 * 9 * (8 * 6 + 6 * 8)
    assert profile.controllers == 16 * (8 + 6)
    rng = np.random.default_rng(1)
    is_open = rng.random((4, 6)) < 0.4
    by_hand = profile.controllers + is_open.sum(1) * 2 * 25 * 9 * 8
    decisions = {f"{block.name}/channel": is_open}
    np.testing.assert_array_equal(profile.of(decisions), by_hand)
    pairs = is_open.reshape(4, 3, 2).any(-1).sum(1)
    by_hand = profile.controllers + pairs * 4 * 25 * 9 * 8
    np.testing.assert_array_equal(profile.of(decisions, 2), by_hand)
    with pytest.raises(ValueError, match="block's 6 channels"):
        profile.of(decisions, 4)


@pytest.mark.parametrize("inner", [None, 6])
@pytest.mark.parametrize("cls", [GatedBasicBlock, GatedBottleneckBlock])
def test_config(cls, inner):
    block = cls(8, channel_gate="binary", inner_filters=inner)
    check_config(block)
    assert block.channel_gate.units == block.masks * (inner or 8)
    assert block.group_size == 1


def test_refuses_a_gate_of_other_channels_and_no_channels():
    with pytest.raises(ValueError, match="divisor of the 6 filters.*units=4"):
        GatedBasicBlock(
            8, channel_gate=FixedController(np.ones((1, 4))), inner_filters=6
        )
    with pytest.raises(ValueError, match="`inner_filters`.*Received: inner_filters=0"):
        GatedBasicBlock(8, inner_filters=0)
