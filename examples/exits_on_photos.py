"""
Title: Exits on real photos, taught
Description: Heads, joint training, first nets and static rivals on a folder of photos.

    python examples/exits_on_photos.py --net net.keras --photos FOLDER \\
        --first_weights mobilenet_v2_0.35.weights.h5 --arm joint --seed 0

FOLDER has train, val and test, each with a folder per class. An arm is one way of making
exits; each writes what every exit says of the photos of val and test, `scores.npz`, and
the net, to `--out`/seed/arm, and goes on where it was cut off. `judge_exits.py` reads
them: thresholds from one half of val and test, results from the other, and times of
files.

linear, conv, separable     heads on the frozen net: "_untaught" by the labels alone
joint                       separable heads, then all together, then the first net;
                            the photos of val watch over the net's own head
beside                      whole nets alone, at once, taught by the joint net:
                            MobileNetV2 .35 at 96 and 160 pixels (`first_96`, `first_160`)
                            and, with `--mobile_weights`, of full width (`mobile_96`);
                            the net itself at 128 and 112 (`plain_128`, `plain_112`);
                            with any ending, for others that `--beside` names

Endings: "strong" (joint_strong, beside_strong) varies the photos more; with "further"
(beside_further) the net itself begins as the joint arm taught it. separable begins where
joint has its heads taught, if that was run before.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from photo_folder import photos
from photo_scores import begun, define_flags, main_of, write_scores

import keras_dyngate as kd
from keras_dyngate.models.exits.cascading import at_input
from keras_dyngate.models.exits.first_nets import first_net, small_net
from keras_dyngate.models.exits.fitting import exit_scores

FLAGS = flags.FLAGS
define_flags("joint")
flags.DEFINE_string("first_weights", "imagenet", "Of MobileNetV2 .35, no top.")
flags.DEFINE_string("mobile_weights", None, "Of MobileNetV2 1.0, 1,001 classes.")
flags.DEFINE_integer("first_size", 128, "Pixels of the joint arm's first net.")
flags.DEFINE_list(
    "beside", ["first_96", "first_160", "plain_128", "plain_112"], "Of that arm."
)
flags.DEFINE_integer("epochs", 20, "Of heads and first nets.")
flags.DEFINE_integer("joint_epochs", 12, "Of all together.")


def smaller(size: int, net: keras.Model) -> keras.Model:
    """The same net on pictures of another size, with weights of its own."""
    config = json.loads(json.dumps(net.get_config()))
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            shape = layer["config"]["batch_shape"]
            layer["config"]["batch_shape"] = [shape[0], size, size, shape[-1]]
    found = type(net).from_config(config)
    found.set_weights(net.get_weights())
    return found


def small(size: int, net: keras.Model) -> keras.Model:
    """MobileNetV2 .35 over the net's classes."""
    return small_net(size, net.output_shape[-1], weights=FLAGS.first_weights or None)


def mobile(size: int, net: keras.Model) -> keras.Model:
    """MobileNetV2 of full width; its normalizations stay as they are."""
    base = keras.applications.MobileNetV2(
        input_shape=(size, size, 3), classes=1001, weights=None
    )
    base.load_weights(FLAGS.mobile_weights)
    base = keras.Model(base.input, base.layers[-2].output, name="mobilenetv2")
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    image = keras.Input((size, size, 3))
    x = base(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(net.output_shape[-1])(x)
    return keras.Model(image, x, name=f"mobile_{size}")


def build(arm: str, net: keras.Model, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The net with the exits of an arm, and how they are taught."""
    options: dict[str, Any] = {"epochs": FLAGS.epochs, "seed": FLAGS.seed}
    kind, *endings = arm.split("_")
    if "strong" in endings:
        options["augmentation"] = "strong"
    if kind in ("linear", "conv", "separable"):
        model = kd.add_decision_gates(net, FLAGS.after, head=kind)
        if kind == "linear":
            options = {"weight_decay": 1e-3}
        elif "untaught" in endings:
            options["teacher"] = None
        return model, options
    if kind == "joint":
        first = small(FLAGS.first_size, net)
        model = kd.add_decision_gates(net, FLAGS.after, head="separable", first=first)
        return model, {**options, "joint_epochs": FLAGS.joint_epochs}
    taught = keras.models.load_model(folder.parent / "joint" / "net.keras").trunk
    gates, classes = [], net.output_shape[-1]
    start = taught if "further" in endings else net
    for name in FLAGS.beside:
        kind, size = name.split("_")
        make = {"first": small, "mobile": mobile, "plain": smaller}[kind]
        body = first_net(net.input_shape, classes, make(int(size), start))
        gates.append(kd.ExitHead(classes, body, name=name))
    trunk, (_, *after) = at_input(taught, len(gates) + 1)
    # Learning rate and weight decay are those of a first net.
    options |= {"learning_rate": 1e-3, "weight_decay": 1e-4}
    return kd.EarlyExitModel(trunk, after, gates), options


def run(arm: str) -> None:
    folder = begun(arm)
    if folder is None:
        return
    net = keras.models.load_model(FLAGS.net, compile=False)
    size = net.input_shape[1]
    model, options = build(arm, net, folder)
    if arm != "linear":
        options["checkpoint"] = folder / "taught"
        heads = folder.parent / "joint" / "taught.exits.npz"
        mine = folder / heads.name
        if arm == "separable" and heads.exists() and not mine.exists():
            shutil.copy(heads, mine)
    if "joint_epochs" in options:  # the net's own head is watched on them
        options["validation_data"] = photos(FLAGS.photos, "val", size)
    fits = model.fit_gates(*photos(FLAGS.photos, "train", size), **options)
    print(arm, {name: f"{fit.accuracy:.3f}" for name, fit in fits.items()})
    about = {
        "places": [*model.after, None],
        "names": [*(gate.name for gate in model.gates), "head"],
        "first_size": FLAGS.first_size,
        "stage_macs": [
            0 if arm.startswith("beside") else profile.total
            for profile in model.stage_profiles
        ],
        "head_macs": [
            gate.kernel_macs(stage.part.output_shape)
            for gate, stage in zip(model.gates, model.stages, strict=False)
        ],
        "seconds": {name: fit.seconds for name, fit in fits.items()},
        "options": {
            name: value
            for name, value in options.items()
            if isinstance(value, (int, float, str, type(None)))
        },
    }

    def said(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        return {"scores": exit_scores(model, x, y, batch_size=64).scores}

    write_scores(folder, model, about, said)


if __name__ == "__main__":
    app.run(main_of(run))
