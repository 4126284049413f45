r"""Does skipping save time? Measured in LiteRT, against the plain net, in one run.

Three questions, three modes:

    python tflite/benchmark.py --model gated_resnet34 --gate_groups 4 \
        --quantization dynamic --json out.json

holds a gated net (random weights) at fixed open rates and times it, interleaved, beside
its plain twin and the plain ResNet-18. The time should follow the MACs. With
`--model lc_resnet34 --mode l` whole layers are skipped. Any plain net is gated first:

    python tflite/benchmark.py --model MobileNetV2 --gate channels --rates 1,0.5
    python tflite/benchmark.py --model net.keras --gate layers --rates 1,0.5,0

    python tflite/benchmark.py --keras_file trained.keras --images pictures.npz

times a trained net on real pictures (a folder, or an .npz with `images` [N, height,
width, 3], 0 to 255), its own gates deciding, beside the same net held wholly open. In
both modes `time ratio` and `cost ratio` are a row's time and MACs over those of the plain
twin, or of the net held open; the time is compared round by round, and the median taken.

    python tflite/benchmark.py --tflite_file net.tflite,plain.tflite --images pictures/ \
        --threads 2 --plot out.png

times files as they are, on a device too: neither Keras nor TensorFlow is imported. Every
image is timed in every round on every file, after a round to warm up. Printed are the
distribution of all calls, and times beside MACs per exit and per open rate. `time ratio`
is a file's time over that of the first file: of all images in a round, the median over the
rounds; below 1 it is faster. MMACs are millions of multiply-accumulates that were run on
an image, on average (a file's own output `executed_macs` counts thousands, `--json` units).

`--table phone.json`, a `CostTable` of the gated net that was measured anywhere, adds what
it says of every row of the first two modes, other plain nets apart.

`--signature` names what to time, in any file whose signature has one image input; what a
step or stage takes from earlier ones is made beforehand. `--thresholds 1.5,1.2` sets those
of early exits (of `classify_at` unless a signature is named). Without `--images` they are
random.
"""

import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from keras_dyngate import __version__
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate.runtime import describe_machine

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model",
    "gated_resnet34",
    "Constructor of the gated net; or a plain one that is gated here: a name of "
    "keras.applications, MobileNetV2 say, or a .keras file.",
)
flags.DEFINE_enum(
    "gate", "channels", ["channels", "pairs", "layers", "both"], "What is gated."
)
flags.DEFINE_float(
    "where", None, "Of a plain --model, gate what has this share of the MACs, or more."
)
flags.DEFINE_string("mode", None, 'Of an LC-Net: "l" holds layers at the rates.')
flags.DEFINE_integer("gate_groups", None, "Decisions per gated convolution.")
flags.DEFINE_integer("gate_group_size", None, "Or: channels per decision.")
flags.DEFINE_enum(
    "quantization",
    "none",
    ["none", "float16", "dynamic", "int8"],
    "Of the files that are made.",
)
flags.DEFINE_list("rates", ["1", "0.75", "0.5", "0.25", "0"], "Open rates to force.")
flags.DEFINE_list("against", ["resnet18"], "Further plain nets to time beside it.")
flags.DEFINE_float("width", 1.0, "Width multiplier of all nets.")
flags.DEFINE_integer("image_size", None, "Side of the images; default: the net's own.")
flags.DEFINE_string("stem", None, '"imagenet" or "cifar"; default: the net\'s own.')
flags.DEFINE_integer("rounds", 30, "Timed calls per net and image.", 1)
flags.DEFINE_integer("threads", 1, "CPU threads.", 1)
flags.DEFINE_integer("seed", 0, "Of random weights and images.")
flags.DEFINE_string("keras_file", None, "A trained net, to be timed as it decides.")
flags.DEFINE_list("tflite_file", [], "Files to be timed as they are, comma-separated.")
flags.DEFINE_string("signature", None, "Of these files; default: the usual one.")
flags.DEFINE_list("thresholds", [], "Of their early exits; default: the file's own.")
flags.DEFINE_string("images", None, "A folder of pictures, or .npz with `images`.")
flags.DEFINE_integer("samples", 32, "With --tflite_file: how many images.", 1)
flags.DEFINE_string("plot", None, "Where to draw times and MACs of --tflite_file.")
flags.DEFINE_string(
    "table", None, "A CostTable of the gated net: what it says of the rows too."
)
flags.DEFINE_string("json", None, "Where to write the figures; MACs, not thousands.")
flags.DEFINE_string("keep", None, "A folder for the files that are made.")

HELD_SETTINGS = (
    "model mode gate where gate_groups gate_group_size quantization width image_size "
    "stem "
    "rounds threads seed keras_file images"
)
FILE_SETTINGS = "tflite_file signature thresholds images samples rounds threads seed"


def write_json(rows: list[dict[str, Any]], settings: str) -> None:
    """Keep the figures, with the machine and the flags that they depend on."""
    if FLAGS.json:
        result = {
            "settings": {name: FLAGS[name].value for name in settings.split()},
            **describe_machine(),
            "keras_dyngate": __version__,
            "rows": rows,
        }
        write_whole(Path(FLAGS.json), json.dumps(result, indent=1).encode())


def make_and_time() -> None:
    """The modes that make their files, which needs Keras on TensorFlow."""
    import held_nets

    write_json(held_nets.run(), HELD_SETTINGS)


def time_files() -> None:
    """The mode for a device."""
    import timed_files

    for flag in ("json", "plot"):  # before minutes of measuring
        if FLAGS[flag].value:
            writable_target(f"--{flag}", FLAGS[flag].value)
    reports, rows = timed_files.run()
    write_json(rows, FILE_SETTINGS)
    if FLAGS.plot:
        from keras_dyngate.visualization import latency_plot

        latency_plot(reports).savefig(FLAGS.plot, dpi=150)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if FLAGS.tflite_file and FLAGS.keras_file:
        raise app.UsageError("Give --tflite_file or --keras_file")
    if not FLAGS.tflite_file:
        if (FLAGS.keras_file is None) != (FLAGS.images is None):
            raise app.UsageError("--keras_file and --images belong together")
        if FLAGS.signature or FLAGS.thresholds or FLAGS.plot:
            raise app.UsageError(
                "--signature, --thresholds and --plot need --tflite_file"
            )
    try:
        (time_files if FLAGS.tflite_file else make_and_time)()
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
