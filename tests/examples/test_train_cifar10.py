"""The training script as a user runs it, and as machines treat it.

The digits need no download. Nets are narrow and see few images: nothing is learned.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.backend_utils import BACKEND

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_cifar10.py"
RUN = (
    *("--dataset=digits", "--width=0.25", "--gate_group_size=4", "--batch_size=16"),
    *("--test_samples=16", "--learning_rate=0.02", "--noexport"),
)
LONG = (*RUN, "--deterministic", "--checkpoint_every=2", "--epochs=2")
LONG = (*LONG, "--train_samples=160")

pytestmark = pytest.mark.heavy
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="runs once")


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "COLUMNS": "120", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **environment):
    """Exit status, stdout, and stderr without what TensorFlow logs when it starts."""
    process = start(*arguments, **environment)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, own_lines(stderr)


def own_lines(stderr):
    return [
        line
        for line in stderr.splitlines()
        if line.strip() and not line.startswith(("I0000", "W0000", "WARNING: All log"))
    ]


def weights(folder):
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_cifar10") / "unbroken"
    status, stdout, stderr = run(*LONG, f"--out={folder}")
    assert status == 0, stderr[-20:]
    assert "epoch 2 of 2" in stdout
    return folder


@on_tensorflow
def test_the_run_folder_tells_what_was_done(unbroken):
    names = {"config.json", "log.csv", "checkpoint.npz", "model.keras", "result.json"}
    assert names <= {entry.name for entry in unbroken.iterdir()}
    result = json.loads((unbroken / "result.json").read_text())
    told = {
        "title": "digits_bas_resnet20",
        "train_images": 160,
        "test_images": 16,
        "epochs": 2,
        "seed": 0,
        "backend": "tensorflow",
        "files": {},
    }
    assert told.items() <= result.items()
    assert result["settings"] == json.loads((unbroken / "config.json").read_text())
    assert result["settings"]["width"] == 0.25
    assert not {"out", "data_dir", "hosts"} & set(result["settings"])
    assert "--width=0.25" in result["command"] and result["hardware"]
    assert str(unbroken.parent) not in json.dumps(result)
    assert result["training_s"] > 0 and 0 <= result["accuracy"] <= 1
    shares = [result[f"always_{which}"] for which in ("on", "off")]
    assert sum(shares) + result["conditional"] == pytest.approx(1)
    model = keras.saving.load_model(unbroken / "model.keras", compile=False)
    assert result["plain_macs"] == kd.count_macs(model).total
    assert 0 < result["macs"] < 1.2 * result["plain_macs"]
    with open(unbroken / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["batch_shaping_coefficient"]) == 0  # falls until a fifth
    assert 0 < float(rows[-1]["mac_share"]) < 1.2


@on_tensorflow
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, unbroken):
    out = tmp_path / "killed"
    process = start(*LONG, f"--out={out}")
    while not (out / "checkpoint.npz").exists():
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with np.load(out / "checkpoint.npz") as file:
        step = json.loads(bytes(file["header"]))["step"]
    assert 2 <= step < 20 and not (out / "model.keras").exists()

    status, stdout, stderr = run(*LONG, f"--out={out}")
    assert status == 0, stderr[-20:]
    for found, expected in zip(weights(out), weights(unbroken), strict=True):
        np.testing.assert_array_equal(found, expected)
    results = [
        json.loads((folder / "result.json").read_text()) for folder in (out, unbroken)
    ]
    for name in ("accuracy", "open_rate", "macs"):
        assert results[0][name] == results[1][name]


@on_tensorflow
def test_other_flags_for_the_same_folder_are_refused(unbroken):
    before = {entry: entry.read_bytes() for entry in unbroken.glob("*.*")}
    status, _, stderr = run(*LONG, f"--out={unbroken}", "--learning_rate=0.03")
    assert status == 1
    (line,) = stderr
    assert line.startswith("ValueError: ") and "['learning_rate']" in line
    assert {entry: entry.read_bytes() for entry in unbroken.glob("*.*")} == before


@on_tensorflow
def test_missing_data_are_one_line(tmp_path):
    status, stdout, stderr = run("--data_dir=nowhere", f"--out={tmp_path / 'run'}")
    assert status == 1 and stdout == ""
    (line,) = stderr
    assert "nowhere" in line and line.startswith("FileNotFoundError: ")


@on_tensorflow
@pytest.mark.parametrize(
    ("method", "gate", "kinds"),
    [
        ("lcnet", None, {"channel", "layer"}),
        ("lcnet", "layers", {"layer"}),
        ("bas", "both", {"channel", "layer"}),
    ],
)
def test_what_is_gated(tmp_path, method, gate, kinds):
    chosen = [] if gate is None else [f"--gate={gate}"]
    status, _, stderr = run(
        *(*RUN, f"--method={method}", *chosen, f"--out={tmp_path}"),
        *("--epochs=1", "--train_samples=32"),
    )
    assert status == 0, stderr[-20:]
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    decisions = kd.decide(model, np.zeros((1, 32, 32, 3)))
    assert {name.rpartition("/")[2] for name in decisions} == kinds
