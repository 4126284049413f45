"""Title: Train a network that decides what to compute, and time what that saves
Description: A gated ResNet-20 beside the plain one, on real digits, down to LiteRT.

A dynamic network computes less for easy images than for hard ones. Here a small
controller in every residual block looks at the block's input and opens or shuts groups
of 16 channels; a shut group is not computed in the exported file. The script trains a
gated and a plain ResNet-20 on the 1,797 handwritten digits that come with scikit-learn,
exports both, and measures accuracy, multiply-adds and time side by side:

    python examples/quickstart.py --out outputs/quickstart

It needs `pip install "keras_dyngate[examples]"`, no download, no accelerator, and some
minutes. `--help` lists the settings.
"""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_dyngate as kd
from keras_dyngate.callbacks import decision_statistics
from keras_dyngate.export import quiet
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.visualization import (
    least_and_most,
    open_rates_by_class,
    side_by_side,
    write_report,
)

FLAGS = flags.FLAGS
flags.DEFINE_integer("start_epochs", 4, "Epochs of the plain net both start from.")
flags.DEFINE_integer("epochs", 16, "Further epochs, the same for both nets.")
flags.DEFINE_float("width", 1.0, "Width of both nets; 1 is the usual ResNet-20.")
flags.DEFINE_integer("group_size", 16, "Channels per decision.")
flags.DEFINE_float("gate_bias", 2.0, "First logit of every gate; 2 is 88 % open.")
flags.DEFINE_float("sparsity", 0.5, "Price of computing a whole block.")
flags.DEFINE_float("learning_rate", 2e-3, "Of Adam, falling along a cosine.")
flags.DEFINE_integer("batch_size", 32, "Images per training step.")
flags.DEFINE_integer("seed", 0, "Of the split, the weights and the noise of the gates.")
flags.DEFINE_integer("train_images", 1200, "Fewer for a quick look.", lower_bound=20)
flags.DEFINE_integer("test_images", 397, "Fewer for a quick look.", lower_bound=10)
flags.DEFINE_string("out", "outputs/quickstart", "Folder for files, figures, page.")

SETTINGS = (
    "start_epochs",
    "epochs",
    "width",
    "group_size",
    "gate_bias",
    "sparsity",
    "learning_rate",
    "batch_size",
    "seed",
    "train_images",
    "test_images",
)
QUANTIZATIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
TIE = 1e-3  # two logits this close may swap places between two ways of rounding
BLOCK = 20  # images that one file is timed on before it is the next one's turn

console = Console(width=100 if not sys.stdout.isatty() else None)
seconds: dict[str, float] = {}


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, and note how long it took."""
    console.rule(f"[bold]{title}", align="left")
    start = time.perf_counter()
    yield
    seconds[title] = time.perf_counter() - start


# ## The data
#
# 1,797 grey 8x8 digits, brought to what every model of the library takes: 32x32 RGB
# from 0 to 255. Three disjoint parts: the nets learn on the first; progress is
# watched on the second; the third is for the figures at the end.


def load_data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of the parts "train", "validation" and "test"."""
    digits = load_digits()
    grey = np.repeat(digits.images[..., None] * (255 / 16), 3, axis=-1)
    images = keras.ops.image.resize(
        grey.astype("float32"), (32, 32), interpolation="bilinear"
    )
    images, labels = keras.ops.convert_to_numpy(images), digits.target

    def split(images: Any, labels: Any, size: int) -> Any:
        return train_test_split(
            images, labels, test_size=size, stratify=labels, random_state=FLAGS.seed
        )

    x, x_test, y, y_test = split(images, labels, 397)
    x, x_validation, y, y_validation = split(x, y, 200)
    return {
        "train": (x[: FLAGS.train_images], y[: FLAGS.train_images]),
        "validation": (x_validation, y_validation),
        "test": (x_test[: FLAGS.test_images], y_test[: FLAGS.test_images]),
    }


# ## The nets
#
# Both come from one builder. The gated one has a `BinaryGate` in every block; its bias
# starts high, so that the net starts out close to the plain one. There are two
# penalties. Batch-shaping, at first, pulls each gate's openings over a batch towards a
# Beta prior, so that a gate opens for some images and not for others; it fades out.
# Then sparsity puts a price on multiply-adds: with `reduction="mean"` each penalty is
# the share of its gateable work that a block expects to do, so the coefficient is the
# price of doing all the work of one block, in units of the cross-entropy.


