"""Block by block: the conditional form says what Keras says, and runs what it counts."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.cost.cost_row import default_group_size  # noqa: E402
from keras_dyngate.export.lowering import Branch, Lowering, as_constants  # noqa: E402
from keras_dyngate.export.lowering.steps import compiled  # noqa: E402
from keras_dyngate.export.plan.answers import KILO, executed_counts  # noqa: E402
from keras_dyngate.layers.links import run as run_links  # noqa: E402
from tests.export.nets import spread_gates  # noqa: E402
from tests.stubs import randomize  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

SHAPE = (6, 6, 16)
BLOCKS = {
    "basic": (kd.GatedBasicBlock, 16, {}),
    "basic, wider": (kd.GatedBasicBlock, 32, dict(strides=2)),
    "basic, option A": (kd.GatedBasicBlock, 32, dict(strides=2, shortcut="pad")),
    "basic, dilated": (kd.GatedBasicBlock, 16, dict(dilation_rate=2)),
    "basic, packed": (kd.GatedBasicBlock, 32, dict(inner_filters=16)),
    "bottleneck": (kd.GatedBottleneckBlock, 16, {}),
    "bottleneck, strides": (kd.GatedBottleneckBlock, 16, dict(strides=2)),
    "bottleneck, last": (kd.GatedBottleneckBlock, 16, dict(gated_activations="last")),
    "inverted": (kd.GatedInvertedResidual, 16, dict(inner_filters=32)),
    "inverted, squeeze": (
        kd.GatedInvertedResidual,
        16,
        dict(inner_filters=32, kernel_size=5, squeeze_filters=6, activation="silu"),
    ),
}
GATES = {"channel": (True, False), "layer": (False, True), "both": (True, True)}
SCORES = {"hard": kd.BinaryGate, "salience": kd.SalienceController}


def images(count, seed=0):
    """Features that differ from one to the next in the mean of each channel."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(count, 1, 1, SHAPE[-1]))
    return (means + 0.5 * rng.normal(size=(count, *SHAPE))).astype("float32")


def net(kind, gates, scores, unit=4):
    """One block as a model, its gates open for some of `images`; channels per unit."""
    block, filters, options = BLOCKS[kind]
    channels, layers = GATES[gates]
    gate = SCORES[scores]
    units = options.get("inner_filters", filters) // unit
    if block is kd.GatedBottleneckBlock and "gated_activations" not in options:
        units *= 2
    made = block(
        filters,
        channel_gate=gate(units) if channels else None,
        layer_gate=gate(1) if layers else None,
        name="block",
        **options,
    )
    image = keras.Input(SHAPE)
    model = keras.Model(image, made(image))
    return made, spread_gates(randomize(model), images(12))


def lower(block, group_size=None, forced=None):
    """A traced function: image -> output, decisions, conditionally executed MACs."""
    lowering = Lowering(group_size, forced)
    rows = [row for row in block.cost_rows((1, *SHAPE)) if row.gatings]

    @tf.function(input_signature=[tf.TensorSpec((1, *SHAPE))])
    def run(x):
        y = lowering(block, x)
        thousands, rest = tf.unstack(executed_counts(rows, lowering.opened))
        return y, dict(lowering.decisions), thousands * KILO + rest

    return lowering, run.get_concrete_function()


def close(found, expected):
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("scores, unit", [("hard", 8), ("salience", 4)])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", BLOCKS)
def test_output_decisions_and_macs_are_those_of_keras(kind, gates, scores, unit):
    """In groups of 8 channels: of a unit each, or of two."""
    block, model = net(kind, gates, scores, unit)
    x = images(12)
    expected, decisions = np.asarray(model(x)), kd.decide(model, x)
    for values in decisions.values():
        assert 0 < (values > 0).mean() < 1, "the test must see open and shut gates"
        assert (np.unique(values).size == 2) == (scores == "hard")
    lowering, run = lower(block, 8)
    assert not run.captured_inputs, "weights are constants of the file"
    assert lowering.group_sizes == ({} if gates == "layer" else {"block": 8})
    profile = kd.count_macs(model)
    always = sum(row.macs for row in profile.layers if not row.gatings)
    macs = profile.of(decisions, lowering.group_sizes)
    assert len(set(macs)) > 1
    for index in range(len(x)):
        y, found, executed = run(tf.constant(x[index : index + 1]))
        close(y[0], expected[index])
        assert executed.numpy() == macs[index] - always
        assert set(found) == set(decisions)
        for name, score in found.items():
            assert (score.dtype == tf.bool) == (scores == "hard")
            score = tf.cast(score, tf.float32)[0]
            np.testing.assert_allclose(score, decisions[name][index], atol=1e-5)


