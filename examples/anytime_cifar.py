"""
Title: Anytime nets on CIFAR-10
Description: Trains an I-ResNeXt or a sliced net; accuracy, MACs and time of every k.

    python examples/anytime_cifar.py --data cifar10.npz --model sliced_resnext

SGD with momentum 0.9 and weight decay 1e-4, the learning rate from 0.1 along a cosine to
0, shifted and mirrored pictures, and the paper's mean and deviation; the paper itself
trains 300 epochs. A run that was cut off goes on from its last whole epoch. The
validation images (the last tenth of the training ones) are looked at after each epoch,
the test images once. For `--data` see cifar_npz.py; `--train_samples` takes fewer images.
Results go to `--out`: the model, a table, a figure, and a file timed by its steps.
"""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar_npz
import keras
from absl import app, flags
from cifar_npz import Split

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.runtime import describe_machine

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, ".npz with the images and labels.", required=True)
flags.DEFINE_enum(
    "model",
    "sliced_resnext",
    ["inclusive_resnext", "sliced_resnext", "sliced_resnet"],
    "Which net.",
)
flags.DEFINE_integer("blocks", 2, "Of each of the three stages.")
flags.DEFINE_integer("width", 64, "Channels of the first stage.")
flags.DEFINE_integer("subnetworks", 4, "K.")
flags.DEFINE_enum("heads", "private", ["private", "shared"], "Of sliced nets.")
flags.DEFINE_integer("epochs", 10, "Of the training.")
flags.DEFINE_integer("batch", 64, "Images per step.")
flags.DEFINE_float("learning_rate", 0.1, "At the start.")
flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16"], "Keras' dtype policy."
)
flags.DEFINE_integer("train_samples", None, "Training images; default all.")
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_string("out", "outputs/anytime_cifar", "Folder for files and figures.")

MEAN = tuple(v / 255 for v in (125.3, 123.0, 113.9))
STD = tuple(v / 255 for v in (63.0, 62.1, 66.7))


def build(width: int, subnetworks: int) -> kd.AnytimeModel:
    """The net of the flags, in that width and so many parts."""
    options = {} if FLAGS.model == "inclusive_resnext" else {"heads": FLAGS.heads}
    return getattr(kd, FLAGS.model)(
        blocks=FLAGS.blocks,
        width=width,
        subnetworks=subnetworks,
        mean=MEAN,
        std=STD,
        **options,
    )


def trained(
    width: int, subnetworks: int, train: Split, validation: Split, folder: Path
) -> kd.AnytimeModel:
    """Such a net, trained; as `folder` has it, if it was before."""
    path = folder / "model.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(FLAGS.seed)
    model = build(width, subnetworks)
    rate = keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, -(-len(train.x) // FLAGS.batch) * FLAGS.epochs
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, weight_decay=1e-4),
        metrics=["accuracy"],
    )
    model.fit(
        cifar_npz.augmented(train, FLAGS.seed, FLAGS.batch),
        epochs=FLAGS.epochs,
        validation_data=tuple(validation),
        callbacks=[keras.callbacks.BackupAndRestore(folder / "backup")],
        verbose=2,
    )
    model.save(path)
    return model


def load_data() -> tuple[Split, Split, Split]:
    """Training images, as many as the flags say, validation and test images."""
    train, validation, test = cifar_npz.load(FLAGS.data)
    if FLAGS.train_samples is not None:
        train = Split(*(part[: FLAGS.train_samples] for part in train))
    return train, validation, test


def settings() -> dict[str, Any]:
    """What made a net what it is."""
    return {name: FLAGS[name].value for name in _SETTINGS}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    keras.config.set_dtype_policy(FLAGS.precision)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    train, validation, test = load_data()
    start = time.perf_counter()
    model = trained(FLAGS.width, FLAGS.subnetworks, train, validation, out)
    seconds = time.perf_counter() - start
    report = kd.export_tflite(
        model,
        out / "model.tflite",
        options=kd.AnytimeOptions(subnetworks=range(1, FLAGS.subnetworks + 1)),
        parity_data=test.x[:100],
    )
    print(report)
    curve = model.evaluate_anytime(tuple(test), file=report.path)
    print(curve)
    kd.visualization.anytime_curves({"": curve}).savefig(out / "anytime.png", dpi=150)
    results = {
        "settings": settings(),
        **describe_machine(),
        "training_images": len(train.x),
        "training_s": seconds,
        "points": [dataclasses.asdict(point) for point in curve],
        "timed": curve.timed,
        "test_images": curve.samples,
        "bytes": report.bytes,
    }
    write_whole(out / "results.json", json.dumps(results, indent=1).encode())


_SETTINGS = (
    *("model", "blocks", "width", "subnetworks", "heads", "epochs", "batch"),
    *("learning_rate", "precision", "seed"),
)

if __name__ == "__main__":
    app.run(main)