def make_gated() -> keras.Model:
    """The gated net: decisions on groups of channels, penalties on schedules."""
    gates = kd.Gates(
        channel=lambda units: kd.BinaryGate(units, bias_initializer=FLAGS.gate_bias),
        group_size=FLAGS.group_size,
        channel_regularizers=[
            kd.BatchShaping(coefficient=kd.LinearSchedule(0.75, 0.0, end=0.2)),
            kd.GateSparsity(
                coefficient=kd.LinearSchedule(0.0, FLAGS.sparsity, 0.2, 0.6),
                weighting="macs",
                reduction="mean",
            ),
        ],
    )
    return kd.gated_resnet20(width=FLAGS.width, gates=gates)


def train(model: keras.Model, data: Any, epochs: int, callbacks: Any = ()) -> Any:
    """Train with the settings that all nets here share."""
    steps = epochs * -(-len(data["train"][0]) // FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, steps, alpha=0.02
    )
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU, compiling takes longer than it saves here
    )
    return model.fit(
        *data["train"],
        batch_size=FLAGS.batch_size,
        epochs=epochs,
        validation_data=data["validation"],
        callbacks=list(callbacks),
        verbose=1 if sys.stdout.isatty() else 2,
    ).history


# One plain net is trained for a few epochs. Then the plain and the gated net both go on
# from its weights, for the same number of epochs: any difference is that of the gates.


def train_both(data: Any) -> tuple[dict[str, keras.Model], dict[str, Any]]:
    """The trained nets, and what happened in the epochs they do not share."""
    with step("Training: the start both share"):
        start = kd.resnet20(width=FLAGS.width)
        train(start, data, FLAGS.start_epochs)
    nets, histories = {}, {}
    with step("Training: plain, going on"):
        nets["plain"] = kd.load_trunk_weights(kd.resnet20(width=FLAGS.width), start)
        histories["plain"] = train(nets["plain"], data, FLAGS.epochs)
    with step("Training: gated, going on"):
        nets["gated"] = kd.load_trunk_weights(make_gated(), start)
        watch = kd.DecisionStatistics(data["validation"][0], per_layer=False)
        callbacks = [kd.RegularizationSchedule(), watch]
        histories["gated"] = train(nets["gated"], data, FLAGS.epochs, callbacks)
    return nets, histories


# ## The files
#
# Each net as float32, with int8 weights ("dynamic"), and wholly in int8, which is
# calibrated on training images. Gates of fewer than 16 channels would be joined.


def export_all(nets: Any, data: Any, out: Path) -> dict[str, Any]:
    """`ExportReport`s by file name."""
    reports = {}
    for net, model in nets.items():
        for kind, quantization in QUANTIZATIONS.items():
            name = f"{net}_{kind}"
            reports[name] = kd.export_tflite(
                model,
                out / f"{name}.tflite",
                quantization=quantization,
                representative_data=data["train"][0],
                labels=[str(digit) for digit in range(10)],
            )
            text = str(reports[name]).replace(f"{out}{os.sep}", "")
            console.print(text, highlight=False, soft_wrap=True)
    return reports


# ## The test
#
# Every test image runs through every file: once for the answers, twice for the time, on
# one thread. The files take turns, so that a machine that slows down slows down for all.
# A turn of 20 images (and one before them, untimed) is how a device runs a net, its
# weights in the caches. A turn of one image is the worst case: the other files have just
# emptied the caches, and what is loaded anew is not saved by computing less.


def differences(model: keras.Model, images: Any, theirs: np.ndarray) -> dict[str, Any]:
    """Where a file's labels differ from Keras's, and how much was between the two."""
    logits = np.log(np.maximum(model.predict(images, verbose=0), 1e-30))
    ours, rows = logits.argmax(-1), np.arange(len(images))
    gap = logits[rows, ours] - logits[rows, theirs]
    return {
        "agreement": float((ours == theirs).mean()),
        "beyond_ties": int((gap > TIE).sum()),
    }


