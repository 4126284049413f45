import itertools

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.cost import CostRow, CostTable, Gating
from tests.stubs import images, randomize

RNG = np.random.default_rng(0)
N = 12
PROFILE = CostTable(
    (
        CostRow("stem", "", 1000),
        CostRow("a", "layer_gate", 17, controller=True),
        CostRow("a", "channel_gate", 34, (Gating("layer"),), controller=True),
        CostRow("a", "conv1", 80, (Gating("layer"), Gating("channel", 8))),
        CostRow("a", "conv2", 160, (Gating("layer"), Gating("channel", 8))),
        CostRow("a", "shortcut_conv", 40),
        CostRow("b", "channel_gate", 50, controller=True),
        CostRow("b", "conv1", 240, (Gating("channel", 4),)),
        CostRow("b", "conv2", 480, (Gating("channel", 4), Gating("channel_2", 4))),
        CostRow("b", "conv3", 320, (Gating("channel_2", 4),)),
    )
)
RUNS = RNG.integers(0, 2, (N, 1))
DECISIONS = {
    "a/layer": RUNS.astype("float32"),
    "a/channel": (RUNS * RNG.integers(0, 2, (N, 8))).astype("float32"),
    "b/channel": RNG.integers(0, 2, (N, 4)).astype("float32"),
    "b/channel_2": RNG.integers(0, 2, (N, 4)).astype("float32"),
}


def brute_force(size_a, size_b):
    """Channel by channel, pair by pair: what runs if groups of such sizes run whole."""

    def runs(scores, size):
        groups = [any(scores[i : i + size]) for i in range(0, len(scores), size)]
        return [groups[channel // size] for channel in range(len(scores))]

    totals = []
    for n in range(N):
        total = 1000 + 17 + 40 + 50
        if DECISIONS["a/layer"][n, 0]:
            total += 34
            for is_open in runs(DECISIONS["a/channel"][n], size_a):
                total += (80 // 8 + 160 // 8) * is_open
        first = runs(DECISIONS["b/channel"][n], size_b)
        second = runs(DECISIONS["b/channel_2"][n], size_b)
        total += sum(240 // 4 * p for p in first) + sum(320 // 4 * q for q in second)
        total += sum(480 // 16 * (p and q) for p, q in itertools.product(first, second))
        totals.append(total)
    return totals


def test_sums():
    assert PROFILE.ungated == 1040
    assert PROFILE.gateable == 80 + 160 + 240 + 480 + 320
    assert PROFILE.total == 1040 + 1280
    assert PROFILE.controllers == 17 + 34 + 50


@pytest.mark.parametrize(
    ("group_size", "sizes"),
    [
        (None, (1, 1)),
        (1, (1, 1)),
        (2, (2, 2)),
        (4, (4, 4)),
        (8, (8, 4)),  # coarser than a block: the block as a whole
        (64, (8, 4)),
        ({"a": 4, "b": 2}, (4, 2)),
        ({"b": 2}, (1, 2)),
        ({}, (1, 1)),
    ],
)
def test_of_brute_force(group_size, sizes):
    macs = PROFILE.of(DECISIONS, group_size)
    assert macs.dtype == np.int64
    assert macs.tolist() == brute_force(*sizes)


def test_all_open_and_all_shut():
    ones = {key: np.ones_like(value) for key, value in DECISIONS.items()}
    zeros = {key: np.zeros_like(value) for key, value in DECISIONS.items()}
    assert set(PROFILE.of(ones)) == {PROFILE.total + PROFILE.controllers}
    assert set(PROFILE.of(zeros)) == {PROFILE.ungated + 17 + 50}


def test_any_positive_score_is_open():
    small = {key: value * 1e-6 for key, value in DECISIONS.items()}
    assert PROFILE.of(small).tolist() == PROFILE.of(DECISIONS).tolist()


def test_grouped_units_run_as_the_gate_has_them():
    """4 units of 2 channels: groups of 1 are impossible, of 4 hold two units."""
    profile = CostTable((CostRow("a", "conv1", 800, (Gating("channel", 8),)),))
    decisions = {"a/channel": np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]])}
    assert profile.of(decisions).tolist() == [200, 400, 400]
    assert profile.of(decisions, 1).tolist() == [200, 400, 400]
    assert profile.of(decisions, 4).tolist() == [400, 400, 800]


def test_without_decisions_there_is_one_row():
    assert CostTable((CostRow("stem", "", 7),)).of({}).tolist() == [7]


@pytest.mark.parametrize("size", [3, 6])
def test_a_group_that_does_not_fit(size):
    message = f"`group_size` must divide .*8 channels.*Received: group_size={size}"
    with pytest.raises(ValueError, match=message):
        PROFILE.of(DECISIONS, size)


def test_a_group_that_splits_a_unit():
    profile = CostTable((CostRow("a", "conv1", 800, (Gating("channel", 12),)),))
    with pytest.raises(ValueError, match="a multiple of its 3 channels per decision"):
        profile.of({"a/channel": np.ones((1, 4))}, 4)


def test_missing_and_uneven_decisions():
    some = {key: value for key, value in DECISIONS.items() if key != "b/channel_2"}
    with pytest.raises(ValueError, match="`decisions` must hold 'b/channel_2'"):
        PROFILE.of(some)
    with pytest.raises(
        ValueError, match=r"same samples. Received: arrays of \[3, 12\]"
    ):
        PROFILE.of({**some, "b/channel_2": np.ones((3, 4))})


def test_layers_called_twice_cost_what_each_call_decides(numpy_initializers):
    block = kd.GatedBasicBlock(4, channel_gate=kd.BinaryGate(4, hidden=3), name="b")
    image = keras.Input((4, 4, 4))
    model = randomize(keras.Model(image, block(block(image))), seed=3)
    decisions = kd.decide(model, images(8, 4, 4, 4))
    first, second = (decisions[k].sum(axis=1) for k in ("b/channel", "b:2/channel"))
    assert (first != second).any()
    profile = kd.count_macs(model)
    gates, per_channel = 2 * 3 * (4 + 4), 2 * 16 * 9 * 4
    expected = gates + per_channel * (first + second)
    assert profile.of(decisions).tolist() == expected.tolist()
    whole = gates + 4 * per_channel * ((first > 0) * 1 + (second > 0) * 1)
    for size in (4, {"b": 4}):
        assert profile.of(decisions, size).tolist() == whole.tolist()


class TestReprs:
    def test_a_profile_fits_a_line(self):
        assert repr(PROFILE) == (
            "CostTable(2,320 MACs, 1,280 gateable, 101 controllers)"
        )
        large = CostTable(
            (
                CostRow("a", "conv", 9_999_999_999, (Gating("channel", 8),)),
                CostRow("a", "gate", 999_999, controller=True),
            ),
            unknown=("fft",),
        )
        assert len(repr(large)) <= 88 and "1 unknown" in repr(large)
        assert repr(CostTable(())) == "CostTable(0 MACs)"

    def test_a_row_fits_a_line(self):
        row = CostRow("a", "conv1", 1080, (Gating("layer"), Gating("channel", 8)))
        assert repr(row) == "CostRow('a/conv1', 1,080, under layer and channel)"
        row = CostRow("exit1", "", 50, controller=True, stage=1)
        assert repr(row) == "CostRow('exit1', 50, controller, from exit 1 on)"
