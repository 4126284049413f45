"""From a trained .keras file to a .tflite file in which skipped work is not done.

    python tflite/convert.py net.keras net.tflite --quantization dynamic
    python tflite/convert.py net.keras net.tflite --quantization int8 --images pictures/ \
        --verify more_pictures/

`--images` (to calibrate int8, and to pack channels on) and `--verify` (to compare the file
with Keras) take a folder of pictures, with or without subfolders, or an .npz with an array
`images` [N, height, width, 3] of 0 to 255. Pictures are resized and cropped to the net's
size. `--pack 16` reorders the channels of per-channel gates first, so that those that open
together run together; the net computes what it did. `--golden` keeps some inputs and what
this machine answers, to test others against: see README.md. It ends with what was made:
size, signatures, branches, MACs beside measured time, and, if verified, the agreement with
Keras. Exit status: 1 for an error, 3 if the file agrees on fewer labels than
`--min_agreement`.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from pictures import read_pictures

import keras_dyngate as kd
from keras_dyngate.export import quiet
from keras_dyngate.runtime import write_golden
from keras_dyngate.runtime.golden import new_folder

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "quantization",
    "none",
    ["none", "float16", "dynamic", "int8"],
    "Of the weights; int8: of all.",
)
flags.DEFINE_string(
    "images", None, "Pictures to calibrate and pack on; not test images."
)
flags.DEFINE_integer("samples", 128, "How many of them, and of --verify, to use.", 1)
flags.DEFINE_string("verify", None, "Pictures to compare the file with Keras on.")
flags.DEFINE_float("min_agreement", 0.0, "Least share of equal labels, 0 to 1.", 0, 1)
flags.DEFINE_enum("input_type", "float32", ["float32", "uint8"], "Of the image.")
flags.DEFINE_integer("group_size", None, "Channels that run together.", 1)
flags.DEFINE_integer("pack", None, "Reorder per-channel gates for such groups.", 1)
flags.DEFINE_list("signatures", None, "Those to keep; default: all.")
flags.DEFINE_list("subnetworks", None, "Of an anytime net: those with a signature.")
flags.DEFINE_string("golden", None, "A new folder for cases of --verify.")
flags.DEFINE_integer("cases", 8, "How many pictures --golden takes.", 1)
flags.DEFINE_string("labels", None, "Text file with a class name per line.")


def convert(source: str, target: str) -> kd.ExportReport:
    """Load, pack if asked to, export, write golden cases if asked to."""
    if FLAGS.golden:
        new_folder("--golden", FLAGS.golden)
    model = keras.saving.load_model(source, compile=False)
    shape = model.input_shape[1:]
    images = verify = None
    if FLAGS.images:
        images = read_pictures(FLAGS.images, shape, FLAGS.samples)
    if FLAGS.verify:
        verify = read_pictures(FLAGS.verify, shape, FLAGS.samples)
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
        quantization=None if FLAGS.quantization == "none" else FLAGS.quantization,
        representative_data=images,
        calibration_samples=FLAGS.samples,
        input_type=FLAGS.input_type,
        group_size=group_size,
        signatures=FLAGS.signatures,
        subnetworks=[int(k) for k in FLAGS.subnetworks] if FLAGS.subnetworks else None,
        labels=Path(FLAGS.labels).read_text().splitlines() if FLAGS.labels else None,
        parity_data=verify,
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