def run_files(nets: Any, reports: Any, data: Any) -> dict[str, dict[str, Any]]:
    """What each file answers and how long it takes, over the test images."""
    images, labels = data["test"]
    files = {name: kd.LiteRTModel(report.path) for name, report in reports.items()}
    inputs = [{"image": image} for image in images]
    times: dict[str, list[float]] = {name: [] for name in files}
    for start in range(0, len(inputs), BLOCK):
        block = inputs[start : start + BLOCK]
        for name, file in files.items():
            found = file.benchmark("classify", block, repeats=len(block), warmup=1)
            times[name] += found.times_ms
    cold = compare_latency(
        {name: (file, "classify", inputs) for name, file in files.items()},
        rounds=len(images),
    )
    rows: dict[str, dict[str, Any]] = {}
    for name, file in files.items():
        net, _, kind = name.partition("_")
        found = file.evaluate((images, labels))
        rows[name] = {
            "accuracy": found["accuracy"],
            "executed_macs": found["mean_executed_macs"],
            "median_ms": float(np.median(times[name])),
            "mean_ms": float(np.mean(times[name])),
            "cold_median_ms": float(np.median(cold[name])),
            "bytes": reports[name].bytes,
            **differences(nets[net], images, found["labels"]),
        }
        base = rows[f"plain_{kind}"]
        for ratio, key in (
            ("time_ratio", "median_ms"),
            ("cold_time_ratio", "cold_median_ms"),
        ):
            rows[name][ratio] = rows[name][key] / base[key]
    return rows


def evaluate_both(nets: Any, reports: Any, data: Any) -> dict[str, Any]:
    """All figures of the test, in Keras and in LiteRT."""
    images, labels = data["test"]
    results: dict[str, Any] = {"keras": {}, "files": run_files(nets, reports, data)}
    for net, model in nets.items():
        predicted = model.predict(images, verbose=0).argmax(-1)
        results["keras"][net] = {"accuracy": float((predicted == labels).mean())}
    decisions = kd.decide(nets["gated"], images)
    found = decision_statistics(decisions)
    found.pop("gates")
    profile = kd.count_macs(nets["gated"])
    sizes = reports["gated_float32"].group_sizes
    macs = profile.of(decisions, sizes)
    results["decisions"] = found
    results["macs"] = {
        "plain": profile.total,
        "gated_mean": float(macs.mean()),
        "gated_least": int(macs.min()),
        "gated_most": int(macs.max()),
        "controllers": profile.controllers,
    }
    return results | {"_decisions": decisions, "_macs": macs}


# ## What came out


def provenance(data: Any) -> dict[str, str]:
    """What another person needs to make the same figures."""
    given = " ".join(f"--{name}={FLAGS[name].value}" for name in SETTINGS)
    sizes = ", ".join(f"{len(part[0])} {name}" for name, part in data.items())
    return {
        "command": f"python examples/quickstart.py {given}",
        "data": "scikit-learn's digits (real handwriting, 8x8), enlarged to 32x32 RGB; "
        f"stratified, disjoint: {sizes}; no augmentation",
        "training": f"{FLAGS.start_epochs} epochs shared, then {FLAGS.epochs} epochs "
        "of each net from the same weights; Adam, cosine",
        "timing": "LiteRT, 1 thread, batch 1, every test image once; the files take "
        f"turns, {BLOCK} images a turn (cold: one image a turn)",
        "hardware": "{cpu}, {cores} cores".format(**describe_machine()),
        "software": f"keras_dyngate {kd.__version__}, Keras {keras.__version__} on "
        f"{keras.backend.backend()}, Python {platform.python_version()}",
        "seed": str(FLAGS.seed),
        "date": time.strftime("%Y-%m-%d"),
    }


def time_rows() -> list[list[str]]:
    """One line per step, in seconds."""
    steps = [*seconds.items(), ("total", sum(seconds.values()))]
    return [[name, f"{taken:.0f}"] for name, taken in steps]


def table_rows(results: Any) -> list[list[str]]:
    """One line per file."""
    return [
        [
            name.replace("_", " "),
            f"{row['accuracy']:.2%}",
            f"{row['executed_macs'] / 1e6:.1f}",
            f"{row['median_ms']:.3f}",
            f"{row['time_ratio']:.2f}",
            f"{row['cold_median_ms']:.3f}",
            f"{row['cold_time_ratio']:.2f}",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['agreement']:.2%}",
        ]
        for name, row in results["files"].items()
    ]


HEAD = [
    "file",
    "accuracy",
    "MMACs",
    "ms",
    "/ plain",
    "cold ms",
    "/ plain",
    "MB",
    "same",
]


