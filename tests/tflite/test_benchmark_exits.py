"""The benchmark of early exits, end to end, on a small net."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_dyngate as kd

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "benchmark_exits.py"


@pytest.mark.heavy
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)
def test_paths_beside_the_plain_net(tmp_path):
    out = tmp_path / "out.json"
    arguments = ["--model=resnet20", "--input_size=16", "--images=6", "--rounds=6"]
    arguments += ["--after=stage1_block2,stage2_block2", f"--json={out}"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    trunk = kd.resnet20(input_shape=(16, 16, 3))
    model = kd.add_decision_gates(trunk, ["stage1_block2", "stage2_block2"])
    per_exit = kd.count_macs(model).per_exit
    rows = found["rows"]
    assert rows["plain"]["macs"] == kd.count_macs(trunk).total
    assert [rows[f"to exit {i}"]["macs"] for i in range(3)] == list(per_exit)
    assert found["shares"] == pytest.approx([1 / 3] * 3)
    assert rows["as it decides"]["macs"] == pytest.approx(sum(per_exit) / 3)
    assert all(row["mean_ms"] > 0 and row["time_ratio"] > 0 for row in rows.values())
    cuts = [row["cut_ratio"] for row in rows.values()]  # plain, as it decides, exits
    assert [cut is None for cut in cuts] == [True, True, False, False, True]
    assert all(0.3 < cut < 5 for cut in cuts[2:4])
    assert found["mean_over_paths"] > 0 and found["bytes_over_plain"] > 1
    places = [rows[f"to exit {i}"]["place"] for i in range(3)]
    named = ["after stage1_block2", "after stage2_block2", "at the end"]
    assert places == named
    assert found["settings"]["head"] == "linear" and not found["settings"]["first"]
    assert "time ratio" in done.stdout and "MMACs" in done.stdout
