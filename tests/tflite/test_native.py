"""The C runner, built as its README says, beside Python's interpreter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
ai_edge_litert = pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import images, small_net, spread_gates  # noqa: E402
from tests.flatfile.mutations import FOREIGN, mutations  # noqa: E402

SOURCES = Path(__file__).resolve().parents[2] / "tflite" / "native"
LIBRARY = Path(ai_edge_litert.__file__).parent / "libLiteRt.so"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
    pytest.mark.skipif(
        not (shutil.which("cmake") and shutil.which("cc") and LIBRARY.is_file()),
        reason="needs cmake, a C compiler and libLiteRt.so",
    ),
]

# Exit status, part of the message, arguments.
ERRORS = [
    (2, "no model", []),
    (2, "unknown or incomplete option: --speed", ["{model}", "--speed"]),
    (2, "--threads must be a whole number above 0", ["{model}", "--threads", "no"]),
    (2, "--repeat must be a whole number above 0", ["{model}", "--repeat"]),
    (2, "--kernels must be xnnpack", ["{model}", "--kernels", "fast"]),
    (2, "--run needs a signature", ["{model}", "--run"]),
    (2, "must be INPUT=FILE", ["{model}", "--run", "classify", "image"]),
    (1, "cannot read", ["{folder}/none.tflite"]),
    (1, "this is no .tflite file", ["{folder}/0.raw"]),
    (1, "damaged: an offset points out of the file", ["{folder}/cut.tflite"]),
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
]


def build(folder, *options):
    """Builds as the README says, but all warnings are errors."""
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, "-DSTRICT=ON", *options],
        ["cmake", "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def call(*command, **options):
    command = [os.fspath(part) for part in command]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", **options
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("native")) / "runner"


@pytest.fixture(scope="module")
def runner(program):
    """Runs the program."""

    def run(*arguments, library=LIBRARY):
        return call(program, "--library", library, *arguments)

    return run


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A folder with all programs, built with sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    flags = ["-fsanitize=address,undefined", "-x", "c", "-", "-o", folder / "probe"]
    probe = call("cc", *flags, input="int main(void) { return 0; }")
    if probe.returncode or call(folder / "probe").returncode:
        pytest.skip("needs a compiler with AddressSanitizer: " + probe.stderr[-200:])
    return build(folder, "-DFUZZ=ON")


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


def prepare_errors(folder):
    """Files for ERRORS, and their names."""
    model = folder / "None.tflite"
    (folder / "3bytes").write_bytes(b"abc")
    (folder / "cut.tflite").write_bytes(model.read_bytes()[:9000])
    return {"model": model, "folder": folder, "image": folder / "0.raw"}


@pytest.mark.parametrize(("status", "message", "arguments"), ERRORS)
def test_errors(runner, files, status, message, arguments):
    names = prepare_errors(files[0])
    done = runner(*(argument.format(**names) for argument in arguments))
    assert done.returncode == status
    assert done.stderr.startswith("runner: ") and message in done.stderr


def test_no_library(runner, files):
    folder, _ = files
    done = runner(folder / "None.tflite", library=folder / "libnone.so")
    assert done.returncode == 1 and "no LiteRT: " in done.stderr


def nameless(model):
    model.signatureDefs[0].signatureKey = None


def nameless_input(model):
    model.signatureDefs[0].inputs[0].name = None


def no_such_graph(model):
    model.signatureDefs[0].subgraphIndex = 1000


def fewer_outputs(model):
    model.signatureDefs[0].outputs.pop()


def other_output(model):
    model.signatureDefs[0].outputs[0].tensorIndex = 0


def no_such_tensor(model):
    signature = model.signatureDefs[0]
    graph = model.subgraphs[signature.subgraphIndex]
    output = next(o for o in signature.outputs if o.tensorIndex == graph.outputs[0])
    graph.outputs[0] = output.tensorIndex = len(graph.tensors)


def bare_operator(model):
    operator = model.subgraphs[0].operators[0]
    operator.inputs = operator.outputs = None


def branching(model):
    return next(op for _, _, op in flatbuffer.walk(model) if flatbuffer.branches(op))


def no_such_branch(model):
    branching(model).builtinOptions.thenSubgraphIndex = -1


def circle(model):
    for signature in model.signatureDefs:
        for operator in model.subgraphs[signature.subgraphIndex].operators:
            if flatbuffer.branches(operator):
                operator.builtinOptions.elseSubgraphIndex = signature.subgraphIndex


def unknown_operator(model):
    model.operatorCodes[0].builtinCode = 5000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nameless, "a signature has no name"),
        (nameless_input, "an input or output of a signature has no name"),
        (no_such_graph, "a signature has no subgraph"),
        (fewer_outputs, "not the inputs and outputs of its subgraph"),
        (other_output, "an input or output of a subgraph is not one of its signature"),
        (no_such_tensor, "an input or output of a subgraph is not one of its tensors"),
        (bare_operator, "an operator has neither inputs nor outputs"),
        (no_such_branch, "an operator calls a subgraph that is none"),
        (circle, "a subgraph calls itself"),
        (unknown_operator, "LiteRT refuses: CreateCompiledModel"),
    ],
)
def test_damaged_files(runner, files, tmp_path, damage, message):
    """What LiteRT would crash on is refused before it is asked."""
    model = flatbuffer.read((files[0] / "None.tflite").read_bytes())
    damage(model)
    path = tmp_path / "damaged.tflite"
    path.write_bytes(flatbuffer.write(model))
    done = runner(path, "--list")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("runner: ") and message in done.stderr


def test_latency(program, files):
    """The script compares both; its figures need a quieter machine than a test has."""
    options = ["--runner", program, "--rounds", "2", "--calls", "3"]
    command = [
        sys.executable,
        SOURCES / "latency.py",
        files[0] / "int8.tflite",
        *options,
    ]
    done = call(*command, "--signature", "classify", "--at_most", "1000")
    assert done.returncode == 0, done.stderr
    ratios = re.findall(r"us, ratio (\d+\.\d{3})$", done.stdout, re.M)
    assert len(ratios) == 2 and "C runner" in done.stdout
    done = call(*command, "--at_most", "0.001")
    assert done.returncode == 1 and "more than 0.001 times" in done.stderr


def test_errors_under_sanitizers(sanitized, files):
    names = prepare_errors(files[0])
    whole = [
        "{model}",
        "--list",
        "--run",
        "classify",
        "image={image}",
        "label=>/dev/null",
    ]
    # What is not given back at `exit` is no leak.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:exitcode=86"}
    for status, _, arguments in [(0, "", whole), *ERRORS]:
        words = (argument.format(**names) for argument in arguments)
        done = call(sanitized / "runner", "--library", LIBRARY, *words, env=environment)
        assert done.returncode == status, done.stderr


def test_every_call_of_litert_fails_once(sanitized):
    """And is answered oddly; nothing may be left over."""
    done = call(sanitized / "fuzz", sanitized / "libstub.so")
    assert done.returncode == 0, done.stderr
    rounds = re.findall(r"^(lrt|runner): (\d+) of (\d+) rounds", done.stderr, re.M)
    assert [name for name, _, _ in rounds] == ["lrt", "runner"]
    assert all(0 < int(well) and 200 < int(tried) for _, well, tried in rounds)


def test_hostile_files_under_sanitizers(sanitized, files, tmp_path):
    """2,000 damaged files: they run, are refused, or end LiteRT; never our own code."""
    contents = list(FOREIGN)
    for seed, quantization in enumerate(("dynamic", "int8")):
        whole = (files[0] / f"{quantization}.tflite").read_bytes()
        contents += mutations(whole, 1000, seed)
    paths = [tmp_path / f"{index}.tflite" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    done = call(sanitized / "fuzz", LIBRARY, *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {k: int(n) for k, n in re.findall(r"^(.*): (\d+)$", done.stdout, re.M)}
    assert sum(counts.values()) == len(paths) and counts["ended our code"] == 0
    assert counts["ran"] > 200 and counts["refused"] > 200
    assert counts["ended LiteRT"] + counts["took too long"] <= 20, done.stdout
