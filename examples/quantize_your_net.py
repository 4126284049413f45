"""
Title: Which file to ship
Description: float32, float16, dynamic, int8, or int8 trained for: accuracy, bytes, time.

    python examples/quantize_your_net.py --net net.keras --photos FOLDER

FOLDER has a folder of photos per class, or train, val and test with those in them. The
script trains the net on twice, for equally long, the net as it was being the teacher: in
float32, and quantize-aware.
It writes a file of the former in each mode and one of the latter, and prints, once, what
each says of the test photos: accuracy, how often labels, decisions and exits are those of
the Keras model that it is made of, bytes, and time, interleaved. The net may be plain or
have gates and exits, such as `gated.keras` of gate_your_own_net.py; thresholds of exits are
chosen anew on the validation photos. It must take photos as they are, 0 to 255.

`--cifar FILE` judges a net of 32x32 pixels on an .npz of CIFAR-10 instead.

Without arguments it trains a small net of inverted residuals on scikit-learn's handwritten
digits first, and takes some minutes:
`pip install "keras_dyngate[examples,quantization]"` is all that it needs. A run that was
cut off goes on.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from gate_your_own_net import small_net
from photo_folder import Task, main_of, task

import keras_dyngate as kd
from keras_dyngate.runtime import compare_latency, describe_machine

FLAGS = flags.FLAGS  # gate_your_own_net.py has defined net, photos, epochs, seed, ...
flags.DEFINE_string("cifar", None, "An .npz of CIFAR-10: see kd.datasets.cifar10.")
flags.DEFINE_float("rate", 1e-4, "Learning rate at the start of a cosine.")
flags.DEFINE_bool("teacher", True, "Whether the net as it was teaches.")
flags.DEFINE_integer("watched", 256, "Training photos that ranges begin with.", 1)
FLAGS.set_default("epochs", 3)
FLAGS.set_default("out", "outputs/quantize_your_net")
for name in ("net", "photos", "epochs", "seed", "out"):
    flags.declare_key_flag(name)

MODES = ("float32", "float16", "dynamic", "int8")
TRAINED = "int8, trained for"
PASSES = 10


def pictures() -> Task:
    """The net, and the pictures and labels of its three parts."""
    if FLAGS.cifar is None:
        return task(FLAGS.net, FLAGS.photos, small_net, FLAGS.seed, _out("plain.keras"))
    data = kd.datasets.cifar10(FLAGS.cifar)
    parts = [part.uint8_arrays() for part in (data.train, data.validation, data.test)]
    net = keras.models.load_model(FLAGS.net, compile=False)
    return Task(net, data.classes, *parts)


def _out(name: str) -> Path:
    return Path(FLAGS.out) / name


def trained_on(
    model: keras.Model, name: str, given: Task, teacher: keras.Model | None
) -> keras.Model:
    """A net trained on, or read if it has been; exits are taught by their own trunk."""
    path = _out(f"{name}.keras")
    if path.exists():
        return keras.models.load_model(path, compile=False)
    print(f"{name}:")
    options: dict[str, Any] = {"checkpoint": _out(f"{name}.npz"), "seed": FLAGS.seed}
    if FLAGS.cifar is not None:  # as CIFAR is taught: four pixels aside, and mirrored
        moved = keras.layers.RandomTranslation(4 / 32, 4 / 32, fill_mode="constant")
        mirrored = keras.layers.RandomFlip("horizontal")
        options["augmentation"] = keras.Sequential([moved, mirrored])
    exits = isinstance(model, kd.EarlyExitModel)
    if exits and all(isinstance(gate, kd.DecisionGate) for gate in model.gates):
        model.fit_gates(*given.train, seed=FLAGS.seed)  # linear, on the trunk as it is
    elif exits:
        model.fit_gates(
            *given.train,
            validation_data=given.validation,
            epochs=FLAGS.epochs,
            joint_epochs=FLAGS.epochs,
            learning_rate=20 * FLAGS.rate,  # the trunk's is a twentieth
            **options,
        )
    else:
        kd.fine_tune(
            model,
            *given.train,
            epochs=FLAGS.epochs,
            learning_rate=FLAGS.rate,
            teacher=teacher,
            validation_data=given.validation,
            **options,
        )
    if exits:
        print(model.calibrate(*given.validation, accuracy_drop=0.0))
    model.save(path)
    return model


def quantize() -> None:
    keras.utils.set_random_seed(FLAGS.seed)
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)
    given = pictures()
    images, labels = given.test
    some = given.train[0]
    samples = {"calibration_samples": FLAGS.watched}
    aware = kd.quantize_aware(given.net, some, **samples)
    before = kd.strip_quantization(aware) if FLAGS.teacher else None  # a copy
    plain = trained_on(given.net, "float", given, before)
    aware = trained_on(aware, "quantize_aware", given, before)
    reports = {}
    for mode in (*MODES, TRAINED):
        mine = aware if mode == TRAINED else plain
        reports[mode] = kd.export_tflite(
            mine,
            _out(f"{mode.replace(', ', '_').replace(' ', '_')}.tflite"),
            quantization="int8" if mode == TRAINED else mode,
            representative_data=None if mode == TRAINED else some,
            **samples,
            parity_data=images,
            labels=given.classes,
        )
    files = {mode: kd.LiteRTModel(report.path) for mode, report in reports.items()}
    rows = {mode: row(files[mode], reports[mode], images, labels) for mode in files}
    spread = images[:: max(1, len(images) // 32)][:32].astype("float32")
    few = [{"image": image} for image in spread]
    times = compare_latency(
        {mode: (file, "classify", few) for mode, file in files.items()},
        rounds=PASSES * len(few),
    )
    for mode, found in rows.items():
        taken = times[mode].reshape(PASSES, -1).mean(-1)
        found["ms"] = float(np.median(taken))
    show(rows, len(labels))
    _out("result.json").write_text(json.dumps(rows, indent=1))


def row(file: kd.LiteRTModel, report: Any, images: Any, labels: Any) -> dict[str, Any]:
    """What a file says of the test pictures, and how much of it Keras says too."""
    found, parity = file.evaluate(images, labels), report.parity
    return {
        "accuracy": float(found["accuracy"]),
        "mmacs": float(found["mean_executed_macs"]) / 1e6,
        "labels": parity.argmax_agreement,
        "decisions": parity.decision_agreement,
        "exits": parity.exit_agreement,
        "bytes": report.bytes,
    }


def show(rows: dict[str, dict[str, Any]], count: int) -> None:
    """The table."""
    print(f"\nOn the {count} test pictures; one thread, {describe_machine()['cpu']}:")
    heads = "accuracy", "labels", "decisions", "exits", "MMACs", "ms", "kB"
    print(f"{'':18}" + "".join(f"{head:>10}" for head in heads))
    for mode, found in rows.items():
        shares = [found[key] for key in ("accuracy", "labels", "decisions", "exits")]
        shown = ["-" if share is None else f"{share:.2%}" for share in shares]
        shown += [f"{found['mmacs']:.2f}", f"{found['ms']:.3f}"]
        shown += [f"{found['bytes'] / 1000:.0f}"]
        print(f"{mode:18}" + "".join(f"{word:>10}" for word in shown))


if __name__ == "__main__":
    app.run(main_of(quantize, "cifar"))
