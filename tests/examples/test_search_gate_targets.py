"""The example of a search, and the comparison of two, with settings too small to matter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests.stubs import randomize

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the script exports"
    ),
]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


def small_net(path):
    """In the place of the net that the scripts train for minutes."""
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    x = layers.Conv2D(8, 3, strides=4, padding="same", activation="relu")(x)
    y = layers.Conv2D(32, 1, activation="relu", name="wide")(x)
    y = layers.Conv2D(8, 3, padding="same", name="narrow")(y)
    x = layers.GlobalAveragePooling2D()(layers.Add(name="sum")([x, y]))
    x = layers.Dense(10, "softmax", name="top")(x)
    randomize(keras.Model(image, x, name="small_net")).save(path)


def test_a_search_prints_its_front_beside_the_default(tmp_path):
    small_net(tmp_path / "plain.keras")
    arguments = (
        f"--out={tmp_path}",
        "--budget=macs:0.7x",
        "--trials=2",
        "--epochs=1",
        "--long=1",
    )
    done = run("search_gate_targets.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nets are on the front" in done.stdout
    assert "trial 0000: accuracy" in done.stdout
    found = json.loads((tmp_path / "result.json").read_text())
    assert {"untouched", "default", "default, long", "best, long"} <= set(found["rows"])
    assert all(0 <= row["accuracy"] <= 1 for row in found["rows"].values())
    assert found["rows"]["default"]["macs"] < found["rows"]["untouched"]["macs"]
    assert (tmp_path / "front.png").exists()
    kept = (tmp_path / "search" / "trial_0001" / "result.json").stat().st_mtime_ns
    # Run again, nothing is trained.
    done = run("search_gate_targets.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 000" not in done.stdout.partition("nets are on the front")[0]
    again = (tmp_path / "search" / "trial_0001" / "result.json").stat().st_mtime_ns
    assert again == kept
    other = run("search_gate_targets.py", *arguments, "--budget=macs:0.6x")
    assert other.returncode == 1
    assert "search_gate_targets.py: " in other.stderr
    assert "other settings: ['budget']" in other.stderr


def test_two_searches_are_compared(tmp_path):
    (tmp_path / "seed_0").mkdir()
    small_net(tmp_path / "seed_0" / "plain.keras")
    arguments = (f"--out={tmp_path}", "--seeds=1", "--trials=1", "--epochs=1")
    done = run("compare_searches.py", *arguments, "--budget=macs:0.6x")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy, budgeted minus plain" in done.stdout
    (found,) = json.loads((tmp_path / "result.json").read_text())
    assert found["budgeted"]["steps"] <= 38 and found["plain"]["steps"] <= 38


def test_help_and_unknown_arguments():
    done = run("search_gate_targets.py", "--help")
    assert "--budget" in done.stdout and "--trials" in done.stdout
    for script in ("search_gate_targets.py", "compare_searches.py"):
        done = run(script, "stray")
        assert done.returncode == 1 and "Unexpected arguments" in done.stderr
