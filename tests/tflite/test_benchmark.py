"""The benchmark's two modes, end to end, on nets small enough for a test."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.export.nets import images, small_net  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "benchmark.py"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]


def run(folder, *arguments):
    out = folder / "out.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--json", out, "--rounds=2", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text()), done.stdout


def test_forced_rates_beside_the_plain_net(tmp_path):
    found, printed = run(
        tmp_path,
        *("--model=gated_resnet20", "--gate_groups=1", "--rates=1,0", "--against="),
        *("--image_size=16", "--quantization=dynamic"),
    )
    plain, wide_open, shut = found["rows"]
    profile = kd.count_macs(kd.gated_resnet20(input_shape=(16, 16, 3), gate_groups=1))
    assert abs(plain["executed_macs"] - profile.total) <= 500
    assert wide_open["executed_macs"] - plain["executed_macs"] == pytest.approx(
        profile.controllers, abs=1000
    )
    assert shut["executed_macs"] == pytest.approx(
        profile.ungated + profile.controllers, abs=1000
    )
    for row in found["rows"]:
        assert row["median_ms"] > 0
        assert row["time_ratio"] > 0
    assert plain["time_ratio"] == plain["cost_ratio"] == 1
    assert found["cpu"] and found["settings"]["threads"] == 1
    assert "MMACs" in printed and "median ms" in printed


def test_layers_at_fixed_rates(tmp_path):
    found, _ = run(
        tmp_path,
        *("--model=lc_resnet20", "--mode=l", "--rates=1,0", "--against="),
        "--image_size=16",
    )
    plain, whole, skipped = found["rows"]
    profile = kd.count_macs(kd.lc_resnet20(mode="l", input_shape=(16, 16, 3)))
    assert whole["executed_macs"] - plain["executed_macs"] == pytest.approx(
        profile.controllers, abs=1000
    )
    assert skipped["executed_macs"] == pytest.approx(
        profile.ungated + profile.controllers, abs=1000
    )


def test_a_trained_net_on_pictures(tmp_path):
    model = small_net()
    model.save(tmp_path / "net.keras")
    x = images(6)
    np.savez(tmp_path / "x.npz", images=x)
    found, _ = run(
        tmp_path, f"--keras_file={tmp_path}/net.keras", f"--images={tmp_path}/x.npz"
    )
    own, wide_open = found["rows"]
    decisions = kd.decide(model, x)
    expected = kd.count_macs(model).of(decisions).mean()
    assert own["executed_macs"] == pytest.approx(expected, abs=1000)
    flat = np.concatenate([(d > 0).ravel() for d in decisions.values()])
    assert own["open_rate"] == pytest.approx(flat.mean())
    assert own["cost_ratio"] < 1 == wide_open["cost_ratio"]
