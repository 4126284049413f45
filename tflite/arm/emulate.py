"""Files on emulated ARM CPUs: the same answers, and at how many instructions?

    python tflite/arm/emulate.py golden FOLDER [FOLDER ...]

runs every golden case (`convert.py --golden` writes them) on a Cortex-A53, a Cortex-A76
and a CPU with 8-bit matrix instructions (i8mm), compares the answers, and counts the ARM
instructions of each signature.

    python tflite/arm/emulate.py gated --rates 1,0.5,0.25 --at_most 1.05,0.56,0.32

holds a gated net (random weights) at open rates and counts instructions beside its plain
twin. Counts hardly vary from run to run, unlike times: with `--at_most` they make a check
of what skipping costs and saves. Exit status: 0; 1 if answers differ or a ratio is above
its limit; 2 for a wrong command line; 3 if a tool is missing. The first call fetches
LiteRT for aarch64 and builds the runner in `--folder`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from emulator import CPUS, ArmMachine, Unavailable
from rich.console import Console
from rich.table import Table

from keras_dyngate._files import write_whole
from keras_dyngate.runtime import compare_golden
from keras_dyngate.runtime.golden import MODEL, read_cases, runner_arguments

HERE = Path(__file__).resolve().parent
FLAGS = flags.FLAGS
flags.DEFINE_string(
    "folder", str(HERE.parent / "build" / "arm"), "Where what was built is kept."
)
flags.DEFINE_list("cpus", list(CPUS), "Of golden: the CPUs.")
flags.DEFINE_enum("counted", "cortex-a76", list(CPUS), "CPU to count instructions on.")
flags.DEFINE_float("tolerance", 1e-5, "Of golden: largest relative difference.")
flags.DEFINE_string("model", "gated_resnet34", "Of gated: constructor of the net.")
flags.DEFINE_integer("gate_groups", 4, "Of gated: decisions per gated convolution.")
flags.DEFINE_integer("image_size", 64, "Of gated: side of the image.")
flags.DEFINE_string("stem", None, 'Of gated: "imagenet" or "cifar".')
flags.DEFINE_enum(
    "quantization", "none", ["none", "dynamic", "int8"], "Of gated: of all files."
)
flags.DEFINE_list("rates", ["1", "0.5", "0.25", "0"], "Of gated: open rates to force.")
flags.DEFINE_list("at_most", [], "Of gated: the largest ratio at each of the rates.")
flags.DEFINE_string("json", None, "Where to write the figures.")


def _table(title: str, columns: str) -> Table:
    table = Table(title=title)
    for index, column in enumerate(columns.split(", ")):
        table.add_column(column, justify="right" if index else "left")
    return table


def golden(machine: ArmMachine, folders: list[str]) -> tuple[bool, list[Any]]:
    """Compare on every CPU, and count each signature's first case on one of them."""
    answers = _table(
        "Golden cases", "folder, CPU, outputs, same bits, largest difference"
    )
    counts = _table(f"One call on {FLAGS.counted}", "folder, signature, M instructions")
    rows: list[Any] = []
    for folder in folders:
        for cpu in FLAGS.cpus:
            with tempfile.TemporaryDirectory() as found:
                machine.run(cpu, runner_arguments(folder, found))
                differences = compare_golden(folder, found)
            same = sum(d.equal for d in differences)
            worst = max(
                d.relative if d.dtype == "float32" or d.equal else float("inf")
                for d in differences
            )
            rows.append({"folder": folder, "cpu": cpu, "same": same, "worst": worst})
            name = Path(folder).name
            answers.add_row(name, cpu, f"{len(differences)}", f"{same}", f"{worst:.1e}")
        seen = set()
        for case in read_cases(folder):
            if case.signature in seen:
                continue
            seen.add(case.signature)
            inputs = {k: str(Path(folder) / v) for k, v in case.inputs.items()}
            model = str(Path(folder) / MODEL)
            count = machine.instructions(FLAGS.counted, model, case.signature, inputs)
            rows.append(
                {"folder": folder, "signature": case.signature, "instructions": count}
            )
            counts.add_row(Path(folder).name, case.signature, f"{count / 1e6:.2f}")
    Console().print(answers, counts)
    return all(row.get("worst", 0) <= FLAGS.tolerance for row in rows), rows


def gated(machine: ArmMachine) -> tuple[bool, list[Any]]:
    """A gated net at open rates beside the plain net; the files are benchmark.py's."""
    limits = [None, *map(float, FLAGS.at_most)]
    limits += [None] * (1 + len(FLAGS.rates) - len(limits))
    with tempfile.TemporaryDirectory() as folder:
        script, figures = HERE.parent / "benchmark.py", Path(folder) / "figures.json"
        options = [
            f"--{name}={FLAGS[name].value}"
            for name in "model gate_groups image_size stem quantization".split()
            if FLAGS[name].value is not None
        ]
        options += [f"--rates={','.join(FLAGS.rates)}", "--against=", "--rounds=10"]
        where = [f"--keep={folder}", f"--json={figures}"]
        done = subprocess.run(
            [sys.executable, str(script), *options, *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{script.name}: {done.stderr.strip()[-2000:]}")
        rows = json.loads(figures.read_text())["rows"]
        shape = (1, FLAGS.image_size, FLAGS.image_size, 3)
        image = Path(folder) / "image.raw"
        pixels = np.random.default_rng(0).integers(0, 256, shape).astype("<f4")
        image.write_bytes(pixels.tobytes())
        inputs = {"image": str(image)}
        for row in rows:
            model = str(Path(folder) / row["file"])
            count = machine.instructions(FLAGS.counted, model, "classify", inputs)
            row["instructions"] = count
            row["instruction_ratio"] = count / rows[0]["instructions"]
    title = f"{FLAGS.counted}, {FLAGS.quantization}, {FLAGS.image_size} pixels"
    table = _table(
        title, "net, M instructions, ratio, at most, MMACs, ratio, ms here, ratio"
    )
    for row, limit in zip(rows, limits, strict=True):
        row["at_most"] = limit
        table.add_row(
            row["name"],
            f"{row['instructions'] / 1e6:.1f}",
            f"{row['instruction_ratio']:.3f}",
            "" if limit is None else f"{limit:.2f}",
            f"{row['executed_macs'] / 1e6:.1f}",
            f"{row['cost_ratio']:.3f}",
            f"{row['median_ms']:.2f}",
            f"{row['time_ratio']:.3f}",
        )
    Console().print(table)
    well = all(
        row["at_most"] is None or row["instruction_ratio"] <= row["at_most"]
        for row in rows
    )
    return well, rows


def main(argv: list[str]) -> int:
    if len(argv) < 2 or (argv[1], len(argv) > 2) not in (
        ("golden", True),
        ("gated", False),
    ):
        raise app.UsageError("Say `golden FOLDER ...` or `gated`.")
    if set(FLAGS.cpus) - set(CPUS):
        raise app.UsageError(f"--cpus takes {', '.join(CPUS)}.")
    if len(FLAGS.at_most) not in (0, len(FLAGS.rates)):
        raise app.UsageError("--at_most needs one limit for each of --rates.")
    try:
        machine = ArmMachine(FLAGS.folder)
        if argv[1] == "golden":
            well, rows = golden(machine, argv[2:])
        else:
            well, rows = gated(machine)
    except Unavailable as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 3
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if FLAGS.json:
        write_whole(Path(FLAGS.json), json.dumps(rows, indent=1).encode())
    print("all is well" if well else "not well: see the table")
    return 0 if well else 1


if __name__ == "__main__":
    app.run(main)
