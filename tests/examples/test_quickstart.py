"""The quickstart as a user runs it, with settings too small to teach a net anything."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart.py"
KINDS = ("float32", "dynamic", "int8")
FILES = [f"{net}_{kind}" for net in ("plain", "gated") for kind in KINDS]

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the script exports"
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


@pytest.mark.heavy
def test_quickstart_writes_files_figures_and_a_page(tmp_path):
    from keras_dyngate.runtime import LiteRTModel

    out = tmp_path / "out"
    done = run(
        f"--out={out}",
        "--start_epochs=1",
        "--epochs=1",
        "--width=0.5",
        "--group_size=8",
        "--train_images=64",
        "--test_images=12",
        "--seed=3",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Where the time went" in done.stdout

    results = json.loads((out / "results.json").read_text())
    assert list(results["files"]) == FILES
    macs = results["macs"]
    for name, row in results["files"].items():
        assert row["bytes"] == (out / f"{name}.tflite").stat().st_size
        assert 0 < row["median_ms"] and 0 <= row["accuracy"] <= 1
        if name.endswith("float32"):
            assert row["beyond_ties"] == 0
    for kind in KINDS:
        assert results["files"][f"plain_{kind}"]["time_ratio"] == 1.0
    plain, gated = (results["files"][f"{n}_float32"] for n in ("plain", "gated"))
    # The files say which work they did; Keras's decisions say which they should.
    assert math.isclose(plain["executed_macs"], macs["plain"], abs_tol=1000)
    assert math.isclose(gated["executed_macs"], macs["gated_mean"], abs_tol=1000)
    for ratio, key in (
        ("time_ratio", "median_ms"),
        ("cold_time_ratio", "cold_median_ms"),
    ):
        assert math.isclose(gated[ratio], gated[key] / plain[key], rel_tol=1e-6)
    assert len(results["decisions"]["layers"]) == 9
    for key in ("open_rate", "gate_sparsity_coefficient", "val_accuracy"):
        assert len(results["history"]["gated"][key]) == 1
    made = results["provenance"]
    assert "--seed=3" in made["command"] and str(tmp_path) not in json.dumps(results)
    assert made["hardware"] and "digits" in made["data"]

    page = (out / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert f"{gated['time_ratio']:.2f}" in page and made["hardware"] in page

    litert = LiteRTModel(out / "gated_int8.tflite")
    assert litert.labels == [str(digit) for digit in range(10)]
    image = np.zeros((32, 32, 3), "float32")
    assert litert.run("classify", image=image)["label"].shape == (1,)


@pytest.mark.heavy
def test_help_and_unknown_arguments():
    done = run("--help")
    assert "--sparsity" in done.stdout
    done = run("stray")
    assert done.returncode == 1 and "Unexpected arguments" in done.stderr
