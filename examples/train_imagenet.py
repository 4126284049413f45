"""
Title: Train gated nets on ImageNet or on a folder of your own
Description: Plain or gated ResNets on folders of pictures, from data to .tflite.

    python examples/train_imagenet.py --data_dir data/imagenet --model resnet34
    python examples/train_imagenet.py --source tfds --data_dir ~/tensorflow_datasets

`--source folder` reads `train/<class>/` and `val/<class>/`, Tiny ImageNet's layout, or one
folder per class; `--source tfds` reads imagenet2012 that tensorflow-datasets has
prepared. Gates start on a trained net with `--weights resnet34.npz` (torchvision's names
and layouts). `--skip_unreadable` goes on past broken pictures and counts them.

Without arguments it looks for pictures in data/imagenet; `--image_size 64 --stem cifar
--model resnet18 --epochs 2 --train_samples 2000` is small enough for two CPU cores.
A run that was cut off goes on; see training.py.
"""

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import judging
import keras
import training
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate.datasets import Data

FLAGS = flags.FLAGS
flags.DEFINE_enum("source", "folder", ["folder", "tfds"], "Where pictures come from.")
flags.DEFINE_enum("method", "bas", ["plain", "bas"], "Whether with gates.")
flags.DEFINE_enum(
    "model",
    "resnet34",
    [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)],
    "The net.",
)
flags.DEFINE_enum("stem", "imagenet", ["imagenet", "cifar"], "cifar: small pictures.")
flags.DEFINE_float("width", 1.0, "Multiplies the channels of every stage.")
flags.DEFINE_integer("image_size", 224, "Side of the pictures.", 8)
flags.DEFINE_bool("skip_unreadable", False, "Replace broken pictures and count them.")
training.define_flags(epochs=30, batch_size=64, learning_rate=0.025, weight_decay=1e-4)
training.define_gate_flags()


def load_data() -> Data:
    """The pictures asked for."""
    if FLAGS.source == "tfds":
        found = kd.datasets.imagenet2012(FLAGS.data_dir, image_size=FLAGS.image_size)
    else:
        found = kd.datasets.image_folder(
            FLAGS.data_dir or "data/imagenet",
            image_size=FLAGS.image_size,
            skip_unreadable=FLAGS.skip_unreadable,
        )
    return judging.limited(found)


def train(run: training.Run, data: Data) -> tuple[keras.Model, float]:
    """Build, compile and fit; the model, and the seconds this session took."""
    steps = data.train.steps(FLAGS.batch_size) * FLAGS.epochs
    gated = FLAGS.method == "bas"
    with run.scope():
        model = getattr(kd, f"gated_{FLAGS.model}" if gated else FLAGS.model)(
            stem=FLAGS.stem,
            input_shape=data.image_shape,
            classes=len(data.classes),
            width=FLAGS.width,
            weights=FLAGS.weights,
            **({"gates": training.gates()} if gated else {}),
        )
        if gated:
            training.prime(run, model, data, 1024)
        model.compile(
            run.optimizer(model, steps),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            **training.compiling(),
        )
    callbacks: list[Any] = []
    if gated:
        callbacks = training.gate_callbacks(data, model, 64, 256)
    return model, run.train(model, data, callbacks)


def judge(run: training.Run, model: keras.Model, data: Data) -> dict[str, Any]:
    """The test pictures, once; files too, if they can be made here."""
    files = judging.export_files(model, run.folder, data, samples=32)
    return {"files": files, **judging.look(model, data, files, batch_size=32)}


def main(argv: list[str]) -> None:
    title = f"{FLAGS.source}_{FLAGS.method}_{FLAGS.model}"
    training.drive(argv, title, load_data, train, judge)


if __name__ == "__main__":
    app.run(main)
