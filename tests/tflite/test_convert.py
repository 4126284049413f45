"""The converter as a user runs it."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.runtime.golden import read_cases  # noqa: E402
from tests.datasets.picture_files import write_png  # noqa: E402
from tests.export.nets import small_net, spread_gates, tinted  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "tflite" / "convert.py"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]


def run(*arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    own = [line for line in lines if line and not line.startswith(("I0", "W0", "WARN"))]
    return done.returncode, done.stdout, own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A net per group, one per channel, and pictures in folders and in an .npz."""
    folder = tmp_path_factory.mktemp("convert")
    x = tinted(24)
    spread_gates(small_net(), x).save(folder / "net.keras")
    spread_gates(small_net(groups=32), x).save(folder / "channels.keras")
    np.savez(folder / "x.npz", images=x.astype("uint8"))
    for index, image in enumerate(x):
        tall = np.pad(image, [(3, 5), (0, 0), (0, 0)])  # to be cropped to its middle
        write_png(
            folder / "pictures" / str(index % 2) / f"{index}.png", tall.astype("uint8")
        )
    (folder / "labels.txt").write_text("\n".join("abcdefg") + "\n")
    return folder


def test_int8_from_pictures_and_verified(folder):
    target = folder / "int8.tflite"
    status, stdout, stderr = run(
        folder / "net.keras",
        target,
        "--quantization=int8",
        f"--images={folder / 'pictures'}",
        f"--verify={folder / 'x.npz'}",
        "--samples=12",
        "--input_type=uint8",
        f"--labels={folder / 'labels.txt'}",
    )
    assert status == 0, stderr
    assert "bytes, int8" in stdout and "against Keras on 12 images" in stdout
    litert = kd.LiteRTModel(target)
    assert litert.labels == list("abcdefg")
    assert litert.signatures["classify"].inputs["image"].dtype == np.uint8


def test_golden_cases_of_the_signatures_that_are_kept(folder):
    target, golden = folder / "part.tflite", folder / "golden"
    status, stdout, stderr = run(
        folder / "net.keras",
        target,
        "--input_type=uint8",
        "--signatures=classify",
        f"--verify={folder / 'x.npz'}",
        f"--golden={golden}",
        "--cases=3",
    )
    assert status == 0, stderr
    assert "signatures: classify\n" in stdout and "labels equal 100.0%" in stdout
    cases = read_cases(golden)
    assert [case.signature for case in cases] == ["classify"] * 3
    assert (golden / "model.tflite").read_bytes() == target.read_bytes()
    for case, image in zip(cases, tinted(24), strict=False):
        pixels = np.fromfile(golden / case.inputs["image"], "uint8")
        np.testing.assert_array_equal(pixels, image.astype("uint8").ravel())


def test_packing(folder):
    target = folder / "packed.tflite"
    status, stdout, stderr = run(
        *(folder / "channels.keras", target, "--pack=8"),
        *(f"--images={folder / 'x.npz'}", f"--verify={folder / 'x.npz'}"),
        "--min_agreement=1",
    )
    assert status == 0, stderr
    assert "decisions equal 100.00%" in stdout
    model = keras.saving.load_model(folder / "channels.keras", compile=False)
    x = np.load(folder / "x.npz")["images"].astype("float32")
    report = kd.export_tflite(model, folder / "unpacked.tflite", group_size=8)
    assert set(report.group_sizes.values()) == {8}
    packed, before = kd.LiteRTModel(target), kd.LiteRTModel(report.path)

    def executed(litert):
        return sum(int(litert.run("classify", image=i)["executed_macs"][0]) for i in x)

    assert executed(packed) < executed(before)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("File not found", ["{folder}/none.keras", "{folder}/a.tflite"]),
        (
            "`representative_data`",
            ["{net}", "{folder}/a.tflite", "--quantization=int8"],
        ),
        (
            "a folder of pictures",
            ["{net}", "{folder}/a.tflite", "--verify={folder}/no"],
        ),
        ("--pack needs --images", ["{net}", "{folder}/a.tflite", "--pack=8"]),
        ("`path` must be", ["{net}", "{folder}/none/a.tflite"]),
        (
            "`--golden` must be a new folder",
            ["{net}", "{folder}/a.tflite", "--verify={folder}/x.npz", "--golden=."],
        ),
    ],
)
def test_errors_are_one_line(folder, message, arguments):
    names = {"folder": folder, "net": folder / "net.keras"}
    status, stdout, stderr = run(*(a.format(**names) for a in arguments))
    assert status == 1 and not (folder / "a.tflite").exists()
    assert message in stderr[-1] and stderr[-1].split(":")[0].endswith("Error")


def test_too_little_agreement(folder):
    """Calibrated on nothing but black, an int8 file cannot be right."""
    np.savez(folder / "black.npz", images=np.zeros((4, 12, 12, 3), "uint8"))
    status, stdout, stderr = run(
        *(folder / "net.keras", folder / "black.tflite", "--quantization=int8"),
        *(f"--images={folder / 'black.npz'}", f"--verify={folder / 'x.npz'}"),
        "--min_agreement=0.99",
    )
    assert status == 3, stdout
    assert stderr[-1].startswith("The file agrees with Keras on ")
    assert "fewer than 99.0%" in stderr[-1]


def test_wrong_usage(folder):
    assert run(folder / "net.keras")[0] not in (0, 3)
    assert run("a.keras", "a.tflite", "--min_agreement=1")[0] not in (0, 3)
