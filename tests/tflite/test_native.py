"""The C runner, built as its README says, beside Python's interpreter."""

import os
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
ai_edge_litert = pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd  # noqa: E402
from tests.export.nets import images, small_net, spread_gates  # noqa: E402

SOURCES = Path(__file__).resolve().parents[2] / "tflite" / "native"
LIBRARY = Path(ai_edge_litert.__file__).parent / "libLiteRt.so"

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
    pytest.mark.skipif(
        not (shutil.which("cmake") and shutil.which("cc") and LIBRARY.is_file()),
        reason="needs cmake, a C compiler and libLiteRt.so",
    ),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Runs the program; all warnings are errors when it is built."""
    folder = tmp_path_factory.mktemp("native")
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, "-DSTRICT=ON"],
        ["cmake", "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(*arguments, library=LIBRARY):
        command = [folder / "runner", "--library", library, *arguments]
        return subprocess.run(
            [os.fspath(part) for part in command], capture_output=True, text=True
        )

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A gated net in every quantization, and images for it."""
    x = images(8)
    model = spread_gates(small_net(), x)
    folder = tmp_path_factory.mktemp("files")
    for quantization in (None, "dynamic", "int8"):
        kd.export_tflite(
            model,
            folder / f"{quantization}.tflite",
            quantization=quantization,
            representative_data=x,
        )
    for index, image in enumerate(x):
        image[None].astype("<f4").tofile(folder / f"{index}.raw")
    return folder, x


@pytest.mark.parametrize("quantization", [None, "dynamic", "int8"])
def test_the_same_bits_as_in_python(runner, files, tmp_path, quantization):
    folder, x = files
    path = folder / f"{quantization}.tflite"
    litert = kd.LiteRTModel(path)
    names = list(litert.signatures["explain"].outputs)
    arguments = []
    for index in range(len(x)):
        arguments += ["--run", "explain", f"image={folder / str(index)}.raw"]
        arguments += [f"{n}=>{tmp_path / f'{index}_{i}'}" for i, n in enumerate(names)]
    done = runner(path, *arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == len(x)
    ran = set()
    for index, image in enumerate(x):
        found = litert.run("explain", image=image)
        ran.add(int(found["executed_macs"][0]))
        for place, name in enumerate(names):
            raw = np.fromfile(tmp_path / f"{index}_{place}", found[name].dtype)
            np.testing.assert_array_equal(raw, found[name].ravel())
    assert len(ran) > 2, "the images must differ in what they run"


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_other_kernels(runner, files, tmp_path, kernels):
    folder, x = files
    out = tmp_path / "logits"
    options = ["--kernels", kernels, "--threads", "2", "--repeat", "3"]
    arguments = ["--run", "classify", f"image={folder}/0.raw", f"logits=>{out}"]
    done = runner(folder / "None.tflite", *options, *arguments)
    assert done.returncode == 0, done.stderr
    name, time, unit = done.stdout.split()
    assert (name, unit) == ("classify", "us") and float(time) > 0
    expected = kd.LiteRTModel(folder / "None.tflite").run("classify", image=x[0])
    np.testing.assert_allclose(
        np.fromfile(out, "<f4"), expected["logits"][0], rtol=1e-4, atol=1e-5
    )


def test_list_and_profile(runner, files):
    folder, _ = files
    path = folder / "None.tflite"
    done = runner(path, "--list")
    assert done.returncode == 0 and done.stderr == ""
    assert "  in  image type 1 [1, 12, 12, 3] 1728 bytes" in done.stdout.splitlines()
    assert "  out label type 2 [1] 4 bytes" in done.stdout.splitlines()
    done = runner(path, "--profile", "--run", "classify", f"image={folder}/0.raw")
    assert done.returncode == 0 and "Convolution" in done.stdout


@pytest.mark.parametrize(
    ("status", "message", "arguments"),
    [
        (2, "no model", []),
        (2, "unknown or incomplete option: --speed", ["{model}", "--speed"]),
        (2, "--threads must be a whole number above 0", ["{model}", "--threads", "no"]),
        (2, "--repeat must be a whole number above 0", ["{model}", "--repeat"]),
        (2, "--kernels must be xnnpack", ["{model}", "--kernels", "fast"]),
        (2, "--run needs a signature", ["{model}", "--run"]),
        (2, "must be INPUT=FILE", ["{model}", "--run", "classify", "image"]),
        (1, "cannot read", ["{folder}/none.tflite"]),
        (1, "this is no .tflite file", ["{folder}/0.raw"]),
        (1, "LiteRT refuses", ["{folder}/cut.tflite"]),
        (1, "has no signature guess", ["{model}", "--run", "guess"]),
        (1, "takes 1 inputs, not 0", ["{model}", "--run", "classify"]),
        (1, "there is no input x", ["{model}", "--run", "classify", "x={image}"]),
        (
            1,
            "image has 1728 bytes, not 3",
            ["{model}", "--run", "classify", "image={folder}/3bytes"],
        ),
        (
            1,
            "there is no output y",
            ["{model}", "--run", "classify", "image={image}", "y=>{folder}/y"],
        ),
        (
            1,
            "cannot write",
            ["{model}", "--run", "classify", "image={image}", "label=>{folder}/no/y"],
        ),
    ],
)
def test_errors(runner, files, status, message, arguments):
    folder, _ = files
    model = folder / "None.tflite"
    (folder / "3bytes").write_bytes(b"abc")
    (folder / "cut.tflite").write_bytes(model.read_bytes()[:9000])
    names = {"model": model, "folder": folder, "image": folder / "0.raw"}
    done = runner(*(argument.format(**names) for argument in arguments))
    assert done.returncode == status
    assert done.stderr.startswith("runner: ") and message in done.stderr


def test_no_library(runner, files):
    folder, _ = files
    done = runner(folder / "None.tflite", library=folder / "libnone.so")
    assert done.returncode == 1 and "no LiteRT: " in done.stderr
