"""Runs the test suite once per backend: `python -m tests [pytest arguments]`.

Keras fixes its backend when it is imported, so each backend gets a process of its
own. All of them run, also after a failure; the exit status is non-zero if one failed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

BACKENDS = ("tensorflow", "jax")
ROOT = Path(__file__).resolve().parent.parent


def run_backend(backend: str, arguments: list[str]) -> int:
    """Runs pytest under one Keras backend and returns its exit status."""
    environment = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "KERAS_BACKEND": backend,
    }
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main(arguments: list[str]) -> int:
    """Runs every backend, prints one line for each, and returns 0 if all passed."""
    outcomes = []
    for backend in BACKENDS:
        print(f"== Keras on {backend}", flush=True)
        start = time.monotonic()
        status = run_backend(backend, arguments)
        outcomes.append((backend, status, time.monotonic() - start))
    for backend, status, seconds in outcomes:
        verdict = "passed" if status == 0 else f"FAILED (pytest exit status {status})"
        print(f"{backend}: {verdict} in {seconds:.0f} s")
    return int(any(status for _, status, _ in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
