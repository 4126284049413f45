"""Files on emulated ARM CPUs: the same answers, and at how many instructions?

    python tflite/arm/emulate.py golden FOLDER [FOLDER ...]

runs every golden case (`convert.py --golden` writes them) on a Cortex-A53, a Cortex-A76
and a CPU with 8-bit matrix instructions (i8mm), compares the answers, and counts the ARM
instructions of each signature.

    python tflite/arm/emulate.py gated --rates 1,0.5,0.25 --at_most 1.05,0.56,0.32

holds a gated net (random weights) at open rates and counts instructions beside its plain
twin.

    python tflite/arm/emulate.py exits net.tflite plain.tflite --pictures photos

counts the way to each early exit beside a plain file's call, on every CPU of `--cpus`, and
the mean over the shares of pictures that leave at each: those of a folder or .npz of
pictures at the file's own thresholds (which are decided on this machine), or `--shares`.

    python tflite/arm/emulate.py trials net.tflite trials.json --plain plain.tflite \\
        --json costs.json

counts a call under each of the first `--trials_limit` sets of decisions of `Trials.save`,
and one of the plain file, for a table of costs in instructions.

Counts hardly vary from run to run, unlike times: with `--at_most` they make a check of
what skipping costs and saves. Exit status: 0; 1 if answers differ or a ratio is above
its limit; 2 for a wrong command line; 3 if a tool is missing. The first call fetches
LiteRT for aarch64 and builds the runner in `--folder`.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from emulator import CPUS, ArmMachine, Unavailable
from exit_paths import (
    count_call,
    count_paths,
    exits_of,
    shares_as_said,
    shares_by_pictures,
)
from rich.console import Console
from rich.table import Table

from keras_dyngate._files import write_whole
from keras_dyngate.runtime import LiteRTModel, compare_golden
from keras_dyngate.runtime.exit_places import exit_places
from keras_dyngate.runtime.golden import MODEL, read_cases, runner_arguments
from keras_dyngate.runtime.trials import Trials, sha256_of

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from pictures import read_pictures  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "folder", str(HERE.parent / "build" / "arm"), "Where what was built is kept."
)
flags.DEFINE_list("cpus", list(CPUS), "Of golden and exits: the CPUs.")
flags.DEFINE_enum(
    "counted",
    "cortex-a76",
    list(CPUS),
    "Of golden, gated and trials: CPU to count on.",
)
flags.DEFINE_float("tolerance", 1e-5, "Of golden: largest relative difference.")
flags.DEFINE_string(
    "model",
    "gated_resnet34",
    "Of gated: constructor of the net; or a plain one, of keras.applications or a .keras "
    "file, that is gated here.",
)
flags.DEFINE_enum(
    "gate",
    "channels",
    ["channels", "pairs", "layers", "both"],
    "Of gated: what is gated.",
)
flags.DEFINE_integer("gate_groups", 4, "Of gated: decisions per gated convolution.")
flags.DEFINE_integer(
    "image_size", 64, "Of gated: side of the image, of a .keras file its own."
)
flags.DEFINE_string("stem", None, 'Of gated: "imagenet" or "cifar".')
flags.DEFINE_enum(
    "quantization", "none", ["none", "dynamic", "int8"], "Of gated: of all files."
)
flags.DEFINE_list("rates", ["1", "0.5", "0.25", "0"], "Of gated: open rates to force.")
flags.DEFINE_list(
    "at_most",
    [],
    "Of gated: the largest ratio at each of the rates. Of exits: the largest mean ratio on "
    "each of the CPUs.",
)
flags.DEFINE_string(
    "pictures", None, "Of exits: folder or .npz that decides the shares."
)
flags.DEFINE_integer("limit", None, "Of exits: how many of the pictures; default: all.")
flags.DEFINE_list("shares", None, "Of exits: share of the samples that leave at each.")
flags.DEFINE_string("plain", None, "Of trials: the net without gates and exits.")
flags.DEFINE_integer("trials_limit", 40, "Of trials: how many are counted.", 1)
flags.DEFINE_string("json", None, "Where to write the figures.")


def _table(title: str, columns: str) -> Table:
    table = Table(title=title)
    for index, column in enumerate(columns.split(", ")):
        table.add_column(column, justify="right" if index else "left")
    return table


def _within(rows: list[Any]) -> bool:
    """Whether no row's ratio is above its limit."""
    return all(
        row["at_most"] is None or row["instruction_ratio"] <= row["at_most"]
        for row in rows
    )


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
            for name in "model gate gate_groups image_size stem quantization".split()
            if FLAGS[name].value is not None
            and not (name == "image_size" and FLAGS.model.endswith(".keras"))
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
    return _within(rows), rows


