"""
Title: Train any of the four methods on CIFAR
Description: Plain, gated, LC-Net, early exits or sliced; from data to .tflite.

    python examples/train_cifar10.py --method bas --model resnet32

`--method` is one of

* plain: the net as it is;
* bas: channel gates with batch-shaping, their price driven to `--target_macs`;
* lcnet: layer and channel saliences, driven to `--target_macs`;
* dgate: the plain net, then two early exits on it, thresholds chosen on validation
  images for a loss of one point;
* slicing: `sliced_resnet`, four nested sub-networks (`--model` is not used).

Without arguments it trains gates on a ResNet-20 for some minutes, on 10,000 images that
`keras.datasets` downloads. `--data_dir` takes an .npz instead (see
`keras_dyngate.datasets.cifar10`), `--dataset digits` needs no download at all.
A run that was cut off goes on; see training.py. Everything is in the run folder.
"""

import os
import sys
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
flags.DEFINE_enum(
    "dataset", "cifar10", ["cifar10", "cifar100", "digits"], "What to train on."
)
flags.DEFINE_enum(
    "method", "bas", ["plain", "bas", "lcnet", "dgate", "slicing"], "What to train."
)
flags.DEFINE_string("model", "resnet20", "resnet20, 32, 44, 56 or 110.")
flags.DEFINE_float("width", 1.0, "Multiplies the channels of every stage.")
flags.DEFINE_string("teacher", None, "A .keras net to learn from besides the labels.")
flags.DEFINE_float("teacher_share", 0.5, "Of the teacher in the loss.")
flags.DEFINE_bool("pack", False, "Reorder per-channel --weights for groups first.")
training.define_flags(epochs=4, batch_size=128, learning_rate=0.1, weight_decay=5e-4)
training.define_gate_flags()


def load_data() -> Data:
    """The dataset asked for, cut to the numbers of images asked for."""
    if FLAGS.dataset == "digits":
        return judging.limited(kd.datasets.digits(FLAGS.seed))
    if len(sys.argv) == 1:
        FLAGS.train_samples = 10_000
    load = {"cifar10": kd.datasets.cifar10, "cifar100": kd.datasets.cifar100}
    return judging.limited(load[FLAGS.dataset](FLAGS.data_dir))


# ## The nets


def build(data: Data) -> keras.Model:
    """The net that `--method` stands for; all of them take images from 0 to 255."""
    depth = FLAGS.model.removeprefix("resnet")
    if FLAGS.method == "slicing":
        return kd.sliced_resnet(
            blocks=1,
            width=int(32 * FLAGS.width),
            subnetworks=4,
            classes=len(data.classes),
        )
    arguments: dict[str, Any] = {
        "width": FLAGS.width,
        "classes": len(data.classes),
        "weights": None if FLAGS.pack else FLAGS.weights,
    }
    if FLAGS.method == "bas":
        model = _constructor(f"gated_resnet{depth}")(
            **arguments, gates=training.gates()
        )
        return kd.load_trunk_weights(model, packed(data)) if FLAGS.pack else model
    if FLAGS.method == "lcnet":
        price = kd.GateSparsity(0.0, weighting="macs", norm="l1")
        modes = {"both": "lc", "layers": "l", "channels": "c"}
        return _constructor(f"lc_resnet{depth}")(
            **arguments,
            mode=modes[training.gated(FLAGS.gate, FLAGS.method)],
            gates=kd.Gates(
                group_size=FLAGS.gate_group_size,
                channel_regularizers=price,
                layer_regularizers=price,
            ),
        )
    return _constructor(f"resnet{depth}")(**arguments)


def packed(data: Data) -> keras.Model:
    """The per-channel net of `--weights`, channels that open together in a row.

    A gate of a group then starts with the mean logit of channels that agree.
    """
    if FLAGS.weights is None:
        raise ValueError("`--pack` needs a per-channel net. Received: no --weights")
    source = keras.saving.load_model(FLAGS.weights, compile=False)
    images = data.train.arrays(4096)[0]
    model, report = kd.pack_channels(source, images, FLAGS.gate_group_size)
    print(report)
    return model


def _constructor(name: str) -> Any:
    if not hasattr(kd, name):
        raise ValueError(
            f"`--model` must be resnet20, 32, 44, 56 or 110. Received: {FLAGS.model}"
        )
    return getattr(kd, name)


# ## Training


def train(run: training.Run, data: Data) -> tuple[keras.Model, float]:
    """Build, compile and fit; the model, and the seconds this session took."""
    steps = data.train.steps(FLAGS.batch_size) * FLAGS.epochs
    callbacks: list[Any] = []
    with run.scope():
        model = build(data)
        fitted = model
        if FLAGS.method in ("bas", "lcnet"):
            callbacks = training.gate_callbacks(data, model, 128, 1000)
        if FLAGS.method == "bas":
            training.prime(run, model, data, 4096)
        if FLAGS.teacher:
            teacher = keras.models.load_model(FLAGS.teacher, compile=False)
            fitted = kd.Distillation(model, teacher, FLAGS.teacher_share)
        loss = None if FLAGS.method == "slicing" else "sparse_categorical_crossentropy"
        fitted.compile(
            run.optimizer(model, steps),
            **({} if loss is None else {"loss": loss}),
            metrics=["accuracy"],
            **training.compiling(),
        )
    seconds = run.train(fitted, data, callbacks)
    return model, seconds


def add_exits(model: keras.Model, data: Data) -> Any:
    """Two early exits, at about a fifth and a half of the MACs, on the frozen net."""
    points = kd.cut_points(model)
    total = kd.count_macs(model).total
    blocks = [point for point in points if "block" in point.layer]
    after = [
        min(blocks, key=lambda point: abs(point.macs / total - share)).layer
        for share in (0.2, 0.5)
    ]
    exits = kd.add_decision_gates(model, after=after, pooling="avg4x4")
    exits.fit_gates(*data.train.arrays(20_000))
    print(exits.calibrate(*data.validation.arrays(), accuracy_drop=0.01))
    return exits


def judge(run: training.Run, model: Any, data: Data) -> dict[str, Any]:
    """The test images, once; files too, if they can be made here."""
    if FLAGS.method == "dgate":
        model = add_exits(model, data)
        model.save(run.folder / "exits.keras")
    if FLAGS.method == "slicing":
        test = data.test.arrays()
        report = (
            kd.export_tflite(
                model, run.folder / "float32.tflite", parity_data=test[0][:100]
            )
            if judging.exports()
            else None
        )
        curve = model.evaluate_anytime(test, file=report.path if report else None)
        print(curve)
        figure = kd.visualization.anytime_curves({"": curve})
        figure.savefig(run.folder / "anytime.png", dpi=120)
        return {"points": [vars(point) for point in curve], "timed": curve.timed}
    files = judging.export_files(model, run.folder, data)
    if FLAGS.method == "dgate":
        x, y = data.test.arrays()
        found = model.predict(x, verbose=0)
        return {
            "files": files,
            "accuracy": float((found["label"] == y).mean()),
            "macs": float(found["macs"].mean()),
            "plain_macs": kd.count_macs(model.trunk).total,
            "exit_shares": [float((found["exit"] == i).mean()) for i in range(3)],
        }
    return {"files": files, **judging.look(model, data, files)}


def main(argv: list[str]) -> None:
    title = f"{FLAGS.dataset}_{FLAGS.method}_{FLAGS.model}"
    training.drive(argv, title, load_data, train, judge)


if __name__ == "__main__":
    app.run(main)
