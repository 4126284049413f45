"""
Title: ARM instructions of exits on real photos
Description: What the files of judge_exits.py take on emulated phone CPUs.

    python examples/exit_instructions.py --photos FOLDER \\
        --rows outputs/judge_exits/rows.json

Counts, for every net with a file, the way to each exit in int8, over the plain net's call,
on a Cortex-A76 and a Cortex-A53: see `tflite/arm/README.md` for what it needs. Of nets with
a first net, files of `judge_exits.py --quantizations int8_first` are taken where there are
some: they suit ARM better. Counts repeat exactly, unlike times; where gates decide as
well, they are means over some test photos. They go into the rows, as "a76" and "a53", and
`exits_page.py` shows them.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags
from exit_rows import FIRST, file_name
from photo_folder import photos

import keras_dyngate as kd
from keras_dyngate._files import write_whole

ARM = Path(__file__).resolve().parents[1] / "tflite" / "arm"
sys.path.insert(0, str(ARM))
from emulator import ArmMachine  # noqa: E402
from exit_paths import count_call, count_paths  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("rows", "outputs/judge_exits/rows.json", "What was judged.")
flags.DEFINE_string("photos", None, "Folder of photos.", required=True)
flags.DEFINE_integer("counted", 8, "Test photos, of nets whose gates decide.", 1)
flags.DEFINE_string("quantization", "int8", "Of the files.")
flags.DEFINE_string("folder", str(ARM.parent / "build" / "arm"), "Of what is built.")

CPUS = {"a76": "cortex-a76", "a53": "cortex-a53"}


def file_of(net: str) -> Path:
    """As `judge_exits.py` calls it; that with a first net in int8, if there is one."""
    folder = Path(FLAGS.rows).parent / "files"
    first = folder / file_name(net, FLAGS.quantization + FIRST)
    return first if first.exists() else folder / file_name(net, FLAGS.quantization)


def paths_of(
    machine: Any, cpu: str, file: kd.LiteRTModel, pictures: list[np.ndarray]
) -> list[float]:
    """Mean instructions to each exit."""
    if "classify_at" in file.signatures:
        counts = [count_paths(machine, cpu, file, image=each) for each in pictures]
    else:
        counts = [
            [count_call(machine, cpu, file, "classify", image=each)]
            for each in pictures
        ]
    return np.mean(counts, axis=0).tolist()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    path = Path(FLAGS.rows)
    held = json.loads(path.read_text())
    names = [net for net in held["files"] if file_of(net).exists()]
    size = kd.LiteRTModel(file_of("plain")).signatures["classify"].inputs["image"].shape
    x = photos(FLAGS.photos, "test", size[1])[0]
    pictures = list(x[:: max(1, len(x) // FLAGS.counted)][: FLAGS.counted])
    machine = ArmMachine(FLAGS.folder)
    plain: dict[str, float] = {}
    for net in ["plain", *(net for net in names if net != "plain")]:
        known = held["files"].setdefault(net, {})
        file = kd.LiteRTModel(file_of(net))
        decides = any("/" in name for name in file.signatures["explain"].outputs)
        some = pictures if decides else pictures[:1]
        for key, cpu in CPUS.items():
            if key not in known or net == "plain":
                counts = paths_of(machine, cpu, file, some)
                plain.setdefault(key, counts[0])
                known[key] = {"paths": [count / plain[key] for count in counts]}
                known[key]["plain_instructions"] = plain[key]
                known[key]["file"] = file_of(net).name.split(".")[-2]
        print(net, {key: np.round(known[key]["paths"], 3).tolist() for key in CPUS})
        write_whole(path, json.dumps(held, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