def exits(machine: ArmMachine, path: str, plain: str) -> tuple[bool, list[Any]]:
    """The way to each exit beside a plain file's call, on every CPU, and their mean."""
    file, other = LiteRTModel(path), LiteRTModel(plain)
    count = exits_of(file)
    if FLAGS.shares:
        shares = shares_as_said(FLAGS.shares, count)
    else:
        shape = file.signatures["classify"].inputs["image"].shape[1:]
        shares = shares_by_pictures(
            file, read_pictures(FLAGS.pictures, shape, FLAGS.limit)
        )
    places = [str(place) for place in exit_places(file.metadata)] or [""] * count
    limits = [float(limit) for limit in FLAGS.at_most] or [None] * len(FLAGS.cpus)
    table = _table(
        f"{Path(path).name} beside {Path(plain).name}",
        "CPU, exit, place, share, M instructions, ratio, at most",
    )
    rows: list[Any] = []
    for cpu, limit in zip(FLAGS.cpus, limits, strict=True):
        whole = count_call(machine, cpu, other, "classify")
        paths = count_paths(machine, cpu, file)
        found = [
            ("plain", "", None, whole, None),
            *((i, places[i], shares[i], paths[i], None) for i in range(count)),
            ("mean", "", None, np.dot(shares, paths), limit),
        ]
        for exit_, place, share, instructions, most in found:
            row = {
                "cpu": cpu,
                "exit": exit_,
                "place": place,
                "share": None if share is None else float(share),
                "instructions": float(instructions),
                "instruction_ratio": float(instructions / whole),
                "at_most": most,
            }
            rows.append(row)
            table.add_row(
                cpu,
                f"{exit_}",
                place,
                "" if share is None else f"{share:.3f}",
                f"{instructions / 1e6:.2f}",
                f"{row['instruction_ratio']:.3f}",
                "" if most is None else f"{most:.2f}",
            )
        table.add_section()
    Console().print(table)
    return _within(rows), rows


def drawn_for(path: str, drawn: str) -> tuple[LiteRTModel, Trials]:
    """A file and its trials; a `ValueError` if they are of another one."""
    wanted = Trials.load(drawn)
    if wanted.file_sha256 != sha256_of(path):
        raise ValueError(
            f"trials must be drawn for {path}. Received: {drawn}, for another file"
        )
    return LiteRTModel(path), wanted


def trials(machine: ArmMachine, file: LiteRTModel, wanted: Trials) -> dict[str, Any]:
    """Costs of trials in instructions, as the C runner writes those in ms."""
    whole = None
    if FLAGS.plain:
        plain = LiteRTModel(FLAGS.plain)
        answer = plain.table.first("answer") or next(iter(plain.signatures))
        whole = count_call(machine, FLAGS.counted, plain, answer)
    count = min(len(wanted), FLAGS.trials_limit)

    def cost(index: int) -> int:
        given = wanted.feed(index)
        return count_call(machine, FLAGS.counted, file, wanted.signature, **given)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        costs = list(pool.map(cost, range(count)))
    table = _table(
        f"{count} of {len(wanted)} trials on {FLAGS.counted}",
        "plain, least, mean, most M instructions",
    )
    found = [whole, min(costs), sum(costs) / count, max(costs)]
    table.add_row(*("" if each is None else f"{each / 1e6:.2f}" for each in found))
    Console().print(table)
    return {
        "format": "keras_dyngate costs 1",
        "unit": "instructions",
        "device": f"{FLAGS.counted} (emulated)",
        "threads": 1,
        "cache": "warm",
        "file_sha256": wanted.file_sha256,
        "costs": costs,
        "plain": whole,
    }


def main(argv: list[str]) -> int:
    command, given = (argv[1], argv[2:]) if len(argv) > 1 else ("", [])
    suits = {
        "golden": len(given) > 0,
        "gated": not given,
        "exits": len(given) == 2,
        "trials": len(given) == 2,
    }
    if not suits.get(command):
        raise app.UsageError(
            "Say `golden FOLDER ...`, `gated`, `exits FILE PLAIN` or `trials FILE TRIALS`."
        )
    if set(FLAGS.cpus) - set(CPUS):
        raise app.UsageError(f"--cpus takes {', '.join(CPUS)}.")
    if command == "exits" and bool(FLAGS.shares) == bool(FLAGS.pictures):
        raise app.UsageError("exits needs one of --shares and --pictures.")
    limited = "cpus" if command == "exits" else "rates"
    if len(FLAGS.at_most) not in (0, len(FLAGS[limited].value)):
        raise app.UsageError(f"--at_most needs one limit for each of --{limited}.")
    well, rows = True, None
    try:
        pair = drawn_for(*given) if command == "trials" else ()
        machine = ArmMachine(FLAGS.folder)
        if command == "golden":
            well, rows = golden(machine, given)
        elif command == "gated":
            well, rows = gated(machine)
        elif command == "exits":
            well, rows = exits(machine, *given)
        else:
            rows = trials(machine, *pair)
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
