r"""What does it cost to stop and go on? Steps of an anytime net against one net in one go.

    python tflite/benchmark_anytime.py --model sliced_resnet --blocks 1 --width 256 \
        --subnetworks 4 --json out.json

builds a net with random weights and times, interleaved in LiteRT: every step of a sliced
net (or every sub-network of an I-ResNeXt), the largest sub-network in one go from the same
file, and the reference: the same largest net as a plain file, a sliced one with zeros in
dense kernels. `time ratio` is a signature's time over the reference's, round by round, the
median of the rounds; `share of F_K` its MACs over those of the largest sub-network; MMACs
are millions of MACs. `sum / reference` is the price of being able to stop after each step.
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
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.runtime.anytime_runner import step_inputs

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "sliced_resnext", "Constructor of the net.")
flags.DEFINE_integer(
    "blocks", None, "Blocks per stage; default: the constructor's own."
)
flags.DEFINE_integer("width", None, "Channels of the first stage.")
flags.DEFINE_integer("branch_width", None, "Channels per group of the first stage.")
flags.DEFINE_integer("cardinality", None, "Groups of a convolution, of ResNeXt.")
flags.DEFINE_integer("subnetworks", None, "How many sub-networks: K.")
flags.DEFINE_integer("input_size", None, "Side of the images; default: the net's own.")
flags.DEFINE_list("alone", None, "Which k get a signature of their own, if not all.")
flags.DEFINE_enum(
    "weights",
    "smaller",
    ["smaller", "shared", "folded"],
    "Of an I-ResNeXt: stored once, folded for each sub-network, or what is smaller.",
)
flags.DEFINE_enum("quantization", "none", ["none", "dynamic", "int8"], "Of all files.")
flags.DEFINE_integer("images", 8, "Random images.")
flags.DEFINE_integer("rounds", 30, "Timed calls per candidate.")
flags.DEFINE_integer("seed", 0, "Of random weights and images.")
flags.DEFINE_string("json", None, "Where to write the figures; MACs, not thousands.")

SIZES = ("blocks", "width", "branch_width", "cardinality", "subnetworks")


def build() -> kd.AnytimeModel:
    options: dict[str, Any] = {
        name: FLAGS[name].value for name in SIZES if FLAGS[name].value is not None
    }
    if FLAGS.input_size:
        options["input_shape"] = (FLAGS.input_size, FLAGS.input_size, 3)
    return getattr(kd, FLAGS.model)(**options)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    keras.utils.set_random_seed(FLAGS.seed)
    model = build()
    rng = np.random.default_rng(FLAGS.seed)
    shape = (FLAGS.images, *model.input_shape[1:])
    images = rng.integers(0, 256, shape).astype("float32")
    options = {
        "quantization": None if FLAGS.quantization == "none" else FLAGS.quantization,
        "representative_data": images,
    }
    alone = [int(k) for k in FLAGS.alone] if FLAGS.alone else None
    shared = {"smaller": None, "shared": True, "folded": False}[FLAGS.weights]
    largest = model.subnetwork(model.subnetworks)
    with tempfile.TemporaryDirectory() as folder:
        report = kd.export_tflite(
            model,
            Path(folder) / "net.tflite",
            options=kd.AnytimeOptions(subnetworks=alone, share_weights=shared),
            **options,
        )
        plain = kd.export_tflite(largest, Path(folder) / "plain.tflite", **options)
        print(report)
        file, plain_file = (kd.LiteRTModel(r.path) for r in (report, plain))
        pictures = [{"image": image} for image in images]
        steps = step_inputs(file, images)
        candidates: dict[str, Any] = {"reference": (plain_file, "classify", pictures)}
        candidates |= {name: (file, name, given) for name, given in steps.items()}
        for name in file.table.numbered("subnetwork").values():
            candidates[name] = (file, name, pictures)
        times = compare_latency(candidates, rounds=FLAGS.rounds)

    macs = {row.signature: row.macs for row in report.subnetworks}
    whole = model.mac_profile().per_subnetwork[-1]
    table = Table(title=f"{model.name}, LiteRT, {FLAGS.quantization}, 1 thread")
    for column in ("signature", "median ms", "time ratio", "MMACs", "share of F_K"):
        table.add_column(column, justify="left" if column == "signature" else "right")
    rows: dict[str, dict[str, float]] = {}
    for name, taken in times.items():
        rows[name] = {
            "median_ms": float(np.median(taken)),
            "time_ratio": float(np.median(taken / times["reference"])),
            "macs": macs.get(name, whole),
            "macs_share": macs.get(name, whole) / whole,
        }
        table.add_row(
            name,
            f"{rows[name]['median_ms']:.2f}",
            f"{rows[name]['time_ratio']:.3f}",
            f"{rows[name]['macs'] / 1e6:.1f}",
            f"{rows[name]['macs_share']:.3f}",
        )
    Console().print(table)
    result: dict[str, Any] = {
        "rows": rows,
        "bytes": report.bytes,
        "bytes_over_reference": report.bytes / plain.bytes,
        "settings": {
            name: FLAGS[name].value
            for name in (*SIZES, *"model weights quantization rounds seed".split())
        },
        **describe_machine(),
    }
    if steps:
        total = sum(times[name] for name in steps)
        result["sum_over_reference"] = float(np.median(total / times["reference"]))
        first = next(iter(steps))
        share = rows[first]["macs_share"]
        result["start_over_share"] = rows[first]["time_ratio"] / share
        result["start_of_the_sum_over_share"] = float(
            np.median(times[first] / total) / share
        )
        print(
            f"sum of the steps: {result['sum_over_reference']:.3f} of the reference; "
            f"start: {result['start_over_share']:.2f} of its MAC share in time of the "
            f"reference, {result['start_of_the_sum_over_share']:.2f} in time of the sum"
        )
    print(f"file: {result['bytes_over_reference']:.3f} of the reference's")
    if FLAGS.json:
        write_whole(Path(FLAGS.json), json.dumps(result, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
