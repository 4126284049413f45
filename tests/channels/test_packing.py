"""Packing is judged by nets whose decisions are written down, and by predictions.

`deciding` makes a block with decisions given as a table: image n is bright in channel n
alone, and the gate's hidden units tell the channels apart.
"""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate import GatedBasicBlock, GatedBottleneckBlock
from keras_dyngate.channels.packing import _arrange, _split
from keras_dyngate.decisions import predict_with_decisions
from tests.stubs import FixedController, images, randomize

to_numpy = keras.ops.convert_to_numpy
pytestmark = pytest.mark.usefixtures("numpy_initializers")
SIDE = 4


def kinds_of_images(kinds, repeats):
    """`kinds * repeats` images; the mean of channel n is 1 for kind n, else 0."""
    x = np.ones((1, SIDE, SIDE, 1)) * np.eye(kinds)[:, None, None, :]
    return np.tile(x, (repeats, 1, 1, 1)).astype("float32")


def deciding(table, block=GatedBasicBlock, layer=None, name="packable"):
    """A net of one block; `table` is bool `[kinds, units]`, `layer` bool `[kinds]`."""
    table = np.asarray(table)
    kinds, units = table.shape
    filters = units // len(block.masked)

    def gate(units, answers):
        made = kd.BinaryGate(units, hidden=kinds)
        made.build((None, SIDE, SIDE, kinds))
        made.reduce.kernel.assign(np.eye(kinds))
        made.expand.kernel.assign(4.0 * answers)
        made.expand.bias.assign(np.full(units, -2.0))
        return made

    image = keras.Input((SIDE, SIDE, kinds))
    made = block(
        filters,
        channel_gate=gate(units, table),
        layer_gate=None if layer is None else gate(1, np.reshape(layer, (-1, 1))),
        name="block",
    )
    features = keras.layers.GlobalAveragePooling2D()(made(image))
    model = keras.Model(image, keras.layers.Dense(5, name="top")(features), name=name)
    parts = [*made.convs, *made.norms, made.shortcut_conv, model.get_layer("top")]
    for seed, part in enumerate(part for part in parts if part is not None):
        randomize(part, seed)
    return model


def interleaved(channels=16, kinds=4):
    """Channel i is open for images of kind i % kinds."""
    return np.arange(channels) % kinds == np.arange(kinds)[:, None]


def close(a, b, limit=1e-5):
    return np.abs(a - b).max() <= limit * np.abs(a).max()


def check_packed(model, packed, report, x):
    """Outputs, decisions and MACs of the packed net, against those of the other."""
    outputs, before = predict_with_decisions(model, x)
    outputs_after, after = predict_with_decisions(packed, x)
    assert close(outputs, outputs_after)
    assert before.keys() == after.keys()
    for key, values in before.items():
        order = report.orders.get(key, range(values.shape[1]))
        assert sorted(order) == list(range(values.shape[1]))
        np.testing.assert_array_equal(after[key], values[:, list(order)])
    np.testing.assert_array_equal(
        kd.count_macs(model).of(before), kd.count_macs(packed).of(after)
    )


def test_reaches_the_optimum_that_is_known():
    model = deciding(interleaved())
    x = kinds_of_images(4, 6)
    packed, report = kd.pack_channels(model, x, group_size=4)
    check_packed(model, packed, report, x)
    conv = SIDE * SIDE * 9 * (4 * 16 + 16 * 16)
    fixed = 4 * (4 + 16) + SIDE * SIDE * 4 * 16 + 16 * 5  # gate, shortcut, top
    for macs, count in ((report.data, 18), (report.holdout, 6)):
        assert macs.images == count
        assert macs.before == conv + fixed
        assert macs.after == macs.per_channel == conv / 4 + fixed
    assert report.plain_macs == conv + fixed - 4 * (4 + 16)
    assert report.open_rates == {"block/channel": 0.25}
    assert report.removed == report.freed == {}
    assert report.max_difference < 1e-5
    assert report.argmax_agreement == report.decision_agreement == 1.0


