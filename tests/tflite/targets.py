"""Everything that can run a golden folder here, each as a function (golden, found).

A target that lacks a tool raises `pytest.skip` with what is missing. What takes a network
or long to build is built by `tflite/test_all.sh` into `tflite/build`.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.golden import MODEL, read_cases, runner_arguments

TFLITE = Path(__file__).resolve().parents[2] / "tflite"
BUILD = TFLITE / "build"
SKIPPED = 3  # exit status of a script that lacks a tool


def call(*command, **environment):
    """Run a program; a status of 3 skips the test, another one but 0 fails it."""
    done = subprocess.run(
        [os.fspath(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, f"{command[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")


def litert_library():
    found = pytest.importorskip("ai_edge_litert")
    library = Path(found.__file__).parent / "libLiteRt.so"
    if not library.is_file():
        pytest.skip(f"needs {library.name} in the package ai-edge-litert")
    return library


def interpreter(golden, found):
    """Python's interpreter, on another number of threads than the golden outputs."""
    model = LiteRTModel(golden / MODEL, num_threads=2)
    for case in read_cases(golden):
        specs = model.signatures[case.signature].inputs
        inputs = {
            name: np.fromfile(golden / file, specs[name].dtype).reshape(
                specs[name].shape
            )
            for name, file in case.inputs.items()
        }
        outputs = model.run(case.signature, **inputs)
        for name, file in case.outputs.items():
            outputs[name].tofile(found / file)


def compiled_model(golden, found):
    """LiteRT's other interface in Python."""
    from ai_edge_litert.compiled_model import CompiledModel

    signatures = LiteRTModel(golden / MODEL).signatures
    model = CompiledModel.from_file(os.fspath(golden / MODEL))
    for case in read_cases(golden):
        name, specs = case.signature, signatures[case.signature]
        inputs, outputs = {}, {}
        for key, file in case.inputs.items():
            inputs[key] = model.create_input_buffer_by_name(name, key)
            inputs[key].write(np.fromfile(golden / file, specs.inputs[key].dtype))
        for key in specs.outputs:
            outputs[key] = model.create_output_buffer_by_name(name, key)
        model.run_by_name(name, inputs, outputs)
        for key, file in case.outputs.items():
            spec = specs.outputs[key]
            size = int(np.prod(spec.shape))
            outputs[key].read(size, spec.dtype.type).tofile(found / file)


@contextlib.contextmanager
def building():
    """One process of the tests builds at a time."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def native_program():
    """The C runner; what is there already is brought up to date."""
    need("cmake", "cc")
    folder = BUILD / "native"
    with building():
        call("cmake", "-S", TFLITE / "native", "-B", folder, "-DSTRICT=ON")
        call("cmake", "--build", folder, "--target", "runner")
    return folder / "runner"


def runner(*options):
    """The C runner."""

    def run(golden, found):
        arguments = [*options, *runner_arguments(golden, found)]
        call(native_program(), "--library", litert_library(), *arguments)

    return run


@functools.cache
def arm_machine():
    sys.path.insert(0, os.fspath(TFLITE / "arm"))
    try:
        from emulator import ArmMachine, Unavailable
    finally:
        sys.path.pop(0)
    if not (BUILD / "arm" / "libLiteRt.so").is_file():
        pytest.skip("needs LiteRT for ARM, which tflite/test_all.sh fetches")
    try:
        return ArmMachine(BUILD / "arm")
    except Unavailable as error:
        pytest.skip(str(error))


def arm(cpu):
    """The C runner on an emulated CPU."""
    return lambda golden, found: arm_machine().run(cpu, runner_arguments(golden, found))


@functools.cache
def java_checks():
    """The script that runs them, built unless another process has built the same."""
    script = TFLITE / "android" / "desktop" / "check.sh"
    digest, stamp = hashlib.sha256(), BUILD / "java" / "built"
    for folder in ("android/app/src/main/java", "android/desktop", "native"):
        for path in sorted((TFLITE / folder).rglob("*")):
            if path.is_file():
                digest.update(path.read_bytes())
    with building():
        if not stamp.is_file() or stamp.read_text() != digest.hexdigest():
            call(script, "build")
            stamp.write_text(digest.hexdigest())
    return script


def java(*options):
    """The app's Java on a desktop JVM."""

    def run(golden, found):
        library = os.fspath(litert_library())
        arguments = [*options, golden, found]
        call(java_checks(), "golden", *arguments, LITERT_LIBRARY=library)

    return run


def dex(golden, found):
    """The same from the APK's bytecode, translated back."""
    apk = BUILD / "app.apk"
    if not apk.is_file():
        pytest.skip("needs the APK that tflite/test_all.sh builds")
    java("--dex", apk)(golden, found)


def _web():
    need("node")
    if not (TFLITE / "web" / "node_modules").is_dir():
        pytest.skip("needs LiteRT.js, which tflite/test_all.sh installs")


def node(golden, found):
    """LiteRT.js in Node."""
    _web()
    call("node", TFLITE / "web" / "golden.mjs", golden, found)


def browser(golden, found):
    """LiteRT.js in the page, in headless Chromium."""
    _web()
    need(os.environ.get("CHROMIUM", "chromium"))
    options = ["--model", golden / MODEL, "--golden", golden, "--found", found]
    picture = found / "picture.png"
    case = read_cases(golden)[0]
    shape = LiteRTModel(golden / MODEL).signatures[case.signature].inputs["image"].shape
    pixels = np.fromfile(golden / case.inputs["image"], "<f4").reshape(shape[1:])
    Image.fromarray(pixels.astype("uint8")).save(picture)
    said = call("node", TFLITE / "web" / "browser.mjs", *options, "--picture", picture)
    answer = json.loads(said)
    if answer["kind"] != "anytime":  # that depends on time
        label = np.fromfile(golden / case.outputs["label"], "<i4")
        assert answer["label"] == label, said


TARGETS = {
    "interpreter": interpreter,
    "compiled-model": compiled_model,
    "c-xnnpack": runner(),
    "c-builtin": runner("--kernels", "builtin"),
    "cortex-a53": arm("cortex-a53"),
    "cortex-a76": arm("cortex-a76"),
    "i8mm": arm("i8mm"),
    "java": java(),
    "dex": dex,
    "node": node,
    "browser": browser,
}
