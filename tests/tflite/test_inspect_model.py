"""The inspector as a user runs it: what it prints, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "inspect_model.py"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)

# Keras and TensorFlow as if they were not installed.
ALONE = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "jax"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def inspect(*arguments):
    return subprocess.run(
        [sys.executable, "-c", ALONE, SCRIPT, *map(os.fspath, arguments)],
        capture_output=True,
        text=True,
    )


def test_a_gated_file(tmp_path):
    import keras_dyngate as kd
    from tests.export.nets import small_net

    path, out = tmp_path / "net.tflite", tmp_path / "out.json"
    export = kd.export_tflite(small_net(), path)
    done = inspect(path, f"--json={out}", "--operators")
    assert done.returncode == 0, done.stderr[-2000:]
    macs = kd.count_macs(small_net())
    assert f"{path}: {export.bytes:,} bytes, oldest runtime: " in done.stdout
    assert "classify(image: float32 [1, 12, 12, 3])" in done.stdout
    assert "executed_macs: int32 [1] (thousands of MACs)" in done.stdout
    assert f"up to {macs.gateable:,} more in 4 conditional branches" in done.stdout
    assert "exits, as the output" not in done.stdout
    assert "each once" in done.stdout and " CONV_2D (" in done.stdout
    assert done.stdout.rstrip().endswith("nothing is wrong with it")
    found = json.loads(out.read_text())
    assert found["signatures"]["explain"]["conditional_macs"] == macs.gateable
    assert found["findings"] == [] and found["repeated_bytes"] == 0
    assert len(found["branches"]) == 8


def test_places_of_exits(tmp_path):
    import keras_dyngate as kd
    from tests.export.nets import conv_net, tinted, with_exits
    from tests.tflite.files import note_exits

    path, out = tmp_path / "net.tflite", tmp_path / "out.json"
    model = with_exits(conv_net(), ["a"], tinted(8))
    kd.export_tflite(model, tmp_path / "exits.tflite")
    note_exits(tmp_path / "exits.tflite", path, ["a", None])
    done = inspect(path, f"--json={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    first, last = kd.count_macs(model).per_exit
    share = f"{first / last:.2f}"[1:]
    assert f"0: gate_1, after a, {first:,} MACs, {share} of the MACs" in done.stdout
    assert f"1: head, at the end, {last:,} MACs, 1.00 of the MACs" in done.stdout
    exits = json.loads(out.read_text())["exits"]
    assert [(each["after"], each["macs"]) for each in exits] == [
        ("a", first),
        (None, last),
    ]


def test_findings_and_damage(tmp_path):
    import tensorflow as tf

    traced = tf.function(lambda x: {"positive": x > 0}).get_concrete_function(
        tf.TensorSpec([1, 2], tf.float32, name="x")
    )
    tf.saved_model.save(tf.Module(), os.fspath(tmp_path / "m"), signatures=traced)
    content = tf.lite.TFLiteConverter.from_saved_model(
        os.fspath(tmp_path / "m")
    ).convert()
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    done = inspect(path)
    assert done.returncode == 1
    assert "border-type at serving_default, positive: bool" in done.stdout
    assert done.stdout.rstrip().endswith("1 findings")
    assert inspect(path, "--allow=border-type").returncode == 0
    path.write_bytes(content[: len(content) // 2])
    done = inspect(path)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("ValueError: `path` must be a whole .tflite file.")
    done = inspect(tmp_path / "none.tflite")
    assert done.returncode == 2 and "FileNotFoundError" in done.stderr
    done = inspect(path, f"--json={tmp_path / 'none' / 'a.json'}")
    assert done.returncode == 2 and "`json` must be a file in an" in done.stderr


def test_wrong_usage(tmp_path):
    done = inspect()
    assert (
        done.returncode != 0 and "Give one .tflite file." in done.stdout + done.stderr
    )
    done = inspect(tmp_path, "--allow=nothing")
    assert done.returncode != 0 and "--allow takes no-signature" in (
        done.stdout + done.stderr
    )
