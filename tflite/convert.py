r"""From a trained .keras file to a .tflite file in which skipped work is not done.

    python tflite/convert.py net.keras net.tflite --quantization dynamic
    python tflite/convert.py net.keras net.tflite --quantization int8 --images pictures/ \
        --verify more_pictures/

`--images` (to calibrate int8, and to pack channels on) and `--verify` (to compare the file
with Keras) take a folder of pictures, with or without subfolders, or an .npz with an array
`images` [N, height, width, 3] of 0 to 255. Pictures are resized and cropped to the net's
size.

Files take what their net takes, and all tools and apps here give 0 to 255. For a net that
was trained on other numbers, say which: `--input_scale 0.00392157` for 0 to 1, and
`--input_scale 0.00784314 --input_offset -1` for -1 to 1, or three numbers each, for red,
green and blue: 1 / deviation and -mean / deviation. The file then takes 0 to 255 and does
the rest inside. A net that seems to need this gets a warning.

`--pack 16` reorders the channels of per-channel gates first, so that those that open
together run together; the net computes what it did. `--golden` keeps some inputs and what
this machine answers, to test others against: see README.md.

`--quantization auto` makes a file of every kind, times them in turn, and writes the fastest
that hardly differs from the float32 one; the table says what each takes and loses.

It ends with what was made: size, signatures, branches, MACs (multiply-accumulates, MMACs
are millions; a file's own output `executed_macs` is in thousands) beside measured time,
and, if verified, the agreement with Keras. Exit status: 1 for an error, 3 if the file
agrees on fewer labels than `--min_agreement`.
"""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from input_scale import invented, rescaled, seems_scaled
from pictures import read_pictures

import keras_dyngate as kd
from keras_dyngate._files import read_lines
from keras_dyngate.export import quiet
from keras_dyngate.runtime import write_golden
from keras_dyngate.runtime.golden import new_folder

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "quantization",
    "float32",
    ["float32", "none", "float16", "dynamic", "int8", "auto"],
    "Of the weights: float32 (also none) leaves them, float16 halves them, dynamic makes "
    "them 8 bits. int8: 8 bits for weights and computing, which needs --images (a "
    "quantize-aware net needs none). auto: "
    "the fastest of these, and of int8 with some layers in float32, of which no more than "
    "--tolerance of the labels differ on --verify; needs --images.",
)
flags.DEFINE_float(
    "tolerance", 0.005, "For auto: labels that may differ from the float file's.", 0, 1
)
flags.DEFINE_string(
    "images",
    None,
    "Pictures to calibrate int8 and to pack on: a folder or an .npz. Not test images.",
)
flags.DEFINE_integer("samples", 128, "How many of them, and of --verify, to use.", 1)
flags.DEFINE_string("verify", None, "Pictures to compare the file with Keras on.")
flags.DEFINE_float("min_agreement", 0.0, "Least share of equal labels, 0 to 1.", 0, 1)
flags.DEFINE_enum("input_type", "float32", ["float32", "uint8"], "Of the image.")
flags.DEFINE_list(
    "input_scale",
    ["1"],
    "The net was trained on scale * pixels + offset: the scale, or one per channel.",
)
flags.DEFINE_list("input_offset", ["0"], "The offset, see --input_scale.")
flags.DEFINE_integer("group_size", None, "Channels that run or rest together.", 1)
flags.DEFINE_enum(
    "first_net",
    "dynamic",
    ["dynamic", "int8"],
    "How an int8 file holds a first net: dynamic is fastest on x86, int8 on ARM.",
)
flags.DEFINE_integer(
    "pack", None, "Reorder channels of per-channel gates, for groups of this size.", 1
)
flags.DEFINE_list("signatures", None, "Those to keep in the file; default: all.")
flags.DEFINE_list(
    "subnetworks", None, "Of an anytime net: which k get a signature of their own."
)
flags.DEFINE_string(
    "golden", None, "A new folder for pictures of --verify and what the file answers."
)
flags.DEFINE_integer("cases", 8, "How many pictures --golden takes.", 1)
flags.DEFINE_string("labels", None, "UTF-8 text file, a class name per line.")