def poison(block, mask, channels):
    """NaN into all weights that only these channels of a mask use."""
    index = block.masked[mask]
    before, after = block.convs[index : index + 2]
    for variable, where in (
        (before.kernel, np.s_[..., channels]),
        (block.norms[index].beta, channels),
        (after.kernel, np.s_[:, :, channels]),
    ):
        value = keras.ops.convert_to_numpy(variable).copy()
        value[where] = np.nan
        variable.assign(value)


def grouped(is_open, size):
    """Of units that hold 4 channels each: of each channel, whether its group runs."""
    groups = np.repeat(is_open, 4).reshape(-1, size).any(axis=1)
    return np.repeat(groups, size)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("gates", ["channel", "both"])
@pytest.mark.parametrize(
    "kind, size",
    [("basic", 4), ("bottleneck", 8), ("bottleneck, last", 8)],
)
def test_weights_of_shut_groups_are_not_touched(kind, gates, scores, size):
    block, model = net(kind, gates, scores)
    x = images(1)
    gate = block.channel_gate
    # The second mask in other order than the first. In groups of 8, a unit that is shut
    # runs beside one that is open.
    gate.forced = np.resize([1, 0, 0, 0, 0, 0, 0, 1], gate.units)
    if block.layer_gate is not None:
        block.layer_gate.forced = [True]
    _, clean = lower(block, size)
    expected = clean(tf.constant(x))[0].numpy()
    assert np.isfinite(expected).all() and expected.any()
    runs = [grouped(part, size) for part in np.split(gate.forced, block.masks)]
    for mask, running in enumerate(runs):
        assert 0 < running.mean() < 1
        poison(block, mask, np.flatnonzero(~running))
    assert np.isnan(model(x)).any(), "Keras masks: NaN * 0"
    _, run = lower(block, size)
    np.testing.assert_array_equal(run(tf.constant(x))[0], expected)
    poison(block, 0, np.flatnonzero(runs[0])[:1])
    assert np.isnan(lower(block, size)[1](tf.constant(x))[0]).any()


@pytest.mark.parametrize("squeeze", [None, 6])
@pytest.mark.parametrize("strides", [1, 2])
def test_shut_groups_of_an_inverted_residual_are_not_touched(strides, squeeze):
    gate = kd.BinaryGate(4)
    block = kd.GatedInvertedResidual(
        16, 32, 3, strides, channel_gate=gate, squeeze_filters=squeeze, name="block"
    )
    image = keras.Input(SHAPE)
    model = randomize(keras.Model(image, block(image)))
    x = images(1)
    gate.forced = np.array([0, 1, 0, 1])
    expected = np.asarray(model(x))
    close(lower(block, 8)[1](tf.constant(x))[0], expected)
    shut = np.flatnonzero(np.repeat(1 - gate.forced, 8))
    for weight, axis in block.channel_weights()["channel"]:
        if squeeze and "squeeze" in weight.path:
            continue  # it runs once, for all
        value = np.moveaxis(keras.ops.convert_to_numpy(weight).copy(), axis, 0)
        value[shut] = np.nan
        weight.assign(np.moveaxis(value, 0, axis))
    assert np.isnan(model(x)).any(), "Keras masks: NaN * 0"
    close(lower(block, 8)[1](tf.constant(x))[0], expected)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("gates", ["layer", "both"])
@pytest.mark.parametrize("kind", ["basic, wider", "basic, option A", "bottleneck"])
def test_a_skipped_block_touches_nothing_but_its_shortcut(kind, gates, scores):
    block, model = net(kind, gates, scores)
    x = images(1)
    block.layer_gate.forced = [False]
    expected = keras.ops.relu(run_links(block.shortcut_links(), x))
    inside = [*block.convs, *block.norms]
    if block.channel_gate is not None:
        inside.append(getattr(block.channel_gate, "expand", None) or block.channel_gate)
    for layer in inside:
        for weight in layer.trainable_weights:
            weight.assign(np.full(weight.shape, np.nan))
    assert np.isnan(model(x)).any(), "Keras masks: NaN * 0"
    y, decisions, executed = lower(block)[1](tf.constant(x))
    close(y, np.asarray(expected))
    assert executed.numpy() == 0
    assert not any(np.any(score) for score in decisions.values())
    block.layer_gate.forced = [True]
    assert np.isnan(lower(block)[1](tf.constant(x))[0]).any()


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_calibration_forces_all_of_a_block_open(kind, gates, scores):
    """What is forced runs, at a score of 1; what was decided is still told."""
    block, model = net(kind, gates, scores)
    x = images(4)
    forced = tf.Variable([0])
    _, run = lower(block, 8, forced)
    usual, decisions = np.asarray(model(x)), kd.decide(model, x)
    for gate in (block.channel_gate, block.layer_gate):
        if gate is not None:
            gate.forced = np.ones(gate.units)
    wide_open = np.asarray(model(x))
    assert np.abs(wide_open - usual).max() > 0.01
    for force, expected in ((0, usual), (1, wide_open)):
        forced.assign([force])
        for index in range(len(x)):
            y, found, _ = run(tf.constant(x[index : index + 1]))
            close(y[0], expected[index])
            if gates != "both":  # inside a forced layer its own channels decide
                for name, score in found.items():
                    score = tf.cast(score, tf.float32)[0]
                    np.testing.assert_allclose(score, decisions[name][index], atol=1e-5)


