"""
Title: Where the time of teaching goes
Description: Parts of a taught training step of a mobile net, interleaved.

    python examples/recipe_speed.py --model efficientnet_lite0 --image_size 160
    python examples/recipe_speed.py --precision mixed_bfloat16

A step of `train_gates`, `fine_tune` and `fit_gates` varies a batch of photos, asks the
teacher, and trains the student. Each is timed alone, on random images, and steps of
students that keep something at rest: their normalizations, or the first half of their
layers. The teacher is a net of the same kind. Set KERAS_BACKEND to choose the backend.
"""

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate.models.exits.variation import NAMED

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "efficientnet_lite0", "Constructor of the net.")
flags.DEFINE_integer("image_size", 160, "Side of the images.", 1)
flags.DEFINE_integer("classes", 81, "Of the net.", 2)
flags.DEFINE_integer("batch", 32, "Images per step.", 1)
flags.DEFINE_integer("rounds", 9, "Timings of each.", 1)
flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16"], "Keras' dtype policy."
)


def net() -> keras.Model:
    side = FLAGS.image_size
    return getattr(kd, FLAGS.model)(input_shape=(side, side, 3), classes=FLAGS.classes)


def student(rest: Callable[[list[Any]], list[Any]], taught: bool = True) -> Any:
    """A compiled net; `rest` says which of its layers do not learn."""
    model = net()
    for layer in rest(list(model._flatten_layers(include_self=False, recursive=True))):
        layer.trainable = False
    fitted = kd.Distillation(model, net()) if taught else model
    fitted.compile(
        keras.optimizers.AdamW(1e-3),
        "sparse_categorical_crossentropy",
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    return fitted


def normalizations(layers: list[Any]) -> list[Any]:
    return [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]


def first_half(layers: list[Any]) -> list[Any]:
    return layers[: len(layers) // 2]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(FLAGS.precision)
    rng, side = np.random.default_rng(0), FLAGS.image_size
    x = rng.uniform(0, 255, (FLAGS.batch, side, side, 3)).astype("float32")
    y = rng.integers(0, FLAGS.classes, FLAGS.batch)
    teacher = net()
    students = {
        "step, labels alone": student(lambda layers: [], taught=False),
        "step, taught": student(lambda layers: []),
        "step, taught, normalizations at rest": student(normalizations),
        "step, taught, first half at rest": student(first_half),
    }
    parts: dict[str, Callable[[], Any]] = {
        **{f'variation, "{n}"': lambda v=v: v(x, rng) for n, v in NAMED.items()},
        "teacher": lambda: teacher.predict_on_batch(x),
        **{n: lambda m=m: m.train_on_batch(x, y) for n, m in students.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(-2, FLAGS.rounds):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    print(
        f"{FLAGS.model}, {side} pixels, batch {FLAGS.batch}, {FLAGS.precision}, ",
        end="",
    )
    print(f"{keras.backend.backend()}\n| part | ms a batch | images/s |\n|---|---|---|")
    for name, taken in times.items():
        ms = float(np.median(taken))
        print(f"| {name} | {ms:.1f} | {1e3 * FLAGS.batch / ms:.1f} |")


if __name__ == "__main__":
    app.run(main)
