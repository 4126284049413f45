"""The anytime examples as a user runs them, on few images and for one epoch."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the scripts export"
    ),
]


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_curve_and_deadlines_on_digits(tmp_path):
    printed = run(
        "anytime.py",
        f"--out={tmp_path}",
        "--epochs=1",
        "--width=8",
        "--subnetworks=2",
        "--coarse_heads=1",
        "--train_images=128",
    )
    found = json.loads((tmp_path / "results.json").read_text())
    first, second = found["curve"]
    assert first["accuracy"] == first["coarse_accuracy"]
    assert 0 <= second["agreement"] <= 1 and second["macs"] > first["macs"]
    rows = found["deadlines"]
    assert rows[0]["deadline_ms"] == 0 and rows[0]["share_of_k"] == {"1": 1.0}
    assert rows[0]["in_time"] == 0
    assert rows[-1]["deadline_ms"] is None and rows[-1]["share_of_k"] == {"2": 1.0}
    assert rows[-1]["in_time"] == 1
    assert rows[-1]["accuracy"] == pytest.approx(second["accuracy"], abs=0.01)
    assert "MACs" in printed and "ms" in printed and "deadline" in printed
    assert (tmp_path / "anytime.png").stat().st_size > 1000
    assert "step_2" in kd.LiteRTModel(tmp_path / "anytime.tflite").signatures


def test_training_on_cifar_pictures(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 100), ("test", 40)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8")
        arrays[f"y_{name}"] = np.arange(count) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    printed = run(
        "anytime_cifar.py",
        f"--data={tmp_path}/data.npz",
        f"--out={tmp_path}/out",
        "--model=inclusive_resnext",
        "--blocks=1",
        "--width=8",
        "--subnetworks=2",
        "--epochs=1",
        "--train_samples=64",
    )
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["training_images"] == 64 and found["test_images"] == 40
    model = keras.saving.load_model(tmp_path / "out" / "model.keras")
    profile = kd.count_macs(model)
    assert [p["macs"] for p in found["points"]] == list(profile.per_subnetwork)
    x, y = arrays["x_test"].astype("float32"), arrays["y_test"]
    for k in (1, 2):
        accuracy = (model.predict_at(k, x).argmax(-1) == y).mean()
        assert found["points"][k - 1]["accuracy"] == pytest.approx(accuracy)
    assert "val_accuracy_2" in printed
