"""
Title: Put gates on a trained net
Description: A trained plain ResNet gets gates, a short fine-tuning, and an exported file.

    python examples/gate_pretrained.py --weights resnet20.npz --data cifar10.npz

`--weights` is an .npz with PyTorch names and layouts (or a .keras file); for `--data` see
cifar_npz.py. The test images are used once, at the end.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar_npz
import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "Weights of the plain net.", required=True)
flags.DEFINE_string("data", None, ".npz with the images and labels.", required=True)
flags.DEFINE_integer("depth", 20, "Of the net: 20, 32, 44, 56 or 110.")
flags.DEFINE_integer("gate_group_size", 8, "Channels per decision.")
flags.DEFINE_float("gate_bias", 2.0, "First logit of every gate; 2 is 88 % open.")
flags.DEFINE_float("sparsity", 0.003, "Price of an open gate, once fully applied.")
flags.DEFINE_integer("epochs", 10, "Of fine-tuning.")
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_string("out", "gate_pretrained_out", "Folder for files and figures.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    keras.utils.set_random_seed(FLAGS.seed)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    (x, y), validation, (x_test, y_test) = cifar_npz.load(FLAGS.data)

    # The gated net starts as the plain one: same trunk, new gates, mostly open.
    regularizers = [
        kd.BatchShaping(coefficient=kd.LinearSchedule(0.75, 0.0, end=0.2)),
        kd.GateSparsity(kd.LinearSchedule(0.0, FLAGS.sparsity, 0.2, 0.6)),
    ]
    model = getattr(kd, f"gated_resnet{FLAGS.depth}")(
        weights=FLAGS.weights,
        gates=kd.Gates(
            lambda units: kd.BinaryGate(units, bias_initializer=FLAGS.gate_bias),
            group_size=FLAGS.gate_group_size,
            channel_regularizers=regularizers,
        ),
    )
    plain = getattr(kd, f"resnet{FLAGS.depth}")(weights=FLAGS.weights)

    steps = FLAGS.epochs * -(-len(x) // 128)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.01, steps),
            momentum=0.9,
            nesterov=True,
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        cifar_npz.augmented(cifar_npz.Split(x, y), FLAGS.seed),
        epochs=FLAGS.epochs,
        validation_data=tuple(validation),
        callbacks=[kd.RegularizationSchedule()],
        verbose=2,
    )
    model.save(out / "gated.keras")

    # One file per quantization, each compared with Keras on all test images.
    profile = kd.count_macs(model)
    decisions = kd.decide(model, x_test)
    figures = {
        "command": "python examples/gate_pretrained.py",
        "settings": {
            name: FLAGS[name].value
            for name in (
                "depth",
                "gate_group_size",
                "gate_bias",
                "sparsity",
                "epochs",
                "seed",
            )
        },
        "plain_accuracy": _accuracy(plain, x_test, y_test),
        "gated_accuracy": _accuracy(model, x_test, y_test),
        "plain_macs": profile.total,
        "gated_macs": float(profile.of(decisions).mean()),
        "files": {},
    }
    print(
        f"accuracy {figures['plain_accuracy']:.4f} -> {figures['gated_accuracy']:.4f}"
    )
    for quantization in (None, "dynamic", "int8"):
        report = kd.export_tflite(
            model,
            out / f"{quantization or 'float32'}.tflite",
            quantization=quantization,
            representative_data=x,
            parity_data=x_test,
        )
        print(report)
        figures["files"][quantization or "float32"] = {
            "bytes": report.bytes,
            "latency_ms": report.latency_ms,
            "max_difference": report.parity.max_difference,
            "argmax_agreement": report.parity.argmax_agreement,
            "decision_agreement": report.parity.decision_agreement,
        }
    write_whole(out / "figures.json", json.dumps(figures, indent=1).encode())


def _accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.predict(x, verbose=0).argmax(-1) == y).mean())


if __name__ == "__main__":
    app.run(main)
