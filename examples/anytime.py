"""
Title: The best answer within so many milliseconds
Description: A sliced net on digits: accuracy of every sub-network, then deadlines.

    python examples/anytime.py

An anytime net answers with its thinnest sub-network at once, and refines the answer while
time remains. Here a residual net in 4 slices is trained on the 1,797 handwritten digits
that come with scikit-learn, in one go for all sub-networks. One exported file then has a
signature for the first answer (`start`) and one for each further slice (`step_2` to
`step_4`), which continues from what the steps before have left.

The script prints, and writes to `--out`, two tables: what every sub-network costs and how
often it is right; and what becomes of a deadline. `--coarse_heads 2` makes the first two
heads answer an easier question, whether a digit is even or odd.
"""

import collections
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.runtime import AnytimeRunner, describe_machine

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 12, "Of the training.")
flags.DEFINE_integer("width", 32, "Channels of the first of three stages.")
flags.DEFINE_integer("subnetworks", 4, "K.")
flags.DEFINE_integer("coarse_heads", 0, "Heads that answer even or odd.")
flags.DEFINE_enum("quantization", "none", ["none", "dynamic", "int8"], "Of the file.")
flags.DEFINE_integer("train_images", 1400, "Fewer for a quick look.")
flags.DEFINE_integer("seed", 0, "Of the split and the weights.")
flags.DEFINE_string("out", "outputs/anytime", "Folder for the file and the figures.")


def load_data() -> tuple[np.ndarray, ...]:
    """Training and test images, 32x32 RGB from 0 to 255, and their labels."""
    digits = load_digits()
    grey = np.repeat(digits.images[..., None] * (255 / 16), 3, axis=-1)
    images = keras.ops.image.resize(grey.astype("float32"), (32, 32))
    return train_test_split(
        keras.ops.convert_to_numpy(images),
        digits.target,
        test_size=397,
        stratify=digits.target,
        random_state=FLAGS.seed,
    )


def keep_deadlines(
    runner: AnytimeRunner, images: np.ndarray, right: Any
) -> list[dict[str, Any]]:
    """Runs all images under several deadlines.

    Args:
        runner: Of the exported file.
        images: The test images.
        right: Tells from the index of an image and an answer whether that is right.
    """
    ends = np.cumsum(list(runner.median_ms().values()))
    deadlines = [0.0, *(1.5 * ends), None]
    rows = []
    for deadline in deadlines:
        answers = [runner.run(image, deadline) for image in images]
        share = collections.Counter(answer.k for answer in answers)
        rows.append(
            {
                "deadline_ms": deadline,
                "accuracy": float(
                    np.mean([right(*pair) for pair in enumerate(answers)])
                ),
                "share_of_k": {k: n / len(images) for k, n in sorted(share.items())},
                "in_time": float(np.mean([answer.in_time for answer in answers])),
                "stopped_late": float(np.mean([a.late is not None for a in answers])),
                "median_ms": float(np.median([a.elapsed_ms for a in answers])),
            }
        )
    return rows


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    keras.utils.set_random_seed(FLAGS.seed)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    x_train, x_test, y_train, y_test = load_data()
    x_train, y_train = x_train[: FLAGS.train_images], y_train[: FLAGS.train_images]

    # ## The net
    #
    # One pass gives the answers of all sub-networks, so one step trains them all.

    taxonomy = None
    if FLAGS.coarse_heads:
        even_or_odd = [digit % 2 for digit in range(10)]
        taxonomy = kd.HierarchicalTaxonomy(even_or_odd, coarse_names=["even", "odd"])
    model = kd.sliced_resnet(
        blocks=1,
        width=FLAGS.width,
        subnetworks=FLAGS.subnetworks,
        taxonomy=taxonomy,
        coarse_heads=FLAGS.coarse_heads,
    )
    steps = -(-len(x_train) // 64) * FLAGS.epochs
    rate = keras.optimizers.schedules.CosineDecay(0.05, steps)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, weight_decay=1e-4),
        metrics=["accuracy"],
    )
    model.fit(x_train, y_train, batch_size=64, epochs=FLAGS.epochs, verbose=2)

    # ## The file, and the curve

    report = kd.export_tflite(
        model,
        out / "anytime.tflite",
        quantization=None if FLAGS.quantization == "none" else FLAGS.quantization,
        representative_data=x_train,
        parity_data=x_test[:50],
        labels=[str(digit) for digit in range(10)],
    )
    print(report)
    curve = model.evaluate_anytime((x_test, y_test), file=report.path)
    print(curve)
    kd.visualization.anytime_curves({"": curve}).savefig(out / "anytime.png", dpi=150)

    # ## Deadlines
    #
    # The runner knows from its last calls how long a step takes, and takes it if it
    # will be over in time. The first answer comes in any case.

    def right(index: int, answer: Any) -> bool:
        truth = y_test[index]
        if taxonomy is not None and answer.k <= FLAGS.coarse_heads:
            truth = taxonomy.coarse_of(truth)
        return bool(answer.label == truth)

    rows = keep_deadlines(AnytimeRunner(report.path, warmup=10), x_test, right)
    print(
        f"{'deadline':>9} {'median ms':>10} {'in time':>8} {'accuracy':>9}  share of k"
    )
    for row in rows:
        deadline = row["deadline_ms"]
        share = ", ".join(f"{k}: {n:.0%}" for k, n in row["share_of_k"].items())
        print(
            f"{'none' if deadline is None else format(deadline, '.2f'):>9} "
            f"{row['median_ms']:>10.2f} {row['in_time']:>8.1%} {row['accuracy']:>9.2%}"
            f"  {share}"
        )
    results = {
        "settings": {
            name: FLAGS[name].value
            for name in "epochs width subnetworks coarse_heads quantization seed".split()
        },
        **describe_machine(),
        "curve": [dataclasses.asdict(point) for point in curve],
        "timed": curve.timed,
        "deadlines": rows,
        "bytes": report.bytes,
        "signatures": [dataclasses.asdict(row) for row in report.subnetworks],
    }
    write_whole(out / "results.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