def test_branches_of_a_block_by_hand():
    """8 by 8 pixels would be too easy: 6 by 6 of 16 channels, in groups of 8."""
    block, _ = net("basic", "both", "hard")
    lowering, _ = lower(block, 8)
    conv = 6 * 6 * 9 * 16  # MACs of one channel out, or in
    controller = 16 * 16 + 16 * 4
    assert lowering.branches == [
        Branch("block/layer", 16, 32 * conv + controller, 2 * 9 * 16 * 16 + 2 * 16),
        Branch("block/channel[0]", 8, 16 * conv, 2 * 9 * 16 * 8 + 8),
        Branch("block/channel[1]", 8, 16 * conv, 2 * 9 * 16 * 8 + 8),
    ]


def test_branches_of_a_bottleneck_by_hand():
    block, _ = net("bottleneck", "channel", "hard")
    lowering, _ = lower(block, 8)
    reduce, middle, expand = 16 * 16, 9 * 16 * 16, 16 * 64  # weights, whole
    assert lowering.branches == [
        Branch(f"block/{key}[{group}]", 8, 36 * weights // 2, weights // 2 + 8)
        for key, weights in (("channel", reduce), ("channel_2", middle + expand))
        for group in range(2)
    ]
    # One group of the first mask is open, both of the second.
    block.channel_gate.forced = np.array([1, 0, 0, 0, 1, 0, 0, 1])
    executed = lower(block, 8)[1](tf.constant(images(1)))[2]
    assert executed.numpy() == 36 * (reduce // 2 + middle // 2 + expand)


@pytest.mark.parametrize("filters", [4, 16, 24, 48, 64, 100])
def test_default_group_size(filters):
    """The fewest channels, 16 or more, in whole units, that divide the filters."""
    for own in (n for n in range(1, filters + 1) if filters % n == 0):
        fitting = [
            n for n in range(16, filters + 1) if filters % n == 0 and n % own == 0
        ]
        assert default_group_size(filters, filters // own) == min(
            fitting, default=filters
        )


def test_a_normalization_is_folded_into_its_kernel():
    block, _ = net("basic, wider", "layer", "hard")
    x = images(2)
    for conv, norm in (
        (block.shortcut_conv, block.shortcut_norm),
        (block.convs[0], block.norms[0]),
    ):
        (kernel,) = compiled((conv, norm))
        expected = np.asarray(norm(conv(x), training=False))
        close(kernel.shifted(kernel.product(x)), expected)


def test_as_constants_hides_variables():
    dense = randomize(keras.layers.Dense(3))
    x = tf.constant(np.ones((1, 5), "float32"))
    expected = dense(x)

    @tf.function
    def run(x):
        with as_constants(dense):
            return dense(x)

    np.testing.assert_allclose(run(x), expected, rtol=1e-6)
    assert not run.get_concrete_function(x).captured_inputs


def test_a_child_has_decisions_of_its_own():
    lowering = Lowering(8)
    child = lowering.child()
    child.decisions["a"] = 1
    child.opened["a"] = 2
    child.branches.append(Branch("a", 1, 2, 3))
    child.group_sizes["a"] = 8
    assert child.group_size == 8
    assert lowering.decisions == {} and lowering.opened == {}
    assert lowering.branches == child.branches
    assert lowering.group_sizes == child.group_sizes
    block, _ = net("basic", "layer", "hard")
    x = tf.constant(images(1))
    child(block, x)
    with pytest.raises(ValueError, match="called once.*second call of 'block'"):
        lowering(block, x)


def test_layers_without_a_conditional_form():
    with pytest.raises(NotImplementedError, match="conditional form of Dense.*'d'"):
        Lowering()(keras.layers.Dense(3, name="d"), tf.zeros([1, 4]))


def test_groups_that_do_not_fit():
    block, _ = net("basic", "channel", "hard")
    for size in (6, 12):
        with pytest.raises(ValueError, match=f"`group_size` must.*group_size={size}"):
            lower(block, size)


def test_group_sizes_that_are_not_asked_for():
    """16 channels where the units are finer; a unit where the wish is."""
    for size, used in ((None, 16), (2, 4), (99, 32)):
        block, _ = net("basic, wider", "channel", "hard")
        assert lower(block, size)[0].group_sizes == {"block": used}
