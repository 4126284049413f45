"""The control law written out again, MACs counted by hand, and nets that are driven."""

import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate._backend import before_assign
from keras_dyngate._walk import controllers
from keras_dyngate.decisions import DecisionModel
from tests.models.gating.nets import lively, mobile, pictures

IMAGES = np.random.default_rng(0).normal(size=(12, 4, 4, 3)).astype("float32")
LABELS = np.arange(12) % 3
PER_EPOCH = 3  # batches of 4

# A block holds two 3x3 convolutions at 4x4, of 3 channels, each with a gate.
FILTERS = 3
PRICE = kd.GateSparsity(0.0, weighting="macs")
GATEABLE = 2 * 4 * 4 * 3 * 3 * FILTERS * FILTERS

pytestmark = pytest.mark.heavy


def make(bias=0.0, blocks=1, rate=0.0, prices=(PRICE,)):
    keras.utils.set_random_seed(0)
    x = image = keras.Input((4, 4, 3))
    for index in range(blocks):
        gate = kd.BinaryGate(FILTERS, bias_initializer=bias, regularizers=prices)
        x = kd.GatedBasicBlock(FILTERS, channel_gate=gate, name=f"block{index + 1}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    model.compile(
        keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", jit_compile=False
    )
    return model


class Watch(keras.callbacks.Callback):
    """Price, share and coefficient after each step."""

    def __init__(self, budget):
        super().__init__()
        self.budget, self.prices, self.shares, self.coefficients = budget, [], [], []

    def on_train_batch_end(self, batch, logs=None):
        before_assign(self.model)
        self.prices.append(self.budget.price)
        self.shares.append(self.budget.share)
        self.coefficients.append(
            {float(c) for gate in controllers(self.model) for c in gate.coefficients}
        )


def fit(model, budget, epochs=2):
    watch = Watch(budget)
    history = model.fit(
        IMAGES,
        LABELS,
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[kd.RegularizationSchedule(), budget, watch],
    ).history
    return watch, history


