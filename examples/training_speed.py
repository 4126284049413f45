"""
Title: What gates cost in training
Description: Times training steps of a gated net beside its plain twin, interleaved.

    python examples/training_speed.py --model gated_resnet20 --batch 128

Random images, no input pipeline: only the step is timed. Set KERAS_BACKEND to choose the
backend.
"""

import os
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "gated_resnet20", "Constructor of the gated net.")
flags.DEFINE_integer("batch", 128, "Images per step.")
flags.DEFINE_integer("steps", 5, "Steps per timing.")
flags.DEFINE_integer("rounds", 9, "Timings per net.")
flags.DEFINE_integer("gate_group_size", 1, "Channels per decision.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    keras.utils.set_random_seed(0)
    gated = getattr(kd, FLAGS.model)(
        gate_group_size=FLAGS.gate_group_size,
        gate_regularizers=["batch_shaping", "gate_sparsity"],
    )
    plain = getattr(kd, FLAGS.model.removeprefix("gated_"))()
    rng = np.random.default_rng(0)
    count = FLAGS.batch * FLAGS.steps
    x = rng.integers(0, 256, (count, *plain.input_shape[1:])).astype("float32")
    y = rng.integers(0, 10, count)
    times: dict[str, list[float]] = {}
    for model in (plain, gated):
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy"
        )
        model.fit(x, y, batch_size=FLAGS.batch, verbose=0)
    for _ in range(FLAGS.rounds):
        for model in (plain, gated):
            start = time.perf_counter()
            model.fit(x, y, batch_size=FLAGS.batch, verbose=0)
            taken = (time.perf_counter() - start) / FLAGS.steps
            times.setdefault(model.name, []).append(1e3 * taken)
    for model in (plain, gated):
        macs = kd.count_macs(model)
        print(
            f"{model.name}: {np.median(times[model.name]):.1f} ms per step of "
            f"{FLAGS.batch}, {macs.total + macs.controllers:,} MACs per image forward"
        )
    ratio = np.median(np.divide(times[gated.name], times[plain.name]))
    print(f"gated / plain: {ratio:.3f} ({keras.backend.backend()})")


if __name__ == "__main__":
    app.run(main)
