r"""Do early exits save time? Measured in LiteRT, against the plain net, in one run.

    python tflite/benchmark_exits.py --model resnet101 --input_size 224 \
        --after stage1_block3,stage2_block4 --json out.json

puts decision gates on a net with random weights, sets the thresholds so that as many
images leave at each exit, and times, interleaved: the plain net, the file as it decides,
and the path to each exit, with its place in the net, beside the net cut off there, which
has that exit's head alone. `--model` is a constructor of this
library or, with `--applications`, of keras.applications. `time ratio` and `cost ratio` are
a path's time and MACs over the plain net's; the time is compared round by round, and the
median taken; `cut ratio` is that over the net cut off. MMACs are millions of MACs.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.models.exits.heads import KINDS
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.runtime.exit_places import exit_places, limits_to

SETTINGS = (
    "model input_size after head first combine quantization images rounds seed".split()
)
FLAGS = flags.FLAGS
flags.DEFINE_string("model", "resnet34", "Constructor of the trunk.")
flags.DEFINE_bool("applications", False, "Whether it is one of keras.applications.")
flags.DEFINE_integer("input_size", None, "Side of the images; default: the net's own.")
flags.DEFINE_list("after", None, "Layers to put gates after.", required=True)
flags.DEFINE_enum("head", "linear", KINDS, "Of the exits.")
flags.DEFINE_bool("first", False, "Whether a first net stands before the trunk.")
flags.DEFINE_bool("combine", False, "Whether exits average their answers.")
flags.DEFINE_enum("quantization", "none", ["none", "dynamic", "int8"], "Of all files.")
flags.DEFINE_integer("images", 12, "Random images.")
flags.DEFINE_integer("rounds", 36, "Timed calls per candidate.")
flags.DEFINE_integer("seed", 0, "Of random weights and images.")
flags.DEFINE_string("json", None, "Where to write the figures; MACs, not thousands.")


def build() -> keras.Model:
    home: Any = keras.applications if FLAGS.applications else kd
    options: dict[str, Any] = {"weights": None}
    if FLAGS.input_size:
        options["input_shape"] = (FLAGS.input_size, FLAGS.input_size, 3)
    if not hasattr(home, FLAGS.model):
        raise app.UsageError(f"--model must be one of {home.__name__}: {FLAGS.model!r}")
    return getattr(home, FLAGS.model)(**options)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if FLAGS.images <= len(FLAGS.after) + FLAGS.first:
        raise app.UsageError("--images must be more than there are exits.")
    quiet()
    keras.utils.set_random_seed(FLAGS.seed)
    trunk = build()
    rng = np.random.default_rng(FLAGS.seed)
    shape = (FLAGS.images, *trunk.input_shape[1:])
    images = rng.integers(0, 256, shape).astype("float32")
    images *= rng.uniform(0.2, 1.0, (FLAGS.images, 1, 1, 3)).astype("float32")
    try:
        model = kd.add_decision_gates(
            trunk,
            FLAGS.after,
            head=FLAGS.head,
            first="auto" if FLAGS.first else None,
            first_weights=None,
            combine=FLAGS.combine,
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    gates = len(model.gates)
    if FLAGS.combine:  # all that came so far alike
        model.mixing = (
            np.tril(np.ones([gates + 1] * 2)) / np.arange(1, gates + 2)[:, None]
        )
    even = [1 / (gates + 1)] * gates
    print(model.calibrate(images, exit_shares=even, batch_size=4))

    with tempfile.TemporaryDirectory() as folder:
        options = {
            "quantization": None
            if FLAGS.quantization == "none"
            else FLAGS.quantization,
            "representative_data": images,
        }
        plain = kd.export_tflite(trunk, Path(folder) / "plain.tflite", **options)
        report = kd.export_tflite(model, Path(folder) / "exits.tflite", **options)
        print(report)
        file, plain_file = (kd.LiteRTModel(r.path) for r in (report, plain))
        pictures = [{"image": image} for image in images]
        candidates: dict[str, Any] = {
            "plain": (plain_file, "classify", pictures),
            "as it decides": (file, "classify", pictures),
        }
        for index in range(gates + 1):
            limits = limits_to(index, gates)
            inputs = [{**picture, "thresholds": limits} for picture in pictures]
            candidates[f"to exit {index}"] = (file, "classify_at", inputs)
        for index in range(gates):
            cut = kd.cut_at_exit(model, exit=index)
            path = Path(folder) / f"cut_{index}.tflite"
            kd.export_tflite(cut, path, **options)
            candidates[f"cut {index}"] = (kd.LiteRTModel(path), "classify", pictures)
        times = compare_latency(candidates, rounds=FLAGS.rounds)
        exits = [int(file.run("classify", image=i)["exit"][0]) for i in images]

    shares = np.bincount(exits, minlength=gates + 1) / len(exits)
    paths = [float(times[f"to exit {i}"].mean()) for i in range(gates + 1)]
    macs = report.macs.per_exit
    rows = {
        "plain": trunk_macs(trunk),
        "as it decides": float(np.dot(shares, macs)),
        **{f"to exit {i}": macs[i] for i in range(gates + 1)},
    }
    table = Table(title=f"{trunk.name}, LiteRT, {FLAGS.quantization}, 1 thread")
    for column in (
        "path",
        "place",
        "mean ms",
        "time ratio",
        "MMACs",
        "cost ratio",
        "cut ratio",
    ):
        left = column in ("path", "place")
        table.add_column(column, justify="left" if left else "right")
    noted = enumerate(exit_places(file.metadata))
    places = {f"to exit {index}": str(place) for index, place in noted}
    result: dict[str, Any] = {"rows": {}}
    for name, cost in rows.items():
        ratio = float(np.median(times[name] / times["plain"]))
        short = times.get(name.replace("to exit", "cut")) if "exit" in name else None
        over = None if short is None else float(np.median(times[name] / short))
        result["rows"][name] = {
            "mean_ms": float(times[name].mean()),
            "time_ratio": ratio,
            "macs": cost,
            "cost_ratio": cost / rows["plain"],
            "cut_ratio": over,
            "place": places.get(name),
        }
        table.add_row(
            name,
            places.get(name),
            f"{times[name].mean():.2f}",
            f"{ratio:.3f}",
            f"{cost / 1e6:.1f}",
            f"{cost / rows['plain']:.3f}",
            "" if over is None else f"{over:.3f}",
        )
    Console().print(table)
    result |= {
        "shares": shares.tolist(),
        "mean_over_paths": float(times["as it decides"].mean() / np.dot(shares, paths)),
        "bytes_over_plain": report.bytes / plain.bytes,
        "settings": {name: FLAGS[name].value for name in SETTINGS},
        **describe_machine(),
    }
    print(
        f"mean over the images: {result['mean_over_paths']:.3f} of share x path; file: "
        f"{result['bytes_over_plain']:.3f} of the plain one"
    )
    if FLAGS.json:
        write_whole(Path(FLAGS.json), json.dumps(result, indent=1).encode())


def trunk_macs(trunk: keras.Model) -> int:
    """All that the plain net computes."""
    profile = kd.count_macs(trunk)
    return profile.total + profile.controllers


if __name__ == "__main__":
    app.run(main)