def test_packs_both_masks_of_a_bottleneck_each_by_itself():
    second = np.repeat(np.eye(4, dtype=bool), 2, axis=1)[:, [0, 7, 2, 4, 1, 3, 5, 6]]
    model = deciding(
        np.concatenate([interleaved(8), second], axis=1), GatedBottleneckBlock
    )
    x = kinds_of_images(4, 5)
    packed, report = kd.pack_channels(model, x, group_size=2)
    check_packed(model, packed, report, x)
    assert report.data.after == report.data.per_channel < report.data.before
    assert report.orders["block/channel"] != report.orders["block/channel_2"]


def small_net():
    """A stem, an identity and a strided block, a nested model, random weights."""
    image = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="stem")(image)
    x = GatedBasicBlock(8, channel_gate="binary", name="first")(x)
    inner = keras.Input(x.shape[1:])
    second = GatedBasicBlock(
        12, strides=2, shortcut="pad", channel_gate="binary", name="second"
    )
    x = keras.Model(inner, second(inner), name="nested")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, keras.layers.Dense(5)(x)))


@pytest.mark.parametrize("squeeze", [None, 3])
def test_inverted_residuals(squeeze):
    """Channels move, and those that never open go, in a squeeze-and-excite too."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    for index, (filters, strides) in enumerate([(4, 1), (6, 2)]):
        x = kd.GatedInvertedResidual(
            filters,
            12,
            strides=strides,
            channel_gate="binary",
            squeeze_filters=squeeze,
            name=f"b{index}",
        )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(image, keras.layers.Dense(5)(x)))
    gate = model.get_layer("b1").channel_gate.expand
    gate.bias.assign(gate.bias - 100.0 * (np.arange(12) % 3 == 0))
    x = images(24, 8, 8, 3)
    packed, report = kd.pack_channels(model, x, group_size=4)
    check_packed(model, packed, report, x)
    assert report.orders["b0/channel"] != tuple(range(12))
    pruned, report = kd.pack_channels(model, x, group_size=4, prune=True)
    assert report.removed["b1/channel"] >= 4
    assert pruned.get_layer("b1").inner_filters <= 8
    assert close(*[predict_with_decisions(m, x)[0] for m in (model, pruned)])


def test_whole_nets_keep_their_function_and_original():
    model = small_net()
    model.compile(keras.optimizers.SGD(), "mse")
    x = images(24, 12, 12, 3)
    weights = [to_numpy(w).copy() for w in model.weights]
    config = model.get_config()
    packed, report = kd.pack_channels(model, x[:16], group_size=4)
    for variable, old in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old)
    assert model.get_config() == config and model.compiled
    assert not {id(w) for w in model.weights} & {id(w) for w in packed.weights}
    assert packed.get_config() == config
    check_packed(model, packed, report, x)  # on images that it has not seen, too
    for macs, rows in zip((report.data, report.holdout), _split(16, 0.25), strict=True):
        decisions = kd.decide(packed, x[:16][rows])
        executed = kd.count_macs(packed).of(decisions, 4).mean()
        assert macs.images == len(rows) and macs.after == pytest.approx(executed)
    assert report.data.per_channel < report.data.after < report.data.before


def test_layer_gates_mixed_precision_and_a_saved_copy(tmp_path, dtype_policy):
    dtype_policy("mixed_bfloat16")
    rng = np.random.default_rng(0)
    table, runs = rng.random((8, 24)) < 0.5, np.arange(8) % 3 > 0
    model = deciding(table, GatedBottleneckBlock, layer=runs)
    x = kinds_of_images(8, 2)
    packed, report = kd.pack_channels(model, x, group_size=3)
    assert packed.get_layer("block").compute_dtype == "bfloat16"
    dtype_policy("float32")
    again, _ = kd.pack_channels(packed, x, group_size=3, prune=True)
    assert again.get_layer("block").compute_dtype == "bfloat16"
    again.save(tmp_path / "packed.keras")
    loaded = keras.saving.load_model(tmp_path / "packed.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), again.predict(x, verbose=0)
    )
    shut = kd.decide(packed, x)
    np.testing.assert_array_equal(shut["block/layer"][:8, 0], runs)
    order = list(report.orders["block/channel"])
    np.testing.assert_array_equal(
        shut["block/channel"][:8], table[:, :12][:, order] & runs[:, None]
    )


def test_prune_removes_and_frees():
    """Of 12 channels two never open, three never shut; seven are left to the images."""
    rng = np.random.default_rng(2)
    table = np.zeros((6, 12), bool)
    table[:, [1, 4, 7]] = True
    table[:, [0, 3, 5, 6, 8, 9, 11]] = np.arange(6)[:, None] == [0, 1, 2, 3, 4, 5, 0]
    model = deciding(table)
    x = kinds_of_images(6, 20)
    packed, report = kd.pack_channels(model, x, group_size=2, prune=True)
    order = report.orders["block/channel"]
    assert sorted(order) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 11]
    assert report.removed == {"block/channel": 2}
    assert report.freed == {"block/channel": 3}
    block = packed.get_layer("block")
    assert (block.filters, block.inner_filters) == (12, 10)
    assert packed.count_params() < model.count_params()
    assert close(model.predict(x, verbose=0), packed.predict(x, verbose=0))
    strange = rng.normal(0, 9, (16, SIDE, SIDE, 6)).astype("float32")
    is_open = kd.decide(packed, strange)["block/channel"] > 0
    assert is_open[:, np.isin(order, [1, 4, 7])].all()
    assert not is_open.all()


@pytest.mark.parametrize(
    "used, size, kept",
    [(5, 4, 8), (8, 4, 8), (3, 4, 3), (0, 4, 1), (11, 4, 12), (5, 64, 5), (7, 1, 7)],
)
def test_pruning_leaves_whole_groups_or_one_smaller(used, size, kept):
    mask = np.zeros((9, 12), bool)
    mask[:, 12 - used :] = np.random.default_rng(0).random((9, used)) < 0.5
    mask[0, 12 - used :] = True
    first, second = _arrange([mask, mask & False], size, prune=True)
    assert len(first.order) == len(second.order) == len(set(first.order)) == kept
    assert set(range(12 - used, 12)) <= set(first.order)
    always = {i for i, c in enumerate(first.order) if mask[:, c].all()}
    assert set(first.held_open) == always and len(second.held_open) == 0
    (whole,) = _arrange([mask], 4, prune=False)
    assert sorted(whole.order) == list(range(12)) and len(whole.held_open) == 0


def test_prune_takes_a_skipped_block_for_undecided():
    """Channel 0 is open wherever the block runs; channel 1 only where it does not."""
    table = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 1]], bool)
    model = deciding(table, layer=[1, 1, 0])
    x = kinds_of_images(3, 8)
    packed, report = kd.pack_channels(model, x, group_size=1, prune=True)
    assert report.removed == report.freed == {"block/channel": 1}
    assert sorted(report.orders["block/channel"]) == [0, 2, 3]
    assert close(model.predict(x, verbose=0), packed.predict(x, verbose=0))


def test_the_report_tells_what_pruning_did_to_images_kept_apart():
    table = np.eye(12, dtype=bool)  # each image opens a channel of its own
    model = deciding(table)
    x = kinds_of_images(12, 1)
    packed, report = kd.pack_channels(model, x, 3, prune=True, holdout=0.5)
    chosen, apart = _split(12, 0.5)
    assert sorted({*chosen, *apart}) == list(range(12)) and len(apart) == 6
    assert sorted(report.orders["block/channel"]) == sorted(chosen)
    before, after = (net.predict(x[apart], verbose=0) for net in (model, packed))
    difference = np.abs(before - after).max() / np.abs(before).max()
    assert report.max_difference == pytest.approx(difference) and difference > 0.01
    agreement = (before.argmax(1) == after.argmax(1)).mean()
    assert report.argmax_agreement == pytest.approx(agreement)
    text = str(report)
    assert "6 channels removed" in text and f"{difference:.1e}" in text
    assert "LiteRTModel.benchmark" in text


def test_takes_datasets_and_gives_the_same_again():
    model = deciding(np.random.default_rng(0).random((4, 16)) < 0.4)
    x = kinds_of_images(4, 4)
    labels = np.zeros(4)
    batches = [(x[i : i + 4], labels) for i in range(0, 16, 4)]
    reports = [kd.pack_channels(model, data, 4)[1] for data in (x, batches)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"group_size": 5}, "`group_size` must divide .* Received: group_size=5"),
        ({"group_size": 0}, "`group_size` must be a positive integer"),
        ({"x": np.zeros((0, SIDE, SIDE, 4))}, "`x` must hold images of shape"),
        ({"x": np.zeros((8, SIDE, 9, 4))}, "`x` must hold images of shape"),
        ({"x": np.zeros((1, SIDE, SIDE, 4))}, "`x` must hold two images or more"),
        ({"holdout": 0.0}, "`holdout` must be a number between 0 and 1"),
        ({"holdout": 1}, "`holdout` must be a number between 0 and 1"),
        ({"model": None}, "`model` must be a built keras.Model"),
        ({"model": keras.Sequential()}, "`model` must be a built keras.Model"),
    ],
)
def test_refuses(arguments, message):
    arguments = {
        "model": deciding(interleaved()),
        "x": kinds_of_images(4, 2),
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        kd.pack_channels(**arguments)


def test_refuses_models_without_gates_of_single_channels():
    x = kinds_of_images(4, 2)
    for gate, message in (
        (None, "'net', no channel gate"),
        (kd.BinaryGate(4), "gates of .'block'. decide on groups"),
    ):
        block = GatedBasicBlock(16, channel_gate=gate, name="block")
        net = keras.Sequential([keras.Input(x.shape[1:]), block], name="net")
        with pytest.raises(ValueError, match=message):
            kd.pack_channels(net, x)
    model = deciding(interleaved())
    with kd.force_open_rate(model, 0.5), pytest.raises(ValueError, match="force_open"):
        kd.pack_channels(model, x)


def test_names_a_controller_that_cannot_be_reordered():
    gate = FixedController(np.ones((1, 4)))
    with pytest.raises(NotImplementedError, match="FixedController must implement"):
        gate.take_units(gate, [3, 2, 1, 0])


def test_take_units_copies_orders_and_holds_open():
    gates = []
    for units in (6, 3):
        gate = kd.BinaryGate(units, regularizers=["gate_sparsity"], seed=units)
        gate.build((None, 2, 2, 5))
        randomize(gate, seed=units)
        gates.append(gate)
    source, target = gates
    x = images(7, 2, 2, 5) / 50
    source(x, training=True)  # moves the statistics and the noise
    target.take_units(source, [4, 0, 5])
    wanted = to_numpy(source(x).logit)[:, [4, 0, 5]]
    np.testing.assert_allclose(to_numpy(target(x).logit), wanted, rtol=1e-5, atol=1e-6)
    for ours, theirs in (
        (target.coefficients[0], source.coefficients[0]),
        (target.seed_generator.state, source.seed_generator.state),
    ):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    target.take_units(source, [4, 0, 5], held_open=[1])
    logit = to_numpy(target(x).logit)
    np.testing.assert_allclose(
        logit[:, [0, 2]], wanted[:, [0, 2]], rtol=1e-5, atol=1e-6
    )
    assert (logit[:, 1] == logit[0, 1]).all() and logit[0, 1] > 5
