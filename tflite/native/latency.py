"""Is the C runner as fast as Python's interpreter? On one file, in one run, interleaved.

    python tflite/native/latency.py --runner build/runner net.tflite --signature classify

Every round starts the runner, which gives the median time of its calls, and takes the
median of as many calls in Python, on the same input: of `invoke` alone, with the inputs
already set and the outputs left where they are, and of whole calls, with inputs copied in
and outputs copied out. Printed are medians over the rounds, and the medians of each
round's ratios; `--at_most 1.03` makes the exit status 1 if that to `invoke` alone is
higher. Neither Keras nor TensorFlow is needed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter

FLAGS = flags.FLAGS
flags.DEFINE_string("runner", "build/runner", "The program, built.")
flags.DEFINE_string("library", None, "libLiteRt.so; default: ai-edge-litert's.")
flags.DEFINE_string("signature", None, "What to time; default: the file's first.")
flags.DEFINE_integer("rounds", 20, "How often both are timed in turn.", 1)
flags.DEFINE_integer("calls", 50, "Calls per round and side.", 1)
flags.DEFINE_integer("threads", 1, "CPU threads.", 1)
flags.DEFINE_integer("seed", 0, "Of the random inputs.")
flags.DEFINE_float("at_most", None, "Ratio to `invoke` above which to fail.")


def random_inputs(runner: Any, seed: int) -> dict[str, np.ndarray]:
    """Floats from 0 to 255, as those of images are; other numbers are zeros."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, detail in runner.get_input_details().items():
        values = rng.uniform(0, 255, detail["shape"])
        floats = np.dtype(detail["dtype"]).kind == "f"
        inputs[name] = (values if floats else 0 * values).astype(detail["dtype"])
    return inputs


def median_us(call: Callable[[], object], calls: int) -> float:
    """The median time of a call, in microseconds."""
    times = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e3


def python_calls(
    path: str, signature: str | None
) -> tuple[str, dict[str, np.ndarray], Callable[[], object], Callable[[], object]]:
    """Signature, inputs, `invoke` alone and a whole call, as Python has them."""
    interpreter = Interpreter(model_path=path, num_threads=FLAGS.threads)
    name = signature or next(iter(interpreter.get_signature_list()))
    runner = interpreter.get_signature_runner(name)
    inputs = random_inputs(runner, FLAGS.seed)
    runner(**inputs)
    # What the last line calls inside; the public `invoke` only knows the first signature.
    own, graph = runner._interpreter_wrapper, runner._subgraph_index
    return name, inputs, lambda: own.Invoke(graph), lambda: runner(**inputs)


def runner_command(
    path: str, name: str, inputs: dict[str, np.ndarray], folder: str
) -> list[str]:
    """The C runner on the same inputs, which are written to a folder."""
    library = FLAGS.library or Path(ai_edge_litert.__file__).parent / "libLiteRt.so"
    options = {"library": library, "repeat": FLAGS.calls, "threads": FLAGS.threads}
    command = [os.path.abspath(FLAGS.runner), path]
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    command += ["--run", name]
    for index, (key, value) in enumerate(inputs.items()):
        file = Path(folder) / f"{index}.raw"
        value.astype(value.dtype.newbyteorder("<")).tofile(file)
        command.append(f"{key}={file}")
    return command


def runner_us(command: list[str]) -> float:
    """What the C runner prints as its median."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} failed")
    return float(done.stdout.split()[-2])


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("Give one .tflite file.")
    path = argv[1]
    name, inputs, invoke, whole = python_calls(path, FLAGS.signature)
    with tempfile.TemporaryDirectory() as folder:
        command = runner_command(path, name, inputs, folder)
        sides = [
            lambda: runner_us(command),
            lambda: median_us(invoke, FLAGS.calls),
            lambda: median_us(whole, FLAGS.calls),
        ]
        times = np.zeros((FLAGS.rounds, len(sides)))
        for turn in range(-1, FLAGS.rounds):  # the first to warm up
            for k in range(len(sides)):
                side = (k + turn) % len(sides)
                times[turn, side] = sides[side]()
    c, alone, all_in = np.median(times, axis=0)
    ratio = np.median(times[:, 0] / times[:, 1])
    print(f"{path}, {name}, {FLAGS.threads} thread(s)")
    print(f"C runner          {c:10.1f} us")
    print(f"Python, invoke    {alone:10.1f} us, ratio {ratio:.3f}")
    whole_ratio = np.median(times[:, 0] / times[:, 2])
    print(f"Python, all of it {all_in:10.1f} us, ratio {whole_ratio:.3f}")
    if FLAGS.at_most is not None and ratio > FLAGS.at_most:
        sys.exit(f"The C runner takes more than {FLAGS.at_most} times as long.")


if __name__ == "__main__":
    app.run(main)
