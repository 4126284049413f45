import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate import BinaryGate, GatedBasicBlock, GatedBottleneckBlock
from keras_dyngate._hooks import recording
from tests.stubs import images, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")


def net(channel_units=(4,) * 9, layer_gates=False, block=GatedBasicBlock, filters=None):
    """A chain of blocks; one of None has no channel gate."""
    image = x = keras.Input((3, 3, 3))
    for index, units in enumerate(channel_units):
        x = block(
            filters or units or 4,
            channel_gate=None if units is None else BinaryGate(units, hidden=2),
            layer_gate=BinaryGate(1, hidden=2) if layer_gates else None,
            name=f"b{index}",
        )(x)
    return randomize(keras.Model(image, x))


def open_units(model, key="channel"):
    """Open units per block; the same for every image, and the first ones."""
    with recording() as decisions:
        model(images(3, 3, 3, 3))
    counts = []
    for name, scores in decisions.items():
        if name.endswith("/" + key):
            scores = keras.ops.convert_to_numpy(scores)
            count = int(scores[0].sum())
            expected = np.arange(scores.shape[1]) < count
            np.testing.assert_array_equal(scores, np.tile(expected, (3, 1)))
            counts.append(count)
    return counts


class TestCounts:
    """The nearest number of units; the rest is carried on, worked out by hand."""

    def test_carry(self):
        model = net()
        # 2.4 -> 2 | 2.4 + .4 -> 3 | 2.4 - .2 -> 2 | 2.4 + .2 -> 3 | 2.4 - .4 -> 2 | ...
        with kd.force_open_rate(model, 0.6):
            assert open_units(model) == [2, 3, 2, 3, 2, 2, 3, 2, 3]

    def test_carry_is_a_share_where_blocks_differ_in_width(self):
        model = net((2, 4, 8, 8))
        # .3 of 2 -> 1 (rest -.2) | .1 of 4 -> 0 (.1) | .4 of 8 -> 3 (.025) | 2.6 -> 3
        with kd.force_open_rate(model, 0.3):
            assert open_units(model) == [1, 0, 3, 3]

    @pytest.mark.parametrize(("rate", "count"), [(0, 0), (1.0, 4)])
    def test_ends(self, rate, count):
        model = net((4, 4))
        with kd.force_open_rate(model, rate):
            assert open_units(model) == [count, count]

    @pytest.mark.parametrize("kind", [list, tuple, np.array])
    def test_one_rate_per_channel_gated_block(self, kind):
        model = net((4, None, 4, 4))
        with kd.force_open_rate(model, kind([0.25, 1.0, 0.5])):
            assert open_units(model) == [1, 4, 2]

    def test_bottleneck_masks_are_treated_alike(self):
        model = net((8, 8), block=GatedBottleneckBlock, filters=4)
        with kd.force_open_rate(model, 0.6):
            assert open_units(model, "channel") == [2, 3]
            assert open_units(model, "channel_2") == [2, 3]

    def test_layers_alone_and_beside_channels(self):
        only = net((None,) * 4, layer_gates=True)
        with kd.force_open_rate(only, 0.5):
            assert open_units(only, "layer") == [1, 0, 1, 0]
        both = net((4,) * 4, layer_gates=True)
        with kd.force_open_rate(both, 0.75):
            assert open_units(both, "layer") == [1, 1, 1, 1]
            assert open_units(both) == [3, 3, 3, 3]
        with kd.force_open_rate(both, 0.75, layer_rate=[0, 1, 1, 0]):
            assert open_units(both, "layer") == [0, 1, 1, 0]
            assert open_units(both) == [0, 3, 3, 0]  # of a skipped block: 0


def test_predict_is_forced_inside_and_as_before_outside():
    model = net((4, 4))
    x = images(4, 3, 3, 3)
    before = model.predict(x, verbose=0)
    decided = kd.decide(model, x)
    free = {name: scores.mean() for name, scores in decided.items()}
    assert all(0 < share < 1 for share in free.values()), free
    with kd.force_open_rate(model, 1.0):
        inside = model.predict(x, verbose=0)
        with kd.force_open_rate(model, 0.0):
            shut = model.predict(x, verbose=0)
        np.testing.assert_array_equal(model.predict(x, verbose=0), inside)
    assert (inside != before).any() and (inside != shut).any()
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    for name, scores in kd.decide(model, x).items():
        np.testing.assert_array_equal(scores, decided[name])


def test_an_exception_inside_restores():
    model = net((4, 4))
    with pytest.raises(RuntimeError), kd.force_open_rate(model, 0.5):
        raise RuntimeError
    gates = [layer.channel_gate for layer in model.layers[1:]]
    assert [gate.forced for gate in gates] == [None, None]


def test_controllers_are_computed_and_counted():
    model = net((4, 4))
    gate = model.get_layer("b0").channel_gate
    x = images(4, 3, 3, 3)
    logit = keras.ops.convert_to_numpy(gate(x).logit)
    profile = kd.count_macs(model)
    with kd.force_open_rate(model, 0.0):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(gate(x).logit), logit)
        macs = profile.of(kd.decide(model, x))
    gates = 2 * (3 + 4) + 2 * (4 + 4)  # hidden * (channels + units)
    shortcut = 9 * 3 * 4
    assert macs.tolist() == [gates + shortcut] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5,), "`rate` must be a number from 0 to 1. Received: rate=1.5"),
        ((-0.1,), "`rate` must be a number from 0 to 1. Received: rate=-0.1"),
        (([0.5],), r"`rate` must be one number or one per .*\(2\). Received: 1 "),
        ((0.5, [1, 1, 1]), r"`layer_rate` must be one number or .*\(2\). Received: 3 "),
        ((0.5, 2), "`layer_rate` must be a number from 0 to 1. Received: layer_rate=2"),
    ],
)
def test_bad_rates(arguments, message):
    model = net((4, 4), layer_gates=True)
    with (
        pytest.raises(ValueError, match=message),
        kd.force_open_rate(model, *arguments),
    ):
        pass
    gates = [b.channel_gate for b in model.layers[1:]]
    assert [gate.forced for gate in gates] == [None, None]


def test_a_net_without_controllers_is_refused():
    model = net((None, None))
    with pytest.raises(ValueError, match="`model` must hold gated blocks.*Received: "):
        with kd.force_open_rate(model, 0.5):
            pass
