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


def cifar_like(path):
    """Random pictures in CIFAR's layout, 100 and 40 of them."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 100), ("test", 40)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8")
        arrays[f"y_{name}"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return arrays


def test_training_on_cifar_pictures(tmp_path):
    arrays = cifar_like(tmp_path / "data.npz")
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


def test_beside_exits_and_nets_alone(tmp_path):
    arrays = cifar_like(tmp_path / "data.npz")
    settings = (
        f"--data={tmp_path}/data.npz",
        f"--out={tmp_path}/out",
        "--model=sliced_resnet",
        "--blocks=1",
        "--width=8",
        "--subnetworks=2",
        "--epochs=1",
    )
    rivals = ("--alone=4,6", "--exit_epochs=1", "--timed=2", "--drops=0.5")
    run("anytime_cifar.py", *settings)
    printed = run("anytime_rivals.py", *settings, *rivals)
    held = json.loads((tmp_path / "out" / "rivals.json").read_text())
    rows = {row["net"]: row for row in held["rows"]}
    later = "exits, by confidence, 50 points less on validation"
    assert list(rows) == [
        *("sub-network 1", "sub-network 2", "alone, width 4", "alone, width 6"),
        *("exit 1", "exit 2", "exit 3", later),
    ]
    x, y = arrays["x_test"].astype("float32"), arrays["y_test"]
    anytime = keras.saving.load_model(tmp_path / "out" / "model.keras")
    alone = kd.LiteRTModel(tmp_path / "out" / "alone_4.float32.tflite")
    right = {
        "sub-network 1": (anytime.predict_at(1, x).argmax(-1) == y).mean(),
        "alone, width 4": alone.evaluate(x, y)["accuracy"],
    }
    file = kd.LiteRTModel(tmp_path / "out" / "exits.float32.tflite")
    for number, limits in enumerate(([-9, -9], [9, -9], [9, 9]), 1):
        limits = np.array(limits, "float32")
        said = [file.run("classify_at", image=i, thresholds=limits)["label"] for i in x]
        right[f"exit {number}"] = (np.ravel(said) == y).mean()
    for name, accuracy in right.items():
        assert rows[name]["accuracy"] == pytest.approx(accuracy), name
        assert f"{accuracy:.2%}" in printed
    assert rows["exit 1"]["macs"] < rows["exit 2"]["macs"] < rows["exit 3"]["macs"]
    assert rows["sub-network 1"]["ms"] < rows["sub-network 2"]["ms"]
    files = {p.name for p in (tmp_path / "out").glob("*.tflite")}
    assert "anytime.float32.tflite" in files
