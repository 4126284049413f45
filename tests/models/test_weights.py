import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

SMALL = {"input_shape": (8, 8, 3), "width": 0.25, "classifier_activation": None}
to_numpy = ops.convert_to_numpy


def gates_of(model):
    return [b.channel_gate for b in model.layers if hasattr(b, "channel_gate")]


class TestTrunk:
    def test_plain_and_gated_exchange(self):
        plain = randomize(kd.resnet20(**SMALL))
        gated = kd.gated_resnet20(**SMALL)
        assert kd.load_trunk_weights(gated, plain) is gated
        back = kd.load_trunk_weights(kd.resnet20(**SMALL), gated)
        for a, b in zip(plain.get_weights(), back.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("other", [{"classes": 3}, {"include_top": False}])
    def test_another_head_is_kept(self, other):
        source = randomize(kd.resnet20(**{**SMALL, **other}), seed=1)
        target = randomize(kd.resnet20(**SMALL), seed=2)
        before = target.get_layer("predictions").get_weights()
        kd.load_trunk_weights(target, source)
        for a, b in zip(
            before, target.get_layer("predictions").get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        kernels = [m.get_layer("conv1").get_weights()[0] for m in (source, target)]
        np.testing.assert_array_equal(*kernels)

    def test_gates_are_copied(self):
        source = randomize(kd.gated_resnet20(gates=kd.Gates(layer="binary"), **SMALL))
        target = kd.gated_resnet20(gates=kd.Gates(layer="binary"), **SMALL)
        kd.load_trunk_weights(target, source)
        x = images(3, 8, 8, 3)
        np.testing.assert_array_equal(outputs(target, x), outputs(source, x))

    def test_regularizers_may_differ(self):
        """A second phase of training: other penalties, the gates of the first."""
        source = randomize(
            kd.gated_resnet20(
                gates=kd.Gates(channel_regularizers="batch_shaping"), **SMALL
            )
        )
        target = kd.gated_resnet20(
            gates=kd.Gates(
                channel_regularizers=[kd.GateSparsity(0.2), kd.BatchShaping()]
            ),
            **SMALL,
        )
        for model in (target, kd.gated_resnet20(**SMALL)):
            kd.load_trunk_weights(model, source)
            for ours, theirs in zip(gates_of(model), gates_of(source), strict=True):
                np.testing.assert_array_equal(
                    to_numpy(ours.expand.kernel), to_numpy(theirs.expand.kernel)
                )
        coefficients = [float(c.value) for c in gates_of(target)[0].coefficients]
        np.testing.assert_allclose(coefficients, [0.2, 0.75])  # the target's own

    @pytest.mark.parametrize("hidden", [4, 16])
    def test_groups_start_with_the_mean_logit_of_their_channels(self, hidden):
        def gate(units):
            return kd.BinaryGate(units, hidden=hidden)

        source = randomize(kd.gated_resnet20(gates=kd.Gates(gate), **SMALL))
        target = kd.gated_resnet20(gates=kd.Gates(gate, groups=2), **SMALL)
        kd.load_trunk_weights(target, source)
        for ours, theirs in zip(gates_of(target), gates_of(source), strict=True):
            x = images(5, 2, 2, ours.reduce.kernel.shape[0])
            logits = to_numpy(theirs(x).logit)
            means = logits.reshape(5, 2, -1).mean(axis=-1)
            np.testing.assert_allclose(
                to_numpy(ours(x).logit), means, rtol=1e-3, atol=1e-3
            )

    def test_bottleneck_groups_stay_in_their_half(self):
        arguments = {"input_shape": (32, 32, 3), "width": 1 / 16}
        source = randomize(kd.gated_resnet50(**arguments))
        target = kd.gated_resnet50(gates=kd.Gates(groups=2), **arguments)
        kd.load_trunk_weights(target, source)
        ours, theirs = gates_of(target)[0], gates_of(source)[0]
        bias = to_numpy(theirs.expand.bias).reshape(2, 2, 2).mean(axis=-1).ravel()
        np.testing.assert_allclose(to_numpy(ours.expand.bias), bias, rtol=1e-5)

    def test_numbers_that_are_none_are_refused(self):
        source, target = (randomize(kd.gated_resnet20(**SMALL), i) for i in range(2))
        before = target.get_weights()
        for broken in (gates_of(source)[-1].expand.bias, source.layers[-1].bias):
            values = to_numpy(broken).copy()
            broken.assign(np.full(values.shape, np.inf))
            with pytest.raises(ValueError, match="must hold finite"):
                kd.load_trunk_weights(target, source)
            broken.assign(values)
        for a, b in zip(before, target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_finer_gates_cannot_be_made(self):
        source = kd.gated_resnet20(gates=kd.Gates(groups=2), **SMALL)
        target = kd.gated_resnet20(gates=kd.Gates(groups=4), **SMALL)
        message = (
            "gate of 'stage1_block1' does not fit: 4 units wanted, .* Received: 2 units"
        )
        before = target.get_weights()
        with pytest.raises(ValueError, match=message):
            kd.load_trunk_weights(target, source)
        for a, b in zip(before, target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_another_trunk(self):
        message = "'resnet32' is of another architecture: .* no 'layer1.3.conv1.weight'"
        with pytest.raises(ValueError, match=message):
            kd.load_trunk_weights(kd.resnet20(**SMALL), kd.resnet32(**SMALL))

    def test_a_stranger(self):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        with pytest.raises(
            ValueError,
            match="is of another architecture: this net has arrays such as 'conv1.kernel'",
        ):
            kd.load_trunk_weights(kd.resnet20(**SMALL), model)
