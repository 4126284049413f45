"""Ways to exits, counted by a stub: "instructions" are the MACs that a call executes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd  # noqa: E402
from tests.export.nets import conv_net, tinted, with_exits  # noqa: E402
from tests.tflite.files import note_exits  # noqa: E402

ARM = Path(__file__).resolve().parents[2] / "tflite" / "arm"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)

# The script without an emulator, and without Keras and TensorFlow. The second CPU takes
# half as much.
STUBBED = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "jax"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv.pop(0))
import numpy as np
import emulator
from keras_dyngate.runtime import LiteRTModel

class Stub:
    def __init__(self, folder):
        pass

    def instructions(self, cpu, model, signature, inputs):
        file = LiteRTModel(model)
        specs = file.signatures[signature].inputs
        given = {
            name: np.fromfile(path, specs[name].dtype).reshape(specs[name].shape)
            for name, path in inputs.items()
        }
        macs = 1000 * int(file.run(signature, **given)["executed_macs"][0])
        return macs if cpu == "cortex-a53" else macs // 2

emulator.ArmMachine = Stub
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file with two early exits and a plain one, pictures, and MACs per exit."""
    folder = tmp_path_factory.mktemp("exits")
    x, trunk = tinted(32), conv_net()
    model = with_exits(trunk, ["a", "b"], x)
    kd.export_tflite(model, folder / "exits.tflite")
    kd.export_tflite(trunk, folder / "plain.tflite")
    np.savez(folder / "x.npz", images=x)
    profile = kd.count_macs(model)
    return folder, profile.per_exit, kd.count_macs(trunk).total


def emulate(*arguments):
    return subprocess.run(
        [sys.executable, "-c", STUBBED, ARM, ARM / "emulate.py", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )


def test_ways_beside_the_plain_file(files, tmp_path):
    folder, per_exit, plain = files
    note_exits(folder / "exits.tflite", folder / "noted.tflite", ["a", "b", None])
    out, cpus = tmp_path / "out.json", ["cortex-a53", "i8mm"]
    given = [folder / "noted.tflite", folder / "plain.tflite", "--shares=.5,.3,.2"]
    options = [f"--cpus={','.join(cpus)}", f"--json={out}"]
    done = emulate("exits", *given, *options, "--at_most=.9,.3")
    assert done.returncode == 1, done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("not well: see the table")
    rows = json.loads(out.read_text())
    for cpu, scale in zip(cpus, (1, 0.5), strict=True):
        head, *ways, mean = [row for row in rows if row["cpu"] == cpu]
        assert head["exit"] == "plain" and head["instruction_ratio"] == 1
        assert head["instructions"] == pytest.approx(scale * plain, abs=1000)
        places = ["after a", "after b", "at the end"]
        assert [way["place"] for way in ways] == places
        assert [way["share"] for way in ways] == [0.5, 0.3, 0.2]
        counts = [way["instructions"] for way in ways]
        assert counts == pytest.approx([scale * macs for macs in per_exit], abs=1000)
        expected = 0.5 * counts[0] + 0.3 * counts[1] + 0.2 * counts[2]
        assert mean["instructions"] == pytest.approx(expected)
        ratio = expected / head["instructions"]
        assert mean["instruction_ratio"] == pytest.approx(ratio)
        assert 0.3 < ratio < 0.9  # so that the second limit is the broken one
    assert "after b" in done.stdout and "0.300" in done.stdout
    assert emulate("exits", *given, *options, "--at_most=.9,.9").returncode == 0


def test_shares_of_pictures(files, tmp_path):
    folder, _, _ = files
    out = tmp_path / "out.json"
    given = [folder / "exits.tflite", folder / "plain.tflite", f"--json={out}"]
    done = emulate("exits", *given, f"--pictures={folder / 'x.npz'}", "--cpus=i8mm")
    assert done.returncode == 0, done.stderr[-2000:]
    _, *ways, _ = json.loads(out.read_text())
    # The thresholds let a third of these 32 pictures, rounded down, leave at each gate.
    assert [way["share"] for way in ways] == [10 / 32, 10 / 32, 12 / 32]
    assert [way["place"] for way in ways] == ["after a", "after b", "at the end"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shares=.5,.5"], "--shares must be 3 numbers from 0.* Received: .5,.5"),
        (["--shares=.5,.5,.5"], "add up to 1. Received: .5,.5,.5"),
        (["--shares=a,b,c"], "Received: a,b,c"),
        (["--shares=1,0,0", "--pictures=x"], "one of --shares and --pictures"),
        ([], "one of --shares and --pictures"),
        (["--shares=1,0,0", "--at_most=1"], "one limit for each of --cpus"),
        (["--pictures=none"], "none must be an .npz file or a folder"),
    ],
)
def test_bad_arguments(files, arguments, message):
    folder, _, _ = files
    done = emulate(
        "exits", folder / "exits.tflite", folder / "plain.tflite", *arguments
    )
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr), done.stderr[-500:]


def test_files_that_do_not_suit(files):
    folder, _, _ = files
    plain = folder / "plain.tflite"
    done = emulate("exits", plain, plain, "--shares=1")
    assert done.returncode == 1
    assert "must have early exits, that is a signature classify_at" in done.stderr
    done = emulate("exits", plain)
    assert done.returncode != 0 and "`exits FILE PLAIN`" in done.stdout + done.stderr
