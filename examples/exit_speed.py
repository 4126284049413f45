"""
Title: What early exits save in Keras
Description: Times `predict` with exits beside the trunk's own, interleaved.

    python examples/exit_speed.py --model resnet56 --share 0.5 --cost 0.22

A gate is put where about `--cost` of the MACs are spent, and the threshold is set so that
`--share` of the images leave there. Without `--data` (see cifar_npz.py) the images are
random. The trunk is timed compiled with and without XLA; ratios are to the faster one.
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
flags.DEFINE_string("model", "resnet56", "Constructor of the trunk.")
flags.DEFINE_string("weights", None, "Weights of the trunk; default: random.")
flags.DEFINE_string("data", None, ".npz with images; default: random ones.")
flags.DEFINE_float("cost", 0.22, "Share of the MACs spent before the gate.")
flags.DEFINE_float("share", 0.5, "Share of the images that leave there.")
flags.DEFINE_integer("batch", 128, "Images per batch.")
flags.DEFINE_integer("images", 1024, "Images per timing.")
flags.DEFINE_integer("rounds", 9, "Timings per net.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    keras.utils.set_random_seed(0)
    trunk = getattr(kd, FLAGS.model)(weights=FLAGS.weights)
    if FLAGS.data:
        with np.load(FLAGS.data, allow_pickle=False) as file:
            x = file["x_test"][: FLAGS.images].astype("float32")
            train = file["x_train"].astype("float32"), file["y_train"].ravel()
    else:
        rng = np.random.default_rng(0)
        shape = (FLAGS.images, *trunk.input_shape[1:])
        x = rng.integers(0, 256, shape).astype("float32")
        train = x[:256], rng.integers(0, trunk.output_shape[-1], 256)
    total = kd.count_macs(trunk).total
    cuts = kd.cut_points(trunk)
    cut = min(cuts, key=lambda point: abs(point.macs / total - FLAGS.cost))
    model = kd.add_decision_gates(trunk, [cut])
    model.fit_gates(*train)
    chosen = model.calibrate(x, exit_shares=[FLAGS.share], batch_size=FLAGS.batch)
    print(f"gate after {cut.layer}: {chosen}")

    plain = keras.models.clone_model(trunk)
    plain.set_weights(trunk.get_weights())
    plain.compile(jit_compile=False)
    runs = {
        "trunk, compiled by XLA": lambda: trunk.predict(x, FLAGS.batch, verbose=0),
        "trunk": lambda: plain.predict(x, FLAGS.batch, verbose=0),
        "with exits": lambda: model.predict(x, FLAGS.batch, verbose=0),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-1, FLAGS.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start) / len(x))
    for name, values in times.items():
        print(f"{name}: {np.median(values):.3f} ms per image")
    full = np.minimum(*(np.array(times[name]) for name in list(runs)[:2]))
    ratio = np.median(np.array(times["with exits"]) / full)
    print(f"with exits: {ratio:.3f} of the time, {chosen.macs_share:.3f} of the MACs")


if __name__ == "__main__":
    app.run(main)
