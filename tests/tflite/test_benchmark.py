"""The benchmark's three modes, end to end, on nets small enough for a test."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.export.nets import (  # noqa: E402
    images,
    small_net,
    spread_gates,
    tinted,
    with_exits,
)
from tests.models.gating.nets import mobile  # noqa: E402
from tests.stubs import randomize  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "benchmark.py"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]


# Runs a script as `python script` does, in a Python that lacks some packages.
WITHOUT = """if True:
    import os, runpy, sys

    lacking, sys.argv = sys.argv[1].split(","), sys.argv[2:]

    class Without:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in lacking:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Without())
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
HEAVY = "keras,tensorflow,jax,torch,scipy,h5py"


def run(folder, *arguments):
    out = folder / "out.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--json", out, "--rounds=2", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text()), done.stdout


def test_forced_rates_beside_the_plain_net(tmp_path):
    found, printed = run(
        tmp_path,
        *("--model=gated_resnet20", "--gate_groups=1", "--rates=1,0", "--against="),
        *("--image_size=16", "--quantization=dynamic"),
    )
    plain, wide_open, shut = found["rows"]
    profile = kd.count_macs(
        kd.gated_resnet20(input_shape=(16, 16, 3), gates=kd.Gates(groups=1))
    )
    assert abs(plain["executed_macs"] - profile.total) <= 500
    assert wide_open["executed_macs"] - plain["executed_macs"] == pytest.approx(
        profile.controllers, abs=1000
    )
    assert shut["executed_macs"] == pytest.approx(
        profile.ungated + profile.controllers, abs=1000
    )
    for row in found["rows"]:
        assert row["median_ms"] > 0
        assert row["time_ratio"] > 0
    assert plain["time_ratio"] == plain["cost_ratio"] == 1
    assert found["cpu"] and found["settings"]["threads"] == 1
    said = " ".join(printed.split())
    assert "MMACs" in said and "median ms" in said
    assert "time and MACs over those of plain resnet20" in said


def test_what_a_table_says_of_the_rows(tmp_path):
    gates = kd.Gates(groups=1)
    net = kd.gated_resnet20(input_shape=(16, 16, 3), gates=gates)
    table = kd.count_macs(net)
    rows = tuple(dataclasses.replace(r, cost=r.cost * 1e-6) for r in table.rows)
    table = dataclasses.replace(table, rows=rows, unit="ms", plain=50.0)
    table.save(tmp_path / "table.json")
    found, printed = run(
        tmp_path,
        *("--model=gated_resnet20", "--gate_groups=1", "--rates=1,0", "--against="),
        *("--image_size=16", f"--table={tmp_path / 'table.json'}"),
    )
    plain, wide_open, shut = found["rows"]
    assert plain["table_cost"] == 50.0 and plain["table_unit"] == "ms"
    for row in (wide_open, shut):
        expected = 1e-6 * row["executed_macs"]
        assert row["table_cost"] == pytest.approx(expected, abs=1e-3)
    assert "table ms" in " ".join(printed.split())


def test_layers_at_fixed_rates(tmp_path):
    found, _ = run(
        tmp_path,
        *("--model=lc_resnet20", "--mode=l", "--rates=1,0", "--against="),
        "--image_size=16",
    )
    plain, whole, skipped = found["rows"]
    profile = kd.count_macs(kd.lc_resnet20(mode="l", input_shape=(16, 16, 3)))
    assert whole["executed_macs"] - plain["executed_macs"] == pytest.approx(
        profile.controllers, abs=1000
    )
    assert skipped["executed_macs"] == pytest.approx(
        profile.ungated + profile.controllers, abs=1000
    )


