"""Runs the test suite once per backend: `python -m tests [pytest arguments]`.

Keras fixes its backend when it is imported, so each backend gets a process of its
own. They run side by side, as each keeps less than two cores busy: the first is shown as
it goes, the others when it is done. The exit status is non-zero if one failed.

JAX compiles whatever it is shown for the first time; tests show it the same small nets
again and again, each made anew. So it compiles without optimizing, and keeps the result.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

BACKENDS = ("tensorflow", "jax")
# TensorFlow's tests are more and take longer: two processes, a file at a time each.
OPTIONS = {"tensorflow": ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")}
ROOT = Path(__file__).resolve().parent.parent


def start_backend(
    backend: str, arguments: list[str], output: IO[bytes] | None, folder: Path
) -> subprocess.Popen[bytes]:
    """Starts pytest under one Keras backend; what it prints goes to `output`."""
    environment = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "KERAS_BACKEND": backend,
    }
    if backend == "jax":
        environment |= {
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    options = [*OPTIONS.get(backend, ()), *arguments]
    command = [sys.executable, "-m", "pytest", "-q", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
    )


def main(arguments: list[str]) -> int:
    """Runs every backend, prints one line for each, and returns 0 if all passed."""
    outcomes, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outputs: list[Path | None] = [None]
        outputs += [Path(folder) / backend for backend in BACKENDS[1:]]
        running = []
        for backend, output in zip(BACKENDS, outputs, strict=True):
            file = None if output is None else output.open("wb")
            running.append(start_backend(backend, arguments, file, Path(folder)))
        for backend, output, process in zip(BACKENDS, outputs, running, strict=True):
            print(f"== Keras on {backend}", flush=True)
            status = process.wait()
            if output is not None:
                print(output.read_text(errors="replace"), flush=True)
            outcomes.append((backend, status, time.monotonic() - start))
    for backend, status, seconds in outcomes:
        verdict = "passed" if status == 0 else f"FAILED (pytest exit status {status})"
        print(f"{backend}: {verdict} in {seconds:.0f} s")
    return int(any(status for _, status, _ in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