SCALED = (
    "Warning: the net seems to take images of about 0 to 1, or -1 to 1, but pixels are 0 "
    "to 255: it tells pictures apart that are scaled so, and answers otherwise than on the "
    "pixels. If it was trained on 0 to 1, give --input_scale 0.00392157; if on -1 to 1, "
    "--input_scale 0.00784314 --input_offset -1."
)


def numbers(flag: str) -> list[float]:
    """What a flag lists."""
    try:
        return [float(number) for number in FLAGS[flag].value]
    except ValueError as error:
        given = ",".join(FLAGS[flag].value)
        raise ValueError(f"--{flag} must be numbers. Received: {given}") from error


def options_of(group_size: int | None) -> kd.GateOptions | kd.AnytimeOptions | None:
    """What the flags say of one kind of net, as `export_tflite` takes it."""
    if FLAGS.subnetworks and group_size:
        raise ValueError(
            "--subnetworks is for anytime nets, --group_size and --pack are for gated "
            "ones. Received: both"
        )
    if FLAGS.subnetworks:
        return kd.AnytimeOptions(subnetworks=[int(k) for k in FLAGS.subnetworks])
    if group_size or FLAGS.first_net != "dynamic":
        return kd.GateOptions(group_size=group_size, first_net=FLAGS.first_net)
    return None


def convert(source: str, target: str) -> kd.ExportReport:
    """Load, pack if asked to, export, write golden cases if asked to."""
    if FLAGS.golden:
        new_folder("--golden", FLAGS.golden)
    scale, offset = numbers("input_scale"), numbers("input_offset")
    labels = read_lines(FLAGS.labels) if FLAGS.labels else None
    model = keras.saving.load_model(source, compile=False)
    if (scale, offset) != ([1], [0]):
        model = rescaled(model, scale, offset)
    shape = model.input_shape[1:]
    images = verify = None
    if FLAGS.images:
        images = read_pictures(FLAGS.images, shape, FLAGS.samples)
    if FLAGS.verify:
        verify = read_pictures(FLAGS.verify, shape, FLAGS.samples)
    shown = verify if images is None else images
    if shown is None and len(shape) == 3 and None not in shape:
        shown = invented(shape)
    if shown is not None and seems_scaled(model, shown):
        print(SCALED, file=sys.stderr)
    group_size = FLAGS.group_size
    if FLAGS.pack:
        if images is None:
            raise ValueError("--pack needs --images to see what opens together")
        model, report = kd.pack_channels(model, images, FLAGS.pack)
        group_size = group_size or FLAGS.pack
        print(report)
    report = kd.export_tflite(
        model,
        target,
        quantization="float32" if FLAGS.quantization == "none" else FLAGS.quantization,
        representative_data=images,
        calibration_samples=FLAGS.samples,
        input_type=FLAGS.input_type,
        options=options_of(group_size),
        signatures=FLAGS.signatures,
        labels=labels,
        parity_data=verify,
        guard_data=verify,
        tolerance=FLAGS.tolerance,
    )
    if FLAGS.golden:
        write_golden(target, FLAGS.golden, np.round(verify[: FLAGS.cases]))
    return report


def main(argv: list[str]) -> int:
    if len(argv) != 3:
        raise app.UsageError("Give a .keras file, and the .tflite file to write.")
    if (FLAGS.min_agreement or FLAGS.golden) and not FLAGS.verify:
        raise app.UsageError("--min_agreement and --golden need --verify.")
    quiet()
    try:
        report = convert(argv[1], argv[2])
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(report)
    if report.parity and report.parity.argmax_agreement < FLAGS.min_agreement:
        print(
            f"The file agrees with Keras on {report.parity.argmax_agreement:.1%} of the "
            f"labels, fewer than {FLAGS.min_agreement:.1%}.",
            file=sys.stderr,
        )
        return 3
    return 0


if __name__ == "__main__":
    app.run(main)
