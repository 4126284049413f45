import numpy as np
import pytest
from keras import ops

from keras_dyngate import BatchShaping, BinaryGate, GatedBasicBlock, GateSparsity
from keras_dyngate.layers.gated_chain import spread
from tests import reference
from tests.layer_checks import run_layer_test
from tests.stubs import FixedController, built, images, torch_weights


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_layer(tmp_path, shortcut):
    run_layer_test(
        lambda: GatedBasicBlock(
            6,
            strides=2,
            channel_gate=BinaryGate(3, hidden=4, seed=1, regularizers=[BatchShaping()]),
            layer_gate=BinaryGate(
                1, hidden=4, seed=2, regularizers=[GateSparsity(0.1)]
            ),
            shortcut=shortcut,
            bn_epsilon=1e-4,
            bn_momentum=0.8,
        ),
        (7, 6, 4),
        (4, 3, 6),
        tmp_path / "block.keras",
    )


def test_a_shut_channel_is_a_removed_filter(numpy_initializers):
    """A net without the filter, its BN and the second convolution's input slice."""
    is_open = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
    block = built(
        GatedBasicBlock(4, 2, channel_gate=FixedController(is_open)), (5, 6, 3)
    )
    x = images(3, 5, 6, 3) / 255 - 0.3
    found = ops.convert_to_numpy(block(x))
    for image, keep, y in zip(x, is_open == 1, found, strict=True):
        smaller = dict(torch_weights(block))
        smaller["b.conv1.weight"] = smaller["b.conv1.weight"][keep]
        smaller["b.conv2.weight"] = smaller["b.conv2.weight"][:, keep]
        for part in ("weight", "bias", "running_mean", "running_var"):
            smaller[f"b.bn1.{part}"] = smaller[f"b.bn1.{part}"][keep]
        expected = reference.block(image[None], smaller, "b", 2)[0]
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5)


def test_a_unit_covers_neighbouring_channels():
    y = ops.zeros((1, 5, 5, 6))
    mask = spread(ops.convert_to_tensor([[1.0, 0.0, 1.0]]), y)
    assert tuple(mask.shape) == (1, 1, 1, 6)
    assert ops.convert_to_numpy(mask).ravel().tolist() == [1, 1, 0, 0, 1, 1]


def test_macs_of_the_units():
    gate = BinaryGate(3)
    block = GatedBasicBlock(6, 2, channel_gate=gate, layer_gate=BinaryGate(1))
    block.build((None, 7, 6, 4))
    kernels = 4 * 3 * 9 * (4 * 6 + 6 * 6)
    assert gate.unit_macs.tolist() == [kernels // 3] * 3
    assert block.layer_gate.unit_macs.tolist() == [kernels]
