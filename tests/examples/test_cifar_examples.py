"""The CIFAR-10 examples as a user runs them, on random pictures: nothing is learned."""

import json
import os
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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A file of pictures, and the weights of a net."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 140), ("test", 60)):
        shape = (count, 32, 32, 3)
        arrays[f"x_{name}"] = rng.integers(0, 256, shape).astype("uint8")
        arrays[f"y_{name}"] = np.arange(count) % 10
    np.savez(folder / "data.npz", **arrays)
    kd.resnet20().save(folder / "net.keras")
    return [f"--data={folder}/data.npz", f"--weights={folder}/net.keras", "--depth=20"]


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_lc_net_trains_resumes_and_reports(tmp_path, inputs):
    arguments = [*inputs, f"--out={tmp_path}", "--seeds=0", "--epochs=2"]
    run("lc_net.py", *arguments, "--variants=lc")
    first = json.loads((tmp_path / "results.json").read_text())
    assert set(first["runs"]) == {"lc_0"}
    found = first["runs"]["lc_0"]
    assert 0 <= found["test"]["accuracy"] <= 1 and found["file"]["decisions"] == 1
    assert (tmp_path / "lc_0.keras").is_file()

    printed = run("lc_net.py", *arguments, "--variants=lc,l")
    second = json.loads((tmp_path / "results.json").read_text())
    assert second["runs"]["lc_0"] == found and "l_0" in second["runs"]
    assert "MACs" in printed and "time" in printed
    model = keras.saving.load_model(tmp_path / "l_0.keras")
    profile = kd.count_macs(model)
    assert profile.controllers == sum(
        row.macs for row in profile.layers if row.kernel == "layer_gate"
    )


@pytest.mark.parametrize(
    ("head", "cells", "joint"),
    [("linear", 6, False), ("separable", 1, False), ("separable", 1, True)],
)
def test_decision_gates_judges_cells_and_a_file(tmp_path, inputs, head, cells, joint):
    more = [inputs[0].replace("--data", "--more"), "--more_limit=20"]
    together = ["--joint_epochs=1", "--precision=mixed_bfloat16"]
    printed = run(
        *("decision_gates.py", f"--head={head}"),
        *(*inputs, f"--out={tmp_path}", "--copies=1", "--epochs=1", "--splits=3"),
        *("--drop=1", "--after=stage1_block2,stage2_block2"),
        *(together if joint else more),
    )
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["cells"]) == cells and 0 <= found["plain_accuracy"] < 0.5
    for cell in found["cells"].values():
        assert len(cell["curve"]) == 39
        shares = [point["macs_share"]["mean"] for point in cell["curve"]]
        assert shares[0] < 0.45 < 0.6 < shares[-1]
        saved = cell["saved"]
        assert saved["low"] - 1e-9 <= saved["mean"] <= saved["high"] + 1e-9
    assert sum(found["file"]["shares"]) == pytest.approx(1)
    assert found["file"]["mean_ms"]["plain"] > 0
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "fewer MACs" in printed
    litert = kd.LiteRTModel(tmp_path / "exits.tflite")
    assert litert.metadata["thresholds"] == found["file"]["thresholds"]


def test_decision_gates_asks_whole_nets_first(tmp_path, inputs):
    small = kd.resnet20(width=0.25)
    small.save(tmp_path / "small.keras")
    printed = run(
        *("decision_gates.py", *inputs, f"--out={tmp_path}", "--splits=3"),
        *(f"--before={tmp_path / 'small.keras'}", "--shares=0.3,0.9", "--drop=1"),
    )
    found = json.loads((tmp_path / "results.json").read_text())
    (cell,) = found["cells"].values()
    total = kd.count_macs(kd.resnet20()).total
    assert found["macs_per_exit"][0] == kd.count_macs(small).total
    assert found["macs_per_exit"][1] == kd.count_macs(small).total + total
    for share, had in cell["at"].items():
        assert 0 < had["macs_share"]["mean"] <= float(share) + 0.4
        assert 0 <= had["accuracy"]["mean"] <= 1
    assert printed.count("of the plain net's MACs") == 2


def test_gate_pretrained_trains_and_exports(tmp_path, inputs):
    printed = run("gate_pretrained.py", *inputs, f"--out={tmp_path}", "--epochs=1")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found["files"]) == {"float32", "dynamic", "int8"}
    assert found["files"]["float32"]["decision_agreement"] == 1
    assert 0 < found["gated_macs"] and "accuracy" in printed
