import numpy as np
import pytest
from keras import ops

from keras_dyngate import (
    BinaryGate,
    ControllerOutput,
    GatedBottleneckBlock,
    GateSparsity,
)
from tests.backend_utils import gradients
from tests.layer_checks import check_config

T = np.random.default_rng(0).normal(0, 2, (9, 4)).astype("float32")
P = 1 / (1 + np.exp(-T.astype("float64")))
MACS = np.array([1_000_000, 2_000_000, 0, 500_000])


def output(t):
    t = ops.convert_to_tensor(t)
    return ControllerOutput(ops.cast(t > 0, "float32"), t)


@pytest.mark.parametrize(
    ("weighting", "reduction", "expected"),
    [
        (None, "sum", P.mean(axis=0).sum()),
        (None, "mean", P.mean()),
        ("macs", "sum", (P.mean(axis=0) * [1, 2, 0, 0.5]).sum()),
        ("macs", "mean", (P.mean(axis=0) * [1, 2, 0, 0.5]).sum() / 3.5),
    ],
)
def test_value(weighting, reduction, expected):
    item = GateSparsity(weighting=weighting, reduction=reduction)
    np.testing.assert_allclose(float(item(output(T), MACS)), expected, rtol=1e-6)
    check_config(item)


def test_gradient_is_that_of_the_probability():
    _, gradient = gradients(lambda t: GateSparsity()(output(t)), T)
    np.testing.assert_allclose(gradient, P * (1 - P) / 9, rtol=1e-5, atol=1e-8)


def test_macs_are_those_of_the_block_that_holds_the_gate():
    """Each unit of a bottleneck's two masks, all others open, counted by hand."""
    gate = BinaryGate(4, regularizers=GateSparsity(2.0, weighting="macs"))
    block = GatedBottleneckBlock(6, channel_gate=gate)
    x = np.ones((5, 3, 4, 10), "float32")
    block(x, training=True)
    first = 3 * 4 * (10 * 6 + 9 * 6 * 6)  # the 1x1 that it masks, the 3x3 that reads it
    second = 3 * 4 * (9 * 6 * 6 + 6 * 24)
    assert gate.unit_macs.tolist() == [first // 2] * 2 + [second // 2] * 2
    t = ops.convert_to_numpy(gate(x, training=True).logit).astype("float64")
    weights = np.array([first, first, second, second]) / 2e6
    expected = 2.0 * ((1 / (1 + np.exp(-t))).mean(axis=0) * weights).sum()
    np.testing.assert_allclose(
        ops.convert_to_numpy(block.losses[0]), expected, rtol=1e-5
    )


def test_macs_of_a_controller_on_its_own_are_unknown():
    gate = BinaryGate(4, regularizers=GateSparsity(weighting="macs"))
    with pytest.raises(
        ValueError, match="`weighting` by costs needs a controller held"
    ):
        gate(np.ones((2, 3, 3, 2), "float32"), training=True)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`weighting` must be .*None, 'macs'"):
        GateSparsity(weighting="flops")
    with pytest.raises(ValueError, match="`reduction` must be .*'sum', 'mean'"):
        GateSparsity(reduction="none")
