"""From a trained .keras file to a .tflite file in which skipped work is not done.

    python tflite/convert.py net.keras net.tflite --quantization dynamic
    python tflite/convert.py net.keras net.tflite --quantization int8 --images pictures/ \
        --verify more_pictures/

`--images` (to calibrate int8, and to pack channels on) and `--verify` (to compare the file
with Keras) take a folder of pictures, with or without subfolders, or an .npz with an array
`images` [N, height, width, 3] of 0 to 255. Pictures are resized and cropped to the net's
size. `--pack 16` reorders the channels of per-channel gates first, so that those that open
together run together; the net computes what it did. It ends with what was made: size,
signatures, branches, MACs beside measured time, and, if verified, the agreement with Keras.
Exit status: 1 for an error, 3 if the file agrees on fewer labels than `--min_agreement`.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate.datasets.files import SUFFIXES, split_of
from keras_dyngate.export import quiet

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
flags.DEFINE_list("subnetworks", None, "Of an anytime net: those with a signature.")
flags.DEFINE_string("labels", None, "Text file with a class name per line.")


def read_images(path: str, shape: tuple[int, ...], limit: int) -> np.ndarray:
    """Up to `limit` images for a net of this input shape, float32, 0 to 255.

    Raises:
        ValueError, FileNotFoundError: If there are none, or they cannot be read.
    """
    source = Path(path)
    if source.is_file():
        with np.load(source, allow_pickle=False) as file:
            if "images" not in file:
                raise ValueError(
                    f"{path} must hold an array `images`. Received: {sorted(file)}"
                )
            return file["images"][:limit].astype("float32")
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(
            f"{path} must be an .npz file or a folder of pictures. Received: "
            f"{'a folder without any' if source.is_dir() else 'no such file'}"
        )
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, limit).astype(int)]
    chosen = list(dict.fromkeys(chosen))
    fit = keras.layers.Resizing(
        *shape[:2], crop_to_aspect_ratio=True, antialias=True, dtype="float32"
    )
    split = split_of(
        len(chosen),
        lambda index: (chosen[index], 0),
        prepare=lambda image, label: (fit(image), label),
    )
    return split.arrays()[0]


def convert(source: str, target: str) -> kd.ExportReport:
    """Load, pack if asked to, export."""
    model = keras.saving.load_model(source, compile=False)
    shape = model.input_shape[1:]
    images = verify = None
    if FLAGS.images:
        images = read_images(FLAGS.images, shape, FLAGS.samples)
    if FLAGS.verify:
        verify = read_images(FLAGS.verify, shape, FLAGS.samples)
    group_size = FLAGS.group_size
    if FLAGS.pack:
        if images is None:
            raise ValueError("--pack needs --images to see what opens together")
        model, report = kd.pack_channels(model, images, FLAGS.pack)
        group_size = group_size or FLAGS.pack
        print(report)
    return kd.export_tflite(
        model,
        target,
        quantization=None if FLAGS.quantization == "none" else FLAGS.quantization,
        representative_data=images,
        calibration_samples=FLAGS.samples,
        input_type=FLAGS.input_type,
        group_size=group_size,
        subnetworks=[int(k) for k in FLAGS.subnetworks] if FLAGS.subnetworks else None,
        labels=Path(FLAGS.labels).read_text().splitlines() if FLAGS.labels else None,
        parity_data=verify,
    )


def main(argv: list[str]) -> int:
    if len(argv) != 3:
        raise app.UsageError("Give a .keras file, and the .tflite file to write.")
    if FLAGS.min_agreement and not FLAGS.verify:
        raise app.UsageError("--min_agreement needs --verify.")
    quiet()
    try:
        report = convert(argv[1], argv[2])
    except (OSError, ValueError, RuntimeError) as error:
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
