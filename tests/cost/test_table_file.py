"""Tables as files: the same after a round trip, and other files refused."""

import json

import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.cost import CostRow, CostTable, Gating, Measured
from keras_dyngate.cost.table_file import check_table
from tests.cost.test_fitting import TABLE, decisions

MS = CostTable(
    (
        CostRow("a", "conv", 1.5, (Gating("channel", 8), Gating("layer", 1, "b"))),
        CostRow("a", "gate", 0.25, controller=True, stage=2),
    ),
    per_subnetwork=(1.0, 2.0),
    per_step=(1.0, 1.5),
    unknown=("x",),
    unit="ms",
    group_sizes={"a": 4},
    measured=Measured("phone", 2, "int8", r2=0.5),
    plain=1.25,
)


@pytest.mark.parametrize("table", [MS, TABLE])
def test_round_trip(tmp_path, table):
    table.save(tmp_path / "table.json")
    again = kd.CostTable.load(tmp_path / "table.json")
    assert repr(again) == repr(table) and again.rows == table.rows
    assert again.per_exit == table.per_exit and again.group_sizes == table.group_sizes
    json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    if table is TABLE:
        found = decisions()
        np.testing.assert_array_equal(again.of(found), table.of(found))
        assert again.of(found).dtype == np.int64


@pytest.mark.parametrize("keep", [0, 30, 300])
def test_damaged(tmp_path, keep):
    path = tmp_path / "table.json"
    MS.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="`path` must be a file that `CostTable.save`"):
        kd.CostTable.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"rows": [{"layer": "a"}]},
        {"rows": [{"layer": "a", "kernel": "", "cost": -1, "gatings": []}]},
        {"measured": {"colour": "blue"}},
    ],
)
def test_another_content(tmp_path, change):
    path = tmp_path / "table.json"
    MS.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="`path` must be a file that `CostTable.save`"):
        kd.CostTable.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        kd.CostTable.load(tmp_path / "none.json")


def test_a_table_of_another_model():
    assert check_table(TABLE, TABLE) is TABLE
    with pytest.raises(
        ValueError, match="`table` must be of this model.*in ms without"
    ):
        check_table(MS, TABLE)
    with pytest.raises(ValueError, match="`measure` must be a CostTable.*measure=3"):
        check_table(3, TABLE, "measure")
