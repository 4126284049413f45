"""
Title: Gate your own net
Description: Channel gates, layer gates and early exits on any trained Keras classifier.

    python examples/gate_your_own_net.py --net net.keras --photos FOLDER

FOLDER has a folder of photos per class, or train, val and test with those in them. The
script lists what can be gated in the net, and why the rest cannot; adds gates, teaches
them for a few epochs to spend `--share` of the MACs, the untouched net being the teacher;
puts exits behind them with `--exits`; writes one .tflite file; and prints accuracy and
LiteRT time beside those of the untouched net, once, on the test photos. The net must take
photos as they are, 0 to 255.

Without arguments it trains a small net of inverted residuals on scikit-learn's handwritten
digits first, and takes some minutes: `pip install "keras_dyngate[examples]"` is all that it
needs. A run that was cut off goes on from its last epoch.
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
from photo_folder import main_of, task

import keras_dyngate as kd
from keras_dyngate.runtime import compare_latency, describe_machine

FLAGS = flags.FLAGS
flags.DEFINE_string("net", None, "A trained .keras classifier of photos, 0 to 255.")
flags.DEFINE_string("photos", None, "Folder of photos, one folder per class.")
flags.DEFINE_enum(
    "gates", "channels", ["channels", "pairs", "layers", "both"], "What is gated."
)
flags.DEFINE_integer("groups", 2, "Decisions per chain of channels.", 1)
flags.DEFINE_float(
    "least", 0.02, "Gate what has this share of the MACs, or more.", 0, 1
)
flags.DEFINE_float("share", 0.6, "Share of the MACs to spend.", 0, 1)
flags.DEFINE_integer("epochs", 20, "Of the teaching of the gates.", 1)
flags.DEFINE_float(
    "learning_rate", None, "At the start; default 1e-3, of the small net 2e-3."
)
flags.DEFINE_list("exits", [], "Layers after which early exits go; default: none.")
flags.DEFINE_enum(
    "quantization", "float32", ["float32", "dynamic", "int8"], "Of the files."
)
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_string("out", "outputs/gate_your_own_net", "Folder for what is made.")


def small_net(train: Any, classes: int, width: int = 1) -> keras.Model:
    """Inverted residuals, trained here; `width` times as many channels."""
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    x = layers.Conv2D(16 * width, 3, strides=2, padding="same", use_bias=False)(x)
    for number, (filters, strides) in enumerate(
        ((16, 1), (24, 2), (24, 1), (24, 1), (48, 2), (48, 1), (48, 1)), 1
    ):
        y = layers.Conv2D(4 * x.shape[-1], 1, use_bias=False, name=f"wide{number}")(x)
        y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(y))
        y = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(y))
        y = layers.Conv2D(filters * width, 1, use_bias=False, name=f"narrow{number}")(y)
        y = layers.BatchNormalization(momentum=0.9)(y)
        x = layers.Add(name=f"sum{number}")([x, y]) if x.shape == y.shape else y
    x = layers.GlobalAveragePooling2D()(x)
    top = layers.Dense(classes, "softmax", name="top")
    model = keras.Model(image, top(x), name="small_net")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, batch_size=32, epochs=12, verbose=2)
    return model


def gated(net: keras.Model) -> keras.Model:
    """The net with the gates asked for, each with a price that the budget sets."""
    options = {
        "where": FLAGS.least,
        "regularizers": [kd.GateSparsity(0.0, weighting="macs")],
    }
    model = net
    if FLAGS.gates != "layers":
        pairs = FLAGS.gates == "pairs"
        model = kd.add_channel_gates(model, groups=FLAGS.groups, pairs=pairs, **options)
    if FLAGS.gates in ("layers", "both"):
        model = kd.add_layer_gates(model, **options)
    return model


def file_of(model: keras.Model, path: Path, images: np.ndarray) -> kd.LiteRTModel:
    """The model as a file, in the quantization asked for."""
    report = kd.export_tflite(
        model, path, quantization=FLAGS.quantization, representative_data=images
    )
    print(report)
    return kd.LiteRTModel(path)


def judged(file: kd.LiteRTModel, test: Any) -> dict[str, float]:
    """Accuracy and MACs of a file on all test pictures."""
    found = file.evaluate(*test)
    macs = float(found["mean_executed_macs"])
    return {"accuracy": float(found["accuracy"]), "macs": macs}


def gate() -> None:
    keras.utils.set_random_seed(FLAGS.seed)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    net, _, train, validation, test = task(
        FLAGS.net, FLAGS.photos, small_net, FLAGS.seed, out / "plain.keras"
    )
    print(*kd.gateable(net), sep="\n")
    model = gated(net)
    kd.summary(model)
    kd.train_gates(
        model,
        *train,
        FLAGS.share,
        epochs=FLAGS.epochs,
        learning_rate=FLAGS.learning_rate or (2e-3 if FLAGS.net is None else 1e-3),
        teacher=net,
        validation_data=validation,
        checkpoint=out / "gates.npz",
        seed=FLAGS.seed,
    )
    if FLAGS.exits:
        model = kd.add_decision_gates(model, after=FLAGS.exits, head="separable")
        model.fit_gates(*train, validation_data=validation, seed=FLAGS.seed)
        print(model.calibrate(*validation, accuracy_drop=0.01))
    model.save(out / "gated.keras")

    # Every picture once for accuracy and MACs; for time some, interleaved.
    files = {
        "untouched": file_of(net, out / "plain.tflite", train[0]),
        "gated": file_of(model, out / "gated.tflite", train[0]),
    }
    rows = {name: judged(file, test) for name, file in files.items()}
    few = [{"image": image} for image in test[0][:32].astype("float32")]
    times = compare_latency(
        {name: (file, "classify", few) for name, file in files.items()},
        rounds=10 * len(few),
    )
    passes = {name: taken.reshape(10, -1).sum(-1) for name, taken in times.items()}
    for name, row in rows.items():
        row["ms"] = float(np.mean(times[name]))
    ratio = float(np.median(passes["gated"] / passes["untouched"]))
    print(f"On the {len(test[1])} test pictures ({FLAGS.quantization}):")
    for name, row in rows.items():
        print(
            f"{name:>10}: accuracy {row['accuracy']:.1%}, "
            f"{row['macs'] / 1e6:.2f} MMACs and {row['ms']:.3f} ms a picture"
        )
    share = rows["gated"]["macs"] / rows["untouched"]["macs"]
    print(
        f"gated / untouched: {share:.2f} of the MACs, {ratio:.2f} of the time "
        f"(median of 10 passes, one thread, {describe_machine()['cpu']})"
    )
    found = {"rows": rows, "macs_ratio": share, "time_ratio": ratio}
    found |= {"settings": {n: FLAGS[n].value for n in ("gates", "share", "seed")}}
    (out / "result.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main_of(gate))