def write_page(results: Any, data: Any, out: Path) -> None:
    """The HTML page, with a figure for each question."""
    images, labels = data["test"]
    files, decided = results["files"], results["decisions"]
    plain, gated = files["plain_float32"], files["gated_float32"]
    macs = results["_macs"]
    panels = {
        title: {net: files[f"{net}_float32"][key] * unit for net in ("plain", "gated")}
        for title, key, unit in (
            ("Test accuracy (%)", "accuracy", 100),
            ("MACs per image (millions)", "executed_macs", 1e-6),
            ("LiteRT, median (ms)", "median_ms", 1),
        )
    }
    captions = [
        f"{label}: {used / results['macs']['plain']:.0%}"
        for label, used in zip(labels, macs, strict=True)
    ]
    write_report(
        out / "report.html",
        {
            "title": "A network that decides what to compute",
            "lead": "A gated ResNet-20 beside the plain net of the same depth, on real "
            "handwritten digits. Shut channel groups are skipped in the LiteRT file.",
            "highlights": [
                {
                    "value": f"{gated['time_ratio']:.2f}",
                    "label": "of the plain net's time (LiteRT, float32)",
                },
                {
                    "value": f"{gated['executed_macs'] / plain['executed_macs']:.2f}",
                    "label": "of its multiply-adds, controllers included",
                },
                {
                    "value": f"{100 * (gated['accuracy'] - plain['accuracy']):+.2f}",
                    "label": f"points of accuracy on {len(labels)} test images",
                },
                {
                    "value": f"{decided['conditional']:.0%}",
                    "label": "of the gates open for some images and not for others",
                },
            ],
            "sections": [
                {
                    "title": "Cost and accuracy",
                    "text": "Both float32 files over all test images: one thread, medians.",
                    "figure": side_by_side(panels),
                },
                {
                    "title": "All files",
                    "text": "Times are medians over the test images, the files taking "
                    f"turns of {BLOCK} images; cold: of one image, which finds the "
                    "caches emptied by the other files. Ratios are to the plain net in "
                    "the same number format. The last column is the share of test "
                    "images that get the same label in Keras.",
                    "table": {"head": HEAD, "rows": table_rows(results)},
                },
                {
                    "title": "Where the net decides",
                    "text": "Share of channel groups that are open, per digit.",
                    "figure": open_rates_by_class(results["_decisions"], labels),
                },
                {
                    "title": "Which images use less, and which more",
                    "text": "The digits that used least and most. Under each: its "
                    "label, and its multiply-adds as a share of the plain net's.",
                    "figure": least_and_most(images, macs, captions),
                },
                {
                    "title": "Where the time went",
                    "table": {
                        "head": ["step", "seconds"],
                        "rows": time_rows(),
                    },
                },
            ],
            "provenance": results["provenance"],
        },
    )


def print_tables(results: Any) -> None:
    """The same figures in the terminal."""
    table = Table(title="Over the test images")
    for column in HEAD:
        table.add_column(column, justify="left" if column == "file" else "right")
    for row in table_rows(results):
        table.add_row(*row)
    console.print(table)
    found = results["decisions"]
    console.print(
        f"Gates: open rate {found['open_rate']:.1%}; "
        f"always on {found['always_on']:.1%}, always off {found['always_off']:.1%}, "
        f"conditional {found['conditional']:.1%}."
    )
    for name, rate in found["layers"].items():
        console.print(f"  {name:<28}{rate:>7.1%}", highlight=False)
    macs = results["macs"]
    console.print(
        f"MMACs per image: plain {macs['plain'] / 1e6:.1f}; "
        f"gated {macs['gated_mean'] / 1e6:.1f} on average, "
        f"from {macs['gated_least'] / 1e6:.1f} to {macs['gated_most'] / 1e6:.1f}."
    )
    times = Table(title="Where the time went")
    times.add_column("step")
    times.add_column("seconds", justify="right")
    for row in time_rows():
        times.add_row(*row)
    console.print(times)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if keras.backend.backend() != "tensorflow":
        raise app.UsageError("Exporting needs KERAS_BACKEND=tensorflow.")
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    quiet()
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(FLAGS.seed)
    data = load_data()
    nets, histories = train_both(data)
    with step("Exporting six files"):
        reports = export_all(nets, data, out)
    with step("Testing"):
        results = evaluate_both(nets, reports, data)
    results["provenance"] = provenance(data)
    results["history"] = histories
    results["seconds"] = dict(seconds)
    print_tables(results)
    write_page(results, data, out)
    shown = {key: value for key, value in results.items() if not key.startswith("_")}
    (out / "results.json").write_text(json.dumps(shown, indent=1, default=float) + "\n")
    console.print(f"Wrote report.html, results.json and six files to {FLAGS.out}.")

    # A float32 file must answer as Keras does; where the two best logits tie, rounding
    # decides, and either answer is right.
    wrong = [
        name
        for name, row in results["files"].items()
        if name.endswith("float32") and row["beyond_ties"]
    ]
    if wrong:
        console.print(f"[red]These files do not answer as Keras does: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    app.run(main)
