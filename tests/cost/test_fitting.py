"""A table fitted to measurements: exact where the costs are of the model's form."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_dyngate.cost import CostRow, CostTable, Gating, Measured
from keras_dyngate.cost.fitting import fit_costs

RNG = np.random.default_rng(0)
TABLE = CostTable(
    (
        CostRow("stem", "", 1000),
        CostRow("a", "layer_gate", 10, controller=True),
        CostRow("a", "conv1", 80, (Gating("layer"), Gating("channel", 8))),
        CostRow("a", "conv2", 160, (Gating("layer"), Gating("channel", 8))),
        CostRow("a", "always", 40, (Gating("layer"),)),
        CostRow("exit1", "", 50, controller=True),
        CostRow("late", "", 500, stage=1),
        CostRow("b", "conv", 300, (Gating("channel", 4),), stage=1),
    )
)
FIXED, PER_GROUP, LAYER, LATE, B = 3.0, 0.5, 0.25, 2.0, 0.75


def decisions(count=200):
    return {
        "a/layer": (RNG.uniform(size=(count, 1)) < 0.7).astype("float32"),
        "a/channel": (RNG.uniform(size=(count, 8)) < 0.5).astype("float32"),
        "b/channel": (RNG.uniform(size=(count, 4)) < 0.5).astype("float32"),
        "exit": RNG.integers(0, 2, (count, 1)),
    }


def costs(found):
    """What a machine would take that runs channels of `a` in pairs, those of `b` alone."""
    pairs = found["a/channel"].reshape(-1, 4, 2).max(-1).sum(-1)
    inside = found["a/layer"][:, 0] * (LAYER + PER_GROUP * pairs)
    late = LATE + B * found["b/channel"].sum(-1)
    return FIXED + inside + (found["exit"][:, 0] >= 1) * late


def fitted(found=None, values=None, **options):
    found = decisions() if found is None else found
    values = costs(found) if values is None else values
    given = {"unit": "ms", "measured": Measured("test"), "group_sizes": {"a": 2}}
    return fit_costs(TABLE, found, values, **{**given, **options})


def test_costs_of_this_form_are_found():
    table = fitted()
    fresh = decisions()
    np.testing.assert_allclose(table.of(fresh), costs(fresh), rtol=1e-6)
    assert table.measured.r2 > 1 - 1e-9 and table.measured.worst < 1e-6
    assert table.measured.trials == 200 and table.unit == "ms"
    # Rows under the same decisions share what is found by their MACs.
    of = {row.name: row.cost for row in table.rows}
    np.testing.assert_allclose(
        [of["a/conv1"], of["a/conv2"], of["a/always"], of["b/conv"]],
        [4 * PER_GROUP / 3, 8 * PER_GROUP / 3, LAYER, 4 * B],
        rtol=1e-6,
    )
    np.testing.assert_allclose(of["late"], LATE, rtol=1e-6)
    np.testing.assert_allclose(
        table.per_exit,
        [FIXED + LAYER + 4 * PER_GROUP, FIXED + LAYER + 4 * PER_GROUP + LATE + 4 * B],
    )
    assert table.least == pytest.approx(FIXED)


def test_the_plain_net_is_the_total():
    table = fitted(plain=6.0)
    assert table.total == 6.0
    everything = FIXED + LAYER + 4 * PER_GROUP + LATE + 4 * B
    assert table.controllers == pytest.approx(everything - 6.0)


def test_what_is_held_out_tells_a_bad_fit():
    found = decisions(400)
    noise = np.random.default_rng(1).uniform(0.5, 1.5, 400)
    table = fitted(found, costs(found) * noise)
    assert 0.15 < table.measured.error < 0.4 and table.measured.r2 < 0.7


def test_stages_alone():
    found = {name: np.ones_like(x[:2]) for name, x in decisions().items()}
    found["exit"] = np.array([[0], [1]])
    table = fitted(found, np.array([4.0, 7.0]), by_stage=True, group_sizes=None)
    assert [row.gatings for row in table.rows] == [row.gatings for row in TABLE.rows]
    np.testing.assert_allclose(table.of(found), [4.0, 7.0])
    assert np.isnan(table.measured.r2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.ones(3),
            r"as many as there are trials. Received: shape \(3,\) for \[200\]",
        ),
        (np.full(200, np.nan), "must be positive. Received: .nan"),
        (np.zeros(200), "must be positive. Received: .0.0"),
    ],
)
def test_bad_costs(values, message):
    with pytest.raises(ValueError, match=message):
        fitted(values=values)


def test_decisions_of_another_model():
    found = decisions()
    del found["b/channel"]
    with pytest.raises(ValueError, match="must hold 'b/channel'"):
        fitted(found, np.ones(200))
    found = decisions()
    del found["exit"]
    with pytest.raises(ValueError, match="must hold 'exit'"):
        fitted(found, np.ones(200))
