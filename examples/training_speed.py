"""
Title: What dynamic nets cost in training
Description: Times training steps of a net beside a static one, interleaved.

    python examples/training_speed.py --model gated_resnet20 --batch 128
    python examples/training_speed.py --model inclusive_resnext --batch 32

A gated net is timed beside its plain twin, an anytime net, which trains all of its
sub-networks, beside its largest sub-network alone. Random images, from memory: only the
step is timed. Beside them the input pipeline (shuffled, shifted, mirrored) is timed on
its own. Set KERAS_BACKEND to choose the backend.
"""

import os
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate.datasets import Split
from keras_dyngate.datasets.augmentation import shift_and_mirror

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "gated_resnet20", "Constructor of the dynamic net.")
flags.DEFINE_integer("batch", 128, "Images per step.")
flags.DEFINE_integer("image_size", None, "Side of the images; default: the net's.")
flags.DEFINE_integer("steps", 5, "Steps per timing.")
flags.DEFINE_integer("rounds", 9, "Timings per net.")
flags.DEFINE_integer("gate_group_size", 1, "Channels per decision of a gated net.")
flags.DEFINE_integer("blocks", None, "Of an anytime net, per stage.")
flags.DEFINE_integer("width", None, "Of an anytime net, channels of the first stage.")
flags.DEFINE_integer("subnetworks", None, "Of an anytime net, K.")
flags.DEFINE_string("jit", "auto", 'Keras\' jit_compile: "auto", "true" or "false".')


def pair() -> tuple[keras.Model, keras.Model]:
    """The static net, and the dynamic one."""
    make = getattr(kd, FLAGS.model)
    if FLAGS.model.startswith("gated_"):
        side = FLAGS.image_size
        shape = {} if side is None else {"input_shape": (side, side, 3)}
        gated = make(
            gates=kd.Gates(
                group_size=FLAGS.gate_group_size,
                channel_regularizers=["batch_shaping", "gate_sparsity"],
            ),
            **shape,
        )
        return getattr(kd, FLAGS.model.removeprefix("gated_"))(**shape), gated
    options: dict[str, Any] = {
        name: FLAGS[name].value
        for name in ("blocks", "width", "subnetworks")
        if FLAGS[name].value is not None
    }
    anytime = make(**options)
    return make(**options).subnetwork(anytime.subnetworks), anytime


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    keras.utils.set_random_seed(0)
    nets = dict(zip(("static", "dynamic"), pair(), strict=True))
    rng = np.random.default_rng(0)
    count = FLAGS.batch * FLAGS.steps
    x = rng.integers(0, 256, (count, *nets["static"].input_shape[1:]), "uint8")
    y = rng.integers(0, 10, count)
    split = Split.of_arrays(x, y, shift_and_mirror())
    x = x.astype("float32")
    batches = iter(split.stream(FLAGS.batch))
    pipeline: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in nets}
    jit = {"auto": "auto", "true": True, "false": False}[FLAGS.jit]
    for model in nets.values():
        anytime = isinstance(model, kd.AnytimeModel)
        loss = kd.AnytimeLoss() if anytime else "sparse_categorical_crossentropy"
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        model.compile(optimizer, loss, jit_compile=jit)
        model.fit(x, y, batch_size=FLAGS.batch, verbose=0)
    for _ in range(FLAGS.rounds):
        for name, model in nets.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=FLAGS.batch, verbose=0)
            times[name].append(1e3 * (time.perf_counter() - start) / FLAGS.steps)
        start = time.perf_counter()
        for _ in range(4 * FLAGS.steps):
            next(batches)
        pipeline.append(1e3 * (time.perf_counter() - start) / (4 * FLAGS.steps))
    for name, model in nets.items():
        macs = kd.count_macs(model)
        print(
            f"{model.name}: {np.median(times[name]):.1f} ms per step of "
            f"{FLAGS.batch}, {1e3 * FLAGS.batch / np.median(times[name]):.0f} images/s, "
            f"{macs.total + macs.controllers:,} MACs per image forward"
        )
    ratio = np.median(np.divide(times["dynamic"], times["static"]))
    throughput = np.median(np.divide(times["static"], pipeline))
    print(f"dynamic / static: {ratio:.3f} ({keras.backend.backend()})")
    print(
        f"input pipeline: {1e3 * FLAGS.batch / np.median(pipeline):.0f} images/s, "
        f"{throughput:.1f} times the static net's training"
    )


if __name__ == "__main__":
    app.run(main)
