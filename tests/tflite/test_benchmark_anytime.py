"""The benchmark of anytime nets, end to end, on small nets."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_dyngate as kd

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "benchmark_anytime.py"
SIZES = {"blocks": 1, "width": 8, "subnetworks": 2}
GROUPS = {"branch_width": 2, "cardinality": 2}

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]


def benchmark(tmp_path, model, *arguments, **sizes):
    """What the script prints and writes."""
    out = tmp_path / "out.json"
    given = [f"--{name}={value}" for name, value in sizes.items()]
    given += ["--input_size=8", "--images=2", "--rounds=4", f"--json={out}"]
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--model={model}", *given, *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads(out.read_text())


def profile(model, **sizes):
    return kd.count_macs(getattr(kd, model)(**sizes, input_shape=(8, 8, 3)))


def check_rows(rows, macs):
    """MACs as counted, shares of the largest, and some time for each."""
    assert {name: row["macs"] for name, row in rows.items()} == macs
    for row in rows.values():
        assert row["macs_share"] == row["macs"] / macs["reference"]
        assert row["median_ms"] > 0 and row["time_ratio"] > 0
    assert rows["reference"]["time_ratio"] == 1


def test_steps_beside_the_largest_net(tmp_path):
    text, found = benchmark(
        tmp_path, "sliced_resnet", "--alone=1,2", "--quantization=dynamic", **SIZES
    )
    counted = profile("sliced_resnet", **SIZES)
    macs = dict(zip(("start", "step_2"), counted.per_step, strict=True))
    wholes = counted.per_subnetwork
    macs |= {"classify_k1": wholes[0], "classify_k2": wholes[1], "reference": wholes[1]}
    check_rows(found["rows"], macs)
    assert found["sum_over_reference"] > 0 and found["start_over_share"] > 0
    share = macs["start"] / macs["reference"]
    rows = found["rows"]
    assert found["start_over_share"] == pytest.approx(
        rows["start"]["time_ratio"] / share
    )
    assert found["start_of_the_sum_over_share"] < 1 / share
    assert found["bytes"] > 0 and found["bytes_over_reference"] > 0
    settings = {**SIZES, "model": "sliced_resnet", "quantization": "dynamic"}
    settings |= {"rounds": 4, "seed": 0, "weights": "smaller"}
    assert found["settings"].items() >= settings.items()
    assert "time ratio" in text and "MMACs" in text
    assert "sum of the steps: " in text and "classify_k2" in text


def test_subnetworks_of_an_inclusive_net(tmp_path):
    sizes = {**SIZES, **GROUPS}
    text, found = benchmark(tmp_path, "inclusive_resnext", "--weights=folded", **sizes)
    wholes = profile("inclusive_resnext", **sizes).per_subnetwork
    macs = {f"classify_k{k}": n for k, n in enumerate(wholes, 1)}
    check_rows(found["rows"], {**macs, "reference": wholes[-1]})
    assert found["settings"]["weights"] == "folded"
    assert "sum_over_reference" not in found and "sum of the steps" not in text
    assert "MMACs" in text and "file: " in text
