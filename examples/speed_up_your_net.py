"""
Title: Speed up your net
Description: Early exits on any trained Keras classifier, from a folder of photos.

    python examples/speed_up_your_net.py --net net.keras --photos FOLDER

FOLDER has a folder of photos per class, or train, val and test with those in them. The
script teaches exits and a first net, chooses thresholds on the validation photos, writes
one .tflite file, says what it saves and whether a static net would do as well, and judges
the answer once on the test photos. The net must take photos as they are, 0 to 255.

Without arguments it trains a small net on scikit-learn's handwritten digits first, and
takes some minutes: `pip install "keras_dyngate[examples]"` is all that it needs.
`--first_weights` is "imagenet", which Keras loads, or a file of MobileNetV2 .35 without
top.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from photo_folder import main_of, task

import keras_dyngate as kd
from keras_dyngate.runtime import describe_machine
from keras_dyngate.visualization import exit_curves

FLAGS = flags.FLAGS
flags.DEFINE_string("net", None, "A trained .keras classifier of photos, 0 to 255.")
flags.DEFINE_string("photos", None, "Folder of photos, one folder per class.")
flags.DEFINE_float("max_accuracy_drop", 0.0, "Accuracy that may be lost, 0 to 1.")
flags.DEFINE_float("confidence", None, "At which that holds on other photos, like .9.")
flags.DEFINE_enum(
    "quantization", "float32", ["float32", "dynamic", "int8"], "Of the file."
)
flags.DEFINE_list("after", None, "Places of the exits. Default: chosen by time.")
flags.DEFINE_string("first_weights", "imagenet", "Of the first net.")
flags.DEFINE_bool("first", True, "Whether a first net is tried.")
flags.DEFINE_bool("joint", False, "Whether all weights then learn together.")
flags.DEFINE_integer("epochs", 12, "Of the teaching.")
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_string("out", "outputs/speed_up_your_net", "Folder for what is made.")


def small_net(train: Any, classes: int) -> keras.Model:
    """A plain convolutional net, trained here."""
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(image)
    for index, filters in enumerate((24, 48, 96, 192)):
        for number in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.ReLU(name=f"block{index + 1}_relu{number + 1}")(x)
        if index < 3:
            x = layers.MaxPooling2D(name=f"block{index + 1}_pool")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(classes)(x), name="small_net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(*train, batch_size=32, epochs=4, verbose=2)
    return model


def speed_up() -> None:
    keras.utils.set_random_seed(FLAGS.seed)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    net, classes, train, validation, test = task(
        FLAGS.net, FLAGS.photos, small_net, FLAGS.seed
    )
    result = kd.add_exits(
        net,
        train,
        validation,
        accuracy_drop=FLAGS.max_accuracy_drop,
        confidence=FLAGS.confidence,
        quantization=FLAGS.quantization,
        exits="auto" if FLAGS.after is None else FLAGS.after,
        first="auto" if FLAGS.first else None,
        first_weights=FLAGS.first_weights,
        joint=FLAGS.joint,
        epochs=FLAGS.epochs,
        path=out / "net.tflite",
        labels=classes,
        checkpoint=out / "taught",
        seed=FLAGS.seed,
    )
    if result.placement is not None:
        print(result.placement)
    print(result)
    result.model.save(out / "net.keras")
    exit_curves({"exits": result.curve}, in_time=True).savefig(
        out / "curve.png", dpi=120
    )
    found = kd.LiteRTModel(result.path).evaluate(*test)
    print(
        f"On the {found['samples']} test pictures: accuracy {found['accuracy']:.1%}, "
        f"{found['mean_ms']:.2f} ms and "
        f"{found['mean_executed_macs'] / 1e6:.2f} MMACs a picture; the plain net "
        f"{np.mean(net.predict(test[0], verbose=0).argmax(-1) == test[1]):.1%}, "
        f"{result.plain.macs / 1e6:.2f} MMACs. {result.seconds / 60:.1f} minutes, "
        f"{describe_machine()['cpu']}"
    )


if __name__ == "__main__":
    app.run(main_of(speed_up))
