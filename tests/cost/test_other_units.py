"""Budgets, weights, priming, thresholds, cuts and the summary in ms instead of MACs."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.cost.table_file import table_config
from tests.models.gating.nets import mobile, pictures

ops, to_numpy = keras.ops, keras.ops.convert_to_numpy
X, Y = pictures(32), np.arange(32) % 5


def gated(weighting="macs", **options):
    price = [kd.GateSparsity(0.0, weighting=weighting)]
    net = kd.add_channel_gates(mobile(), groups=2, regularizers=price)
    return kd.add_layer_gates(net, regularizers=price)


def in_ms(model, dear="gated_apart", factor=20.0):
    """A table in which one chain's MACs take so many times as long as others'."""
    table = kd.count_macs(model)
    rows = tuple(
        dataclasses.replace(
            row,
            cost=row.cost * 1e-5 * (factor if row.layer.startswith(dear) else 1.0),
        )
        for row in table.rows
    )
    return dataclasses.replace(table, rows=rows, unit="ms")


def test_sparsity_is_weighed_by_the_table():
    model = gated()
    table = in_ms(model)
    for layer in model.layers:
        if not isinstance(layer, kd.DynamicLayer):
            continue
        for item in layer.decisions():
            gate, units = item.controller, item.groups
            logit = np.linspace(-2, 2, 4 * units).reshape(4, units).astype("float32")
            output = kd.ControllerOutput(ops.convert_to_tensor(0 * logit), logit)
            penalty = kd.GateSparsity(1.0, weighting=table)
            found = float(penalty(output, penalty.unit_costs(gate)))
            # By hand: what the rows under the decision cost, for each probability.
            name = f"{layer.name}/{item.key}"
            rows = [r for r in table.rows if not r.controller and r.is_under(name)]
            weight = sum(row.cost for row in rows) / units
            expected = (1 / (1 + np.exp(-logit))).mean(0).sum() * weight
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_table_in_a_config(tmp_path):
    table = in_ms(gated())
    model = gated(weighting=table)
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    (price,) = again.get_layer("gated_apart").channel_gate.regularizers
    assert table_config(price.weighting) == table_config(table)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)  # its penalty is in ms, in training too


def test_a_table_of_another_model():
    price = kd.GateSparsity(1.0, weighting=in_ms(gated()))
    x = keras.Input((8, 8, 4))
    gate = kd.BinaryGate(4, regularizers=[price])
    block = kd.GatedBasicBlock(4, channel_gate=gate, name="other")
    model = keras.Model(x, block(x))
    model.compile("sgd", "mse")
    with pytest.raises(Exception, match="has no decision 'other/channel'"):
        model.fit(np.ones((2, 8, 8, 4)), np.ones((2, 8, 8, 4)), verbose=0)


def spent(model, table):
    return float(table.of(kd.decide(model, X)).mean()) / table.total


@pytest.mark.parametrize("weighting", ["macs", "table"])
def test_a_budget_in_ms(weighting):
    keras.utils.set_random_seed(0)
    model = gated()
    table = in_ms(model)
    if weighting == "table":
        model = gated(weighting=table)
    budget = kd.CostBudget(0.55, X, table=table, end=0.3, every=2, gain=(40.0, 2.0))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    history = model.fit(
        X, Y, batch_size=8, epochs=40, verbose=0, callbacks=[budget]
    ).history
    assert "mac_share" not in history and len(history["cost_share"]) == 40
    assert abs(spent(model, table) - 0.55) < 0.12  # three decisions, two units each


def test_what_open_gates_cost_in_a_budget_follows_the_table():
    """Coefficients are such that all gates open cost what the table says, over prices."""
    shares = {}
    for name, table in (("macs", None), ("ms", in_ms(gated()))):
        model = gated()
        model.compile("sgd", "sparse_categorical_crossentropy")
        budget = kd.CostBudget(0.5, X, 10, table=table)
        budget.set_model(model)
        budget.on_train_begin()
        table = table or kd.count_macs(model)
        for item, _, scale in budget._prices:
            gates = [
                (gate, item_, layer)
                for layer in model._flatten_layers()
                if isinstance(layer, kd.DynamicLayer)
                for item_ in layer.decisions()
                for gate in [item_.controller]
                if item in gate.regularizers
            ]
            ((gate, decision, layer),) = gates
            weights = item.unit_weights(gate.unit_macs, gate.units).sum()
            under = table.per_unit(f"{layer.name}/{decision.key}", gate.units).sum()
            np.testing.assert_allclose(
                scale * weights, under / table.gateable, rtol=1e-5
            )
            shares[name, layer.name] = scale
    dear = shares["ms", "gated_apart"] / shares["macs", "gated_apart"]
    cheap = shares["ms", "gated_wide"] / shares["macs", "gated_wide"]
    np.testing.assert_allclose(dear / cheap, 20, rtol=1e-5)


def test_budgets_in_words():
    model = gated()
    table = in_ms(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    budget = kd.CostBudget("latency:0.9x", X, table=table)
    model.fit(X, Y, verbose=0, callbacks=[budget])
    assert budget.target == pytest.approx(0.9)
    model.fit(X, Y, verbose=0, callbacks=[kd.CostBudget("macs:0.95x", X)])
    least = table.least / table.total
    with pytest.raises(ValueError, match=f"everything shut .* {least:.3f}x"):
        tight = kd.CostBudget("latency:0.01x", X, table=table)
        model.fit(X, Y, verbose=0, callbacks=[tight])


@pytest.mark.parametrize(
    ("share", "table", "message"),
    [
        ("latency:0.5x", None, "`table` must be given for a budget in ms"),
        ("accuracy:-1", None, "`share` must be a budget of a cost"),
        ("fast", None, "`share` must be like"),
        (1.5, None, "`share` must be"),
        (0.5, {"rows": []}, "`table` must be a CostTable or None"),
    ],
)
def test_bad_budgets(share, table, message):
    with pytest.raises(ValueError, match=message):
        kd.CostBudget(share, X, table=table)


def test_a_budget_with_another_models_table():
    model = gated()
    model.compile("sgd", "sparse_categorical_crossentropy")
    other = kd.count_macs(mobile())
    with pytest.raises(ValueError, match="`table` must be of this model"):
        model.fit(X, Y, verbose=0, callbacks=[kd.CostBudget(0.5, X, table=other)])


def test_priming_in_ms():
    model = gated()
    table = in_ms(model)
    kd.prime_gates(model, X, Y, "latency:0.6x", table=table)
    in_time = spent(model, table)
    assert in_time <= 0.6
    macs = spent(model, kd.count_macs(model))
    kd.prime_gates(model, X, Y, 0.6)
    assert spent(model, kd.count_macs(model)) <= 0.6 and macs != in_time


def test_training_in_one_call():
    model = gated()
    table = in_ms(model)
    history = kd.train_gates(
        model, X, Y, "latency:0.7x", table=table, epochs=2, verbose=0, augmentation=None
    ).history
    assert len(history["cost_share"]) == 2
    with pytest.raises(ValueError, match="needs a table in ms"):
        kd.train_gates(model, X, Y, "latency:0.7x", epochs=1)


@pytest.fixture(scope="module")
def exits():
    keras.utils.set_random_seed(1)
    model = kd.add_decision_gates(mobile(), after=["sum"], pooling="avg")
    model.fit_gates(X, Y, seed=0)
    return model


def test_thresholds_by_a_table(exits):
    table = in_ms(exits, dear="apart")
    first, last = table.per_exit
    limit = (first + last) / 2
    a = exits.calibrate(X, Y, budget=f"latency:{limit}ms", table=table)
    b = exits.calibrate(X, Y, ms=limit, path_ms=table.per_exit)
    assert repr(a) == repr(b)
    shares = np.bincount(exits.predict(X, verbose=0)["exit"].ravel(), minlength=2) / 32
    assert shares @ [first, last] <= limit
    a = exits.calibrate(X, Y, budget="macs:0.9x")
    b = exits.calibrate(X, Y, macs=0.9 * kd.count_macs(exits).total)
    assert repr(a) == repr(b)
    a = exits.calibrate(X, Y, budget="accuracy:-5", table=table)
    b = exits.calibrate(X, Y, accuracy_drop=0.05, path_ms=table.per_exit)
    assert repr(a) == repr(b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "latency:1ms"}, "`table` must be given for a budget in ms"),
        (
            {"budget": "macs:0.5x", "ms": 3.0},
            r"`budget` must be the only wish.*\['ms'\]",
        ),
        ({"budget": "macs:0.0001x"}, "cannot be kept: with everything shut"),
        ({"budget": "cheap"}, "`budget` must be like"),
    ],
)
def test_bad_wishes(exits, options, message):
    with pytest.raises(ValueError, match=message):
        exits.calibrate(X, Y, **options)


def test_path_ms_and_a_table(exits):
    table = in_ms(exits)
    with pytest.raises(ValueError, match="Give `path_ms` or `table`. Received: both"):
        exits.calibrate(X, Y, ms=1.0, path_ms=[1, 2], table=table)
    with pytest.raises(ValueError, match="`table` must be of this model"):
        exits.calibrate(X, Y, ms=1.0, table=kd.count_macs(mobile()))


def test_cuts_by_a_table(exits):
    net = mobile()
    table = in_ms(exits, dear="wide")
    points = kd.cut_points(net, measure=table)
    plain = kd.cut_points(net)
    assert [p.layer for p in points] == [p.layer for p in plain]
    of = {row.layer: row.cost for row in table.rows if not row.controller}
    order = [call.name for call in net.layers]
    whole = sum(of.values())
    for point in points:
        if point.layer not in order:
            continue
        upto = order[: order.index(point.layer) + 1]
        spent_ms = sum(cost for layer, cost in of.items() if layer in upto)
        assert point.ms == pytest.approx(spent_ms)
        assert point.time_share == pytest.approx(spent_ms / whole)
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="`measure` must be a table of this model"):
        kd.cut_points(net, measure=in_ms(other))


def test_the_summary_has_a_column_more():
    model = gated()
    table = dataclasses.replace(in_ms(model), measured=kd.cost.Measured("a phone"))
    lines = []
    found = kd.decide(model, X)
    kd.summary(model, found, table=table, measure=False, print_fn=lines.append)
    text = "\n".join(lines)
    assert "ms, all open" in text and "mean ms" in text and "a phone" in text
    total = next(line for line in lines if "total" in line)
    assert f"{table.of(found).mean():.4g}" in total
    assert f"{table.total + table.controllers:.4g}" in total
