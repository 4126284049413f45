"""The page of results says what the rows say, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_dyngate as kd
from tests.backend_utils import BACKEND

ROOT = Path(kd.__file__).parent.parent

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the script starts a process of its own"
)


def row(run, method, accuracy, executed, **more):
    return {
        "run": run,
        "data": "digits",
        "train_images": 1200,
        "test_images": 397,
        "method": method,
        "model": "resnet20",
        "width": 1.0,
        "gate_group_size": None,
        "batch_shaping": 0.75,
        "teacher": False,
        "seed": 3,
        "epochs": 2,
        "epochs_in_all": 2,
        "hardware": {"cpu": "abacus", "cores": 1},
        "command": f"python examples/train_cifar10.py --method {method}",
        "accuracy": accuracy,
        "macs": executed,
        "executed_macs": executed,
        "plain_macs": 40_000_000,
        "files": {"float32": {"ms": 1.25, "accuracy": accuracy, "bytes": 10}},
        "timed_on": {"cpu": "abacus", "cores": 1},
        **more,
    }


def test_page_is_made_of_the_rows(tmp_path):
    rows = [
        row("p", "plain", 0.91234, 40_000_000),
        row(
            "g",
            "bas",
            0.9,
            30_000_000,
            gate_group_size=16,
            open_rate=0.7,
            conditional=0.4,
        ),
        row("s", "bas", 0.94, 20_000_000, gate_group_size=16, seed=4, open_rate=0.7),
        row(
            "l",
            "bas",
            0.95,
            20_000_000,
            gate="both",
            gate_group_size=1,
            primed=True,
            epochs_in_all=4,
        ),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "notes.md").write_text("A caveat.")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "collect_results.py"),
            *("--page_only", "--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert "A caveat." in lines
    assert any("abacus" in line and "397" in line for line in lines)
    plain = next(line for line in lines if line.startswith("| resnet20"))
    assert plain == (
        "| resnet20 | 91.23 |  |  | 40.0 | 40.0 | 1.000 | 1.25 | 91.23 |  |  |"
    )
    _, gated, longer = (line for line in lines if line.startswith("| gated resnet20"))
    (mean,) = (line for line in lines if "seeds 4, 3" in line)
    assert "groups of 16, batch-shaping" in mean and "at 0.625 of the MACs." in mean
    assert ": 92.00 % (90.00 to 94.00)" in mean
    assert "groups of 16, batch-shaping, seed 3" in gated
    assert "layers, per channel, primed, batch-shaping, seed 3" in longer
    sections = [line for line in lines if line.startswith("## ")]
    assert sections == ["## digits, 2 epochs", "## digits, 4 epochs"]
    assert lines.index(gated) < lines.index(sections[1]) < lines.index(longer)
    assert "| 90.00 | 0.70 | 0.40 | 30.0 | 30.0 | 0.750 | 1.25 | 90.00 |" in gated
    assert sum("`python examples/train_cifar10.py" in line for line in lines) == 4
    for epochs in (2, 4):
        plot = tmp_path / f"digits_{epochs}_epochs.png"
        assert plot.read_bytes().startswith(b"\x89PNG")