@pytest.mark.parametrize(
    "begin, end, expected",
    [
        (0.0, 0.5, [1.0, 0.84, 0.6, 0.2, 0.2, 0.2]),
        (0.25, 0.75, [1.0, 1.0, 1.0, 0.6, 0.2, 0.2]),
        (0.25, 0.25, [1.0, 1.0, 0.2, 0.2, 0.2, 0.2]),
        (0.0, 0.0, [0.2] * 6),
        (0.75, 1.0, [1.0, 1.0, 1.0, 1.0, 1.0, 0.2]),
    ],
)
def test_the_budget_falls_on_a_straight_line(begin, end, expected):
    budget = kd.MacBudget(0.2, IMAGES, total_steps=200, begin=begin, end=end)
    found = [budget.budget(step) for step in (0, 20, 50, 100, 150, 200)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert budget.budget(1000) == 0.2


def test_price_and_coefficient_follow_the_control_law():
    """The budget falls from 1 to .1; the last share is counted by hand."""
    model = make(0.0, blocks=2)
    budget = kd.MacBudget(0.1, IMAGES, end=1.0, every=2, gain=(3.0, 0.5))
    watch, history = fit(model, budget)
    profile = kd.count_macs(model)
    assert profile.gateable == 2 * GATEABLE
    decisions = kd.decide(model, IMAGES)
    open_channels = sum(d.sum(1) for d in decisions.values())
    # An open channel: 3 -> 1 in the first convolution, 1 -> 3 in the second.
    macs = profile.ungated + profile.controllers + open_channels * GATEABLE / FILTERS
    np.testing.assert_allclose(profile.of(decisions), macs)
    share = macs.mean() / profile.total
    assert 0.2 < share < 0.9 and watch.shares[0] is None
    assert watch.shares[-1] == pytest.approx(share, rel=1e-6)

    total, price, prices = 0.0, 0.0, []
    for step in range(1, 7):
        if step % 2 == 0:
            excess = watch.shares[step - 1] - (1.0 - 0.9 * step / 6)
            total = min(max(total + 0.5 * excess, 0.0), 10.0)
            price = total + 3.0 * excess
        prices.append(price)
    assert prices[1] < 0 < prices[5]  # below its budget at first, then above
    np.testing.assert_allclose(watch.prices, prices, rtol=1e-9)
    for found, price in zip(watch.coefficients, prices, strict=True):
        assert found == {float(np.float32(price * 1e6 / profile.gateable))}

    np.testing.assert_allclose(history["mac_price"], [prices[2], prices[5]], rtol=1e-9)
    np.testing.assert_allclose(
        history["mac_share"], [watch.shares[2], share], rtol=1e-6
    )
    np.testing.assert_allclose(
        history["gate_sparsity_coefficient"],
        [prices[i] * 1e6 / profile.gateable for i in (2, 5)],
        rtol=1e-6,
    )


@pytest.mark.parametrize("bias, target", [(9.0, 0.3), (-9.0, 0.9)])
def test_far_from_the_budget_the_price_grows_or_falls(bias, target):
    budget = kd.MacBudget(target, IMAGES, end=0.0, every=1)
    watch, _ = fit(make(bias), budget)
    if bias > 0:
        assert watch.shares[-1] > 0.99
        assert 0 < watch.prices[0]
        assert (np.diff(watch.prices) > 0).all()  # the integral grows
    else:
        assert watch.shares[-1] < 0.5
        assert len(set(watch.prices)) == 1  # the integral stays at 0
        assert watch.prices[0] < 0


def test_state_goes_through_json_and_the_price_on():
    model = make(3.0)
    one = kd.MacBudget(0.3, IMAGES, every=2, end=0.0)
    fit(model, one)
    state = json.loads(json.dumps(one.get_state()))
    other = kd.MacBudget(0.3, IMAGES, every=2, end=0.0)
    other.set_state(state)
    assert other.get_state() == state == one.get_state()
    assert (other.price, other.share) == (one.price, one.share)
    first, _ = fit(make(3.0), other)  # from the first batch on, before it measures
    assert first.prices[0] == one.price > 0
    assert first.coefficients[0] != {0.0}
    again, _ = fit(model, one)
    np.testing.assert_array_equal(again.prices, first.prices)


def test_a_net_within_the_one_that_is_fitted():
    class Holder(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x, training=None):
            return self.inner(x, training=training)

    found = []
    for held in (False, True):
        inner = make(0.0)
        model = Holder(inner) if held else inner
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        budget = kd.MacBudget(
            0.3, IMAGES, every=1, total_steps=3, watched=inner if held else None
        )
        model.fit(IMAGES, LABELS, batch_size=4, verbose=0, callbacks=[budget])
        (gate,) = controllers(inner)
        assert float(gate.coefficients[0]) != 0
        found.append(budget.get_state())
    assert found[0] == found[1]


@pytest.mark.parametrize("first", ["budget", "schedule"])
def test_callbacks_in_any_order(first):
    """Coefficients of each step: the ramp by progress, the price as it was set last."""
    ramp = kd.BatchShaping(coefficient=kd.LinearSchedule(0.6, 0.0), name="shaping")
    kept = kd.GateSparsity(0.125, name="kept")
    model = make(0.0, prices=[ramp, kd.GateSparsity(0.5, weighting="macs"), kept])
    (gate,) = controllers(model)
    budget = kd.MacBudget(0.1, IMAGES, end=0.5, every=2)
    found, prices = [], []

    def look(batch, logs):
        before_assign(model)
        found.append([float(c) for c in gate.coefficients])
        prices.append(budget.price)

    callbacks = [budget, kd.RegularizationSchedule()]
    history = model.fit(
        IMAGES,
        LABELS,
        batch_size=4,
        epochs=2,
        verbose=0,
        validation_data=(IMAGES, LABELS),
        callbacks=[
            *(callbacks if first == "budget" else callbacks[::-1]),
            keras.callbacks.LambdaCallback(on_train_batch_begin=look),
        ],
    ).history
    per_price = 1e6 / kd.count_macs(model).gateable
    assert len(set(prices)) == 3 and prices[:2] == [0.0, 0.0]  # set after 2 and 4
    expected = [[0.6 * (1 - n / 6), prices[n] * per_price, 0.125] for n in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    last = {"shaping": 0.1, "gate_sparsity": budget.price * per_price, "kept": 0.125}
    for name, value in last.items():
        assert history[f"{name}_coefficient"][-1] == pytest.approx(value, rel=1e-5)


def test_executions_of_several_steps_are_counted_as_steps():
    """3 batches, 2 at a time: 2, 3, 5, 6 steps are done after the executions."""
    model = make(0.0)
    model.steps_per_execution = 2
    budget = kd.MacBudget(0.1, IMAGES, end=1.0, every=3)
    asked, line = [], budget.budget
    budget.budget = lambda step: asked.append(step) or line(step)
    fit(model, budget)
    assert asked == [3, 6]


def test_a_run_that_starts_at_a_later_epoch():
    budget = kd.MacBudget(0.5, IMAGES, begin=0.25, end=0.75, every=1)
    asked, line = [], budget.budget
    budget.budget = lambda step: asked.append((step, line(step))) or line(step)
    make(0.0).fit(
        IMAGES,
        LABELS,
        batch_size=4,
        epochs=4,
        initial_epoch=2,
        verbose=0,
        callbacks=[budget],
    )
    expected = [(n, 1 - 0.5 * min(n / 12 - 0.25, 0.5) / 0.5) for n in range(7, 13)]
    np.testing.assert_allclose(asked, expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_needs_the_number_of_steps():
    batches = [(IMAGES[i : i + 4], LABELS[i : i + 4]) for i in (0, 4, 8)]
    model = make(0.0)
    start = model.get_weights()
    with pytest.raises(ValueError, match="`total_steps` must be given where the leng"):
        model.fit(
            (batch for batch in batches),
            shuffle=False,
            verbose=0,
            callbacks=[kd.MacBudget(0.5, IMAGES, every=1)],
        )
    for a, b in zip(start, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    budget = kd.MacBudget(0.5, IMAGES, every=1, total_steps=3, end=1.0)
    asked, line = [], budget.budget
    budget.budget = lambda step: asked.append(line(step)) or line(step)
    model.fit(
        (batch for batch in batches), shuffle=False, verbose=0, callbacks=[budget]
    )
    np.testing.assert_allclose(asked, [1 - 0.5 / 3, 1 - 1 / 3, 0.5], rtol=1e-12)


def test_a_net_comes_down_to_its_budget():
    model = make(2.0, blocks=2, rate=0.3)
    budget = kd.MacBudget(0.5, IMAGES, every=2)
    watch, _ = fit(model, budget, epochs=30)
    assert watch.shares[1] > 0.8
    assert abs(np.mean(watch.shares[-10:]) - 0.5) < 0.08


# ## What is refused


def begin(model, **options):
    """What training would begin with, without training."""
    budget = kd.MacBudget(0.5, IMAGES, total_steps=3, **options)
    budget.set_model(model)
    budget.on_train_begin()
    return [item.name for item, *_ in budget._prices]


MACS = {"coefficient": 0.0, "weighting": "macs"}


@pytest.mark.parametrize(
    "prices, options, message",
    [
        ([kd.BatchShaping()], {}, r"the regularizers \['batch_shaping'\]"),
        ([], {}, r"must have controllers with .* the regularizers \[\]"),
        ([kd.GateSparsity(0.1)], {}, "does not count costs: weighting=None"),
        (
            [kd.GateSparsity(**MACS, reduction="mean")],
            {},
            "'gate_sparsity' of '.*', which is averaged: reduction='mean'",
        ),
        (
            [kd.GateSparsity(kd.LinearSchedule(0.0, 1.0), weighting="macs")],
            {},
            "which follows a schedule of its own",
        ),
        (
            [kd.GateSparsity(**MACS), kd.GateSparsity(**MACS, name="b")],
            {},
            r"`regularizer` must name .* \['gate_sparsity', 'b'\]",
        ),
        (
            [kd.GateSparsity(**MACS), kd.BatchShaping(name="b")],
            {"regularizer": "b"},
            "'b' of '.*', a BatchShaping",
        ),
        (
            [kd.GateSparsity(**MACS)],
            {"regularizer": "b"},
            r"of the name 'b' .*\['gate_sparsity'\]",
        ),
    ],
)
def test_what_cannot_be_the_price_of_macs_is_refused(prices, options, message):
    with pytest.raises(ValueError, match=message):
        begin(make(prices=prices), **options)


@pytest.mark.parametrize(
    "prices, options, driven",
    [
        ([kd.GateSparsity(**MACS, name="any")], {}, "any"),
        ([kd.GateSparsity(0.1), kd.GateSparsity(**MACS, name="b")], {}, "b"),
        ([kd.GateSparsity(**MACS, norm="l1")], {}, "gate_sparsity"),
        (
            [kd.GateSparsity(**MACS), kd.GateSparsity(**MACS, name="b")],
            {"regularizer": "b"},
            "b",
        ),
    ],
)
def test_the_price_is_found_by_what_it_is(prices, options, driven):
    assert begin(make(prices=prices, blocks=2), **options) == [driven] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 1.5},
        {"share": "half"},
        {"total_steps": 0},
        {"begin": -0.1},
        {"end": 2.0},
        {"begin": 0.6},
        {"every": 0},
        {"gain": 20.0},
        {"gain": (1.0, 2.0, 3.0)},
        {"gain": (1.0, -0.5)},
        {"gain": (float("nan"), 0.5)},
    ],
)
def test_bad_arguments_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
        kd.MacBudget(**{"share": 0.5, "x": IMAGES, **wrong})


def test_there_must_be_images_to_measure_on():
    with pytest.raises(ValueError, match="`x` must hold at least one image"):
        kd.MacBudget(0.5, IMAGES[:0])


@pytest.mark.parametrize("share", [0.45, 0.6, 0.8])
def test_gates_are_moved_to_the_budget(share):
    """However the price has done: what is spent in the end is what may be."""
    keras.utils.set_random_seed(3)
    price = [kd.GateSparsity(0.0, weighting="macs")]
    model = kd.add_channel_gates(mobile(), groups=4, regularizers=price)
    model = lively(kd.add_layer_gates(model, regularizers=price), pictures(24))
    x, y = pictures(24), np.arange(24) % 5
    budget = kd.CostBudget(share, x, end=0.0, gain=(0.0, 0.0), settle_from=0.5)
    before = [keras.ops.convert_to_numpy(v).copy() for v in kd.gate_variables(model)]
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[budget]).history
    table = kd.count_macs(model)
    spent = float(table.of(kd.decide(model, x)).mean()) / table.total
    assert spent == pytest.approx(budget.share) == history["mac_share"][-1]
    assert share - 0.05 < spent <= share + 0.01  # three decisions on 24 images
    # All biases are moved alike, and nothing else is.
    moved = set()
    for variable, old in zip(kd.gate_variables(model), before, strict=True):
        change = keras.ops.convert_to_numpy(variable) - old
        if variable.path.endswith("expand/bias"):
            moved.add(round(float(change.ravel()[0]), 4))
            np.testing.assert_allclose(change, change.ravel()[0], atol=1e-5)
        else:
            np.testing.assert_array_equal(change, 0)
    assert len(moved) == 1


def test_gates_that_are_near_stay():
    model = lively(kd.add_channel_gates(mobile(), groups=4), pictures(24))
    table = kd.count_macs(model)
    x = pictures(24)
    spent = float(table.of(kd.decide(model, x)).mean()) / table.total
    budget = kd.CostBudget(min(spent + 0.005, 1.0), x, 4, settle_from=0.0)
    budget._costs, budget._decider = table, DecisionModel(model)
    budget.set_model(model)
    before = model.get_weights()
    budget._ends = (0.0, 0.0)
    budget._settle()
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="`settle_from` must be"):
        kd.CostBudget(0.5, x, settle_from=2.0)