@pytest.mark.parametrize("gate", ["channels", "both"])
def test_a_net_of_anybody_s_gated_for_it(tmp_path, gate):
    net = mobile()
    net.save(tmp_path / "net.keras")
    found, _ = run(
        tmp_path, f"--model={tmp_path}/net.keras", f"--gate={gate}", "--rates=1,0"
    )
    plain, whole, shut = found["rows"]
    gated = kd.add_channel_gates(net)
    if gate == "both":
        gated = kd.add_layer_gates(gated)
    profile = kd.count_macs(gated)
    assert plain["name"] == "plain mobile" and whole["name"] == "mobile_gated open 1"
    assert abs(plain["executed_macs"] - profile.total) <= 500
    assert whole["executed_macs"] == pytest.approx(
        profile.total + profile.controllers, abs=500
    )
    assert shut["executed_macs"] < 0.5 * whole["executed_macs"]


def test_a_net_of_keras_applications(tmp_path):
    found, _ = run(
        tmp_path,
        *("--model=MobileNetV2", "--image_size=32", "--gate=layers", "--rates=1,0"),
        "--where=0.02",
    )
    plain, whole, skipped = (row["executed_macs"] for row in found["rows"])
    net = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3))
    gated = kd.add_layer_gates(net, 0.02)
    profile = kd.count_macs(gated)
    assert abs(plain - profile.total) <= 500
    assert whole - plain == pytest.approx(profile.controllers, abs=1000)
    assert whole - skipped == pytest.approx(profile.gateable, abs=1000)


def test_a_trained_net_on_pictures(tmp_path):
    model = small_net()
    model.save(tmp_path / "net.keras")
    x = images(6)
    np.savez(tmp_path / "x.npz", images=x)
    found, _ = run(
        tmp_path, f"--keras_file={tmp_path}/net.keras", f"--images={tmp_path}/x.npz"
    )
    own, wide_open = found["rows"]
    decisions = kd.decide(model, x)
    expected = kd.count_macs(model).of(decisions).mean()
    assert own["executed_macs"] == pytest.approx(expected, abs=1000)
    flat = np.concatenate([(d > 0).ravel() for d in decisions.values()])
    assert own["open_rate"] == pytest.approx(flat.mean())
    assert own["cost_ratio"] < 1 == wide_open["cost_ratio"]


def on_a_device(*arguments, lacking=HEAVY):
    """Status, output and last line of errors, without what a device lacks."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, lacking, SCRIPT, "--rounds=2", *arguments],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A gated net with an exit, an anytime net, and images as an .npz."""
    folder, x = tmp_path_factory.mktemp("files"), tinted(24)
    gated = with_exits(spread_gates(small_net(groups=4), x), ["block1"], x)
    kd.export_tflite(gated, folder / "gated.tflite")
    sliced = kd.sliced_resnet(
        blocks=1, width=12, subnetworks=2, input_shape=x.shape[1:], classes=7
    )
    kd.export_tflite(randomize(sliced), folder / "anytime.tflite")
    np.savez(folder / "x.npz", images=x.astype("uint8"))
    np.savez(folder / "wrong.npz", images=x[:, 1:])
    np.savez(folder / "scaled.npz", images=x / 255)
    return folder


def test_a_file_on_a_device(folder, tmp_path):
    """Without Keras and TensorFlow: every count is that of a loop over the images."""
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    status, printed, error = on_a_device(
        *(f"--tflite_file={folder}/gated.tflite", f"--images={folder}/x.npz"),
        *(f"--json={out}", f"--plot={plot}", "--threads=2", "--samples=20"),
    )
    assert status == 0, error
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    file, x = kd.LiteRTModel(folder / "gated.tflite"), tinted(24)[:20]
    calls = [file.run("classify", image=image) for image in x]
    exits = [int(call["exit"][0]) for call in calls]
    macs = [1000 * int(call["executed_macs"][0]) for call in calls]
    assert row["images"]["exit"] == exits
    assert row["images"]["executed_macs"] == macs
    assert row["executed_macs"] == pytest.approx(np.mean(macs))
    assert {g["exit"]: g["images"] for g in row["per_exit"]} == {
        index: exits.count(index) for index in sorted(set(exits))
    }
    assert sum(g["images"] for g in row["per_open_rate"]) == 20
    assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
    assert row["signature"] == "classify" and row["time_ratio"] == 1
    assert found["settings"]["threads"] == 2 and found["cpu"]
    for words in ("per exit", "per open rate", "MMACs", "correlation", "x.npz"):
        assert words in printed
    assert "andom" not in printed and "ratio" not in printed  # of one file
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_files_beside_each_other_on_random_images(folder, tmp_path):
    out = tmp_path / "out.json"
    status, printed, error = on_a_device(
        f"--tflite_file={folder}/gated.tflite,{folder}/anytime.tflite",
        *(f"--json={out}", "--samples=4", "--thresholds=1e30"),
    )
    assert status == 0, error
    gated, anytime = json.loads(out.read_text())["rows"]
    assert (gated["signature"], anytime["signature"]) == ("classify_at", "classify")
    assert [g["exit"] for g in gated["per_exit"]] == [1]  # that nobody leaves before
    assert gated["time_ratio"] == 1 and anytime["time_ratio"] > 0
    assert anytime["per_exit"] == anytime["per_open_rate"] == []
    said = " ".join(printed.split())
    assert "4 random images" in said and "time ratio" in said
    assert (
        "time ratio: time of all images over that of gated.tflite in the same" in said
    )
    assert "MMACs: millions of MACs" in said


