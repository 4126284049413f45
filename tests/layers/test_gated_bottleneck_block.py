import numpy as np
import pytest
from keras import ops

from keras_dyngate import BatchShaping, BinaryGate, GatedBottleneckBlock, GateSparsity
from tests import reference
from tests.layer_checks import run_layer_test
from tests.stubs import FixedController, built, images, torch_weights


def test_layer(tmp_path):
    run_layer_test(
        lambda: GatedBottleneckBlock(
            4,
            strides=2,
            channel_gate=BinaryGate(4, hidden=4, seed=1, regularizers=[BatchShaping()]),
            layer_gate=BinaryGate(
                1, hidden=4, seed=2, regularizers=[GateSparsity(0.1)]
            ),
            bn_epsilon=1e-4,
            bn_momentum=0.8,
        ),
        (7, 6, 4),
        (4, 3, 16),
        tmp_path / "block.keras",
    )


def test_shut_channels_are_removed_filters(numpy_initializers):
    """The first half of the units is for the reduction, the second for the 3x3."""
    first = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]])
    second = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 1]])
    gate = FixedController(np.concatenate([first, second], axis=1))
    block = built(GatedBottleneckBlock(4, 2, channel_gate=gate), (5, 6, 3))
    x = images(3, 5, 6, 3) / 255 - 0.3
    found = ops.convert_to_numpy(block(x))
    for image, keep1, keep2, y in zip(x, first == 1, second == 1, found, strict=True):
        w = dict(torch_weights(block))
        w["b.conv1.weight"] = w["b.conv1.weight"][keep1]
        w["b.conv2.weight"] = w["b.conv2.weight"][keep2][:, keep1]
        w["b.conv3.weight"] = w["b.conv3.weight"][:, keep2]
        for part in ("weight", "bias", "running_mean", "running_var"):
            w[f"b.bn1.{part}"] = w[f"b.bn1.{part}"][keep1]
            w[f"b.bn2.{part}"] = w[f"b.bn2.{part}"][keep2]
        expected = reference.block(image[None], w, "b", 2)[0]
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5)


def test_only_the_last_activation_gated(tmp_path):
    """The mask stands after the 3x3: the first convolution is always paid in full."""
    scores = np.random.default_rng(1).uniform(0.1, 1, (3, 4))
    scores[0, 1] = scores[2] = 0.0
    block = built(
        GatedBottleneckBlock(
            8,
            channel_gate=FixedController(scores),
            gated_activations="last",
            name="b",
        ),
        (6, 6, 12),
    )
    x = images(3, 6, 6, 12) / 255
    weights = torch_weights(block)
    mask = np.repeat(scores, 2, axis=-1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(block(x)),
        reference.block(x, weights, "b", 1, [np.ones((3, 8)), mask]),
        rtol=1e-4,
        atol=1e-5,
    )
    rows = {row.kernel: row for row in block.cost_rows((None, 6, 6, 12))}
    assert [rows[f"conv{i}"].macs for i in (1, 2, 3)] == [3456, 20736, 9216]
    assert [[g.key for g in rows[f"conv{i}"].gatings] for i in (1, 2, 3)] == [
        [],
        ["channel"],
        ["channel"],
    ]
    run_layer_test(
        lambda: GatedBottleneckBlock(
            4, 2, channel_gate="salience", gated_activations="last", name="b"
        ),
        (6, 6, 3),
        (3, 3, 16),
        tmp_path / "block.keras",
    )
    with pytest.raises(ValueError, match="`gated_activations`.*Received"):
        GatedBottleneckBlock(4, gated_activations="first")
