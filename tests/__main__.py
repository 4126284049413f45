"""Runs the test suite, once per Keras backend, in as many processes as there are cores.

Keras fixes its backend when it is imported, so the backends take turns; the processes of
one share its test files, heavy ones first. Of each backend the ten slowest tests are
printed, and what was skipped, with the reason. The exit status is 0 if all passed.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
# What runs on PyTorch, which is optional: what a net is made of and trained with.
TORCH = ("controllers", "layers", "losses", "regularizers")
OPTIONS = (
    *("-q", "-n", "logical", "--dist", "loadfile", "--no-loadscope-reorder"),
    # A process that hung has ended itself (pyproject.toml): its file is not begun again.
    "--max-worker-restart=0",
)
SHOWN = ("-rs", "--durations=10")

EPILOG = """\
All other arguments go to pytest, in every backend: paths (from the project's folder),
-k EXPRESSION, -x, -n 1 (no more than one process), ...

examples:
  python -m tests                     all of it; what CI runs
  python -m tests --quick             every part of the library, in a few minutes
  python -m tests --backend jax tests/layers
"""


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and what is left for pytest."""
    parser = argparse.ArgumentParser(
        prog="python -m tests",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="for daily work: only TensorFlow (or the backends that --backend names), "
        "without the tests marked heavy",
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="run only this one; may be given several times. Default: all. torch runs "
        f"tests/{{{','.join(TORCH)}}}, if PyTorch is installed",
    )
    return parser.parse_known_args(arguments)


def is_path(argument: str) -> bool:
    """Whether pytest would take an argument for a file, a folder or a test."""
    return (ROOT / argument.partition("::")[0]).exists()


def run_backend(backend: str, arguments: list[str]) -> int:
    """Runs pytest under one Keras backend and returns its exit status."""
    environment = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "KERAS_BACKEND": backend,
    }
    command = [sys.executable, "-m", "pytest", *OPTIONS, *SHOWN, *arguments]
    if backend == "torch" and not any(map(is_path, arguments)):
        command += [f"tests/{folder}" for folder in TORCH]
    with tempfile.TemporaryDirectory() as folder:
        if backend == "jax":
            # It compiles whatever it is shown for the first time, and tests show it the
            # same small nets again and again, each made anew: so it compiles without
            # optimizing, and keeps the result for all processes.
            environment |= {
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main(arguments: list[str]) -> int:
    """Runs the backends, prints one line for each, and returns 0 if all passed."""
    options, rest = parse(arguments)
    backends = options.backend or (["tensorflow"] if options.quick else BACKENDS)
    if options.quick:
        rest += ["-m", "not heavy"]
    lines, failed = [], False
    for backend in backends:
        if backend == "torch" and importlib.util.find_spec("torch") is None:
            lines.append("torch: NOT RUN, as it is not installed (pip install torch)")
            failed |= options.backend is not None
            continue
        print(f"== Keras on {backend}", flush=True)
        start = time.monotonic()
        status = run_backend(backend, rest)
        verdict = "passed" if status == 0 else f"FAILED (pytest exit status {status})"
        lines.append(f"{backend}: {verdict} in {time.monotonic() - start:.0f} s")
        failed |= status != 0
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
