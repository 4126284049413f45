"""The examples that gate a net, and hold it to budgets: with very small settings."""

import json

import keras
import pytest

import keras_dyngate as kd
from tests.examples.scripts import run, small_net

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the script exports"
    ),
]


def test_a_net_is_gated_and_both_files_are_judged(tmp_path):
    small_net(tmp_path / "plain.keras")
    arguments = (f"--out={tmp_path}", "--gates=both", "--share=0.7", "--epochs=1")
    done = run("gate_your_own_net.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gated / untouched: " in done.stdout
    found = json.loads((tmp_path / "result.json").read_text())
    rows = found["rows"]
    plain = kd.count_macs(keras.models.load_model(tmp_path / "plain.keras")).total
    assert rows["untouched"]["macs"] == pytest.approx(plain, abs=1000)  # in thousands
    ratio = rows["gated"]["macs"] / rows["untouched"]["macs"]
    assert found["macs_ratio"] == ratio < 0.85
    assert all(row["ms"] > 0 for row in rows.values())


def test_budgets_are_kept_and_a_run_is_gone_on_with(tmp_path):
    small_net(tmp_path / "plain.keras")
    arguments = (f"--out={tmp_path}", "--shares=0.8", "--units=macs", "--steps=2")
    done = run("keep_budgets.py", *arguments, "--seeds=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert abs(row["spent"] - 0.8) < 0.1
    table = kd.CostTable.load(tmp_path / "table.json")
    assert table.unit == "ms" and table.measured.trials > 0
    done = run("keep_budgets.py", *arguments, "--seeds=2")  # one is there
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows[0] == row and [r["seed"] for r in rows] == [0, 1]
    assert "furthest from its budget: 0." in done.stdout