def test_a_step_of_an_anytime_net(folder, tmp_path):
    out = tmp_path / "out.json"
    arguments = f"--tflite_file={folder}/anytime.tflite", "--signature=step_2"
    status, _, error = on_a_device(*arguments, f"--json={out}", "--samples=2")
    assert status == 0, error
    (row,) = json.loads(out.read_text())["rows"]
    steps = kd.LiteRTModel(folder / "anytime.tflite").metadata["macs_per_step"]
    assert row["executed_macs"] == pytest.approx(steps[1], abs=500)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`path` must name a .tflite file", ["--tflite_file={folder}/none.tflite"]),
        ("`signature` must be one of 'classify'", ["{gated}", "--signature=none"]),
        ("--thresholds must be numbers", ["{gated}", "--thresholds=1,a"]),
        ("Input `thresholds` must have the shape", ["{gated}", "--thresholds=1,2"]),
        ("signatures take, ['image']", ["{anytime}", "--thresholds=1"]),
        ("must be different files", ["{gated},{folder}/gated.tflite"]),
        ("a folder of pictures", ["{gated}", "--images={folder}/none"]),
        ("['N', 12, 12, 3]", ["{gated}", "--images={folder}/wrong.npz"]),
        ("`--plot` must be a file", ["{gated}", "--plot={folder}/none/a.png"]),
        (
            "scaled.npz must be pixels from 0 to",
            ["{gated}", "--images={folder}/scaled.npz"],
        ),
        ("`--json` must be a file", ["{gated}", "--json={folder}/none/a.json"]),
    ],
)
def test_errors_are_one_sentence(folder, message, arguments):
    names = {
        "folder": folder,
        "gated": f"--tflite_file={folder}/gated.tflite",
        "anytime": f"--tflite_file={folder}/anytime.tflite",
    }
    status, _, error = on_a_device(*(a.format(**names) for a in arguments))
    assert status == 1
    assert message in error and error.split(":")[0].endswith("Error")


@pytest.mark.parametrize(
    ("package", "option"), [("PIL", "images"), ("matplotlib", "plot")]
)
def test_what_is_missing_is_said(folder, tmp_path, package, option):
    (tmp_path / "a.png").write_bytes(b"")
    value = tmp_path if option == "images" else tmp_path / "out.png"
    status, _, error = on_a_device(
        *(f"--tflite_file={folder}/gated.tflite", f"--{option}={value}", "--samples=1"),
        lacking=f"{HEAVY},{package}",
    )
    assert status == 1
    assert error.startswith("ImportError") and "pip install" in error


def test_flags_that_do_not_go_together(folder):
    file = f"--tflite_file={folder}/gated.tflite"
    for arguments in (
        ["--signature=classify"],
        ["--plot=out.png"],
        [file, "--keras_file=net.keras"],
        ["--images=x.npz"],
    ):
        assert on_a_device(*arguments)[0] == 1
