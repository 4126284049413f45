"""The example of a search, and the comparison of two, with settings too small to matter."""

import json

import keras
import pytest

from tests.examples.scripts import run, small_net

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the script exports"
    ),
]


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
