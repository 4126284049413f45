"""Nets at forced open rates, or trained ones: the modes of `benchmark.py` with Keras."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from pictures import read_pictures
from rich.console import Console
from rich.table import Table

import keras_dyngate as kd
from keras_dyngate.cost.table_file import check_table
from keras_dyngate.export import quiet
from keras_dyngate.runtime import compare_latency

FLAGS = flags.FLAGS


class Bench:
    """Files made for one comparison, and what each should cost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, dict[str, Any]] = {}
        self.models: dict[str, kd.LiteRTModel] = {}
        self.base = ""
        self.table = kd.CostTable.load(FLAGS.table) if FLAGS.table else None

    def told(self, model: keras.Model, images: np.ndarray) -> dict[str, Any]:
        """What the table that was given says a picture costs, and in which unit."""
        if self.table is None:
            return {}
        if not any(True for _ in kd.gate_variables(model)):
            return {"table_cost": self.table.total, "table_unit": self.table.unit}
        costs = check_table(self.table, kd.count_macs(model), "--table")
        found = costs.of(kd.decide(model, images))
        return {"table_cost": float(found.mean()), "table_unit": costs.unit}

    def add(self, name: str, model: keras.Model, images: np.ndarray) -> None:
        """Export `model` as it is now (forced or not) and note its mean cost."""
        path = self.folder / f"{len(self.rows)}.tflite"
        quantization = None if FLAGS.quantization == "none" else FLAGS.quantization
        report = kd.export_tflite(
            model, path, quantization=quantization, representative_data=images
        )
        litert = kd.LiteRTModel(path, num_threads=FLAGS.threads)
        macs = [
            litert.run("classify", image=image)["executed_macs"] for image in images
        ]
        self.models[name] = litert
        self.rows[name] = {
            "name": name,
            "file": path.name,
            "executed_macs": 1000 * float(np.mean(macs)),
            "bytes": report.bytes,
            "branches": len(report.branches),
            **self.told(model, images),
        }

    def measure(self, images: np.ndarray, base: str) -> list[dict[str, Any]]:
        """Time all files, interleaved; ratios are to `base`, medians over the rounds."""
        self.base = base
        inputs = [{"image": image} for image in images]
        times = compare_latency(
            {name: (m, "classify", inputs) for name, m in self.models.items()},
            rounds=FLAGS.rounds,
        )
        for name, row in self.rows.items():
            row["median_ms"] = float(np.median(times[name]))
            row["mean_ms"] = float(np.mean(times[name]))
        for row in self.rows.values():
            for ratio, key in (
                ("cost_ratio", "executed_macs"),
                ("size_ratio", "bytes"),
            ):
                row[ratio] = row[key] / self.rows[base][key]
            # Round by round, so that a machine that slows down does not matter.
            row["time_ratios"] = {
                plain: float(np.median(times[row["name"]] / times[plain]))
                for plain in self.rows
                if plain == base or plain.startswith("plain")
            }
            row["time_ratio"] = row["time_ratios"][base]
        return list(self.rows.values())


def forced_rates(bench: Bench) -> list[dict[str, Any]]:
    """Random weights, fixed open rates, beside plain nets."""
    plain, gated, options = anybodys() or constructed()
    rng = np.random.default_rng(FLAGS.seed)
    shape = (16 if FLAGS.quantization == "int8" else 2, *plain.input_shape[1:])
    images = rng.integers(0, 256, shape).astype("float32")
    base = f"plain {plain.name}"
    bench.add(base, plain, images)
    for other in FLAGS.against:
        if options is not None and other != plain.name:
            bench.add(f"plain {other}", getattr(kd, other)(**options), images)
    for rate in FLAGS.rates:
        with kd.force_open_rate(gated, float(rate)):
            bench.add(f"{gated.name} open {float(rate):g}", gated, images)
    return bench.measure(images[:2], base)


def constructed() -> tuple[keras.Model, keras.Model, dict[str, Any]]:
    """A net of this library, plain and gated, and what it was made with."""
    kind, _, plain_name = FLAGS.model.partition("_")
    if kind not in ("gated", "lc") or not hasattr(kd, FLAGS.model):
        raise app.UsageError(
            "--model must name a gated constructor, gated_resnet34 or lc_resnet34 say, a "
            "net of keras.applications, MobileNetV2 say, or a .keras file"
        )
    options: dict[str, Any] = {}
    if FLAGS.width != 1:
        options["width"] = FLAGS.width
    if FLAGS.image_size:
        options["input_shape"] = (FLAGS.image_size, FLAGS.image_size, 3)
    if FLAGS.stem:
        options["stem"] = FLAGS.stem
    plain = getattr(kd, plain_name)(**options)
    mode = {"mode": FLAGS.mode} if FLAGS.mode else {}
    gates = kd.Gates(groups=FLAGS.gate_groups, group_size=FLAGS.gate_group_size)
    if FLAGS.gate in ("layers", "both"):
        gates = dataclasses.replace(gates, layer="binary")
    if FLAGS.gate == "layers":
        gates = dataclasses.replace(gates, channel=None)
    gated = getattr(kd, FLAGS.model)(gates=gates, **mode, **options)
    kd.load_trunk_weights(gated, plain)
    return plain, gated, options


def anybodys() -> tuple[keras.Model, keras.Model, None] | None:
    """A net of keras.applications (random weights) or of a file, plain and gated here."""
    if FLAGS.model.endswith(".keras"):
        if FLAGS.image_size:
            raise ValueError("--image_size is that of the net in a .keras file")
        plain = keras.saving.load_model(FLAGS.model, compile=False)
    elif FLAGS.model[:1].isupper() and hasattr(keras.applications, FLAGS.model):
        shape = (FLAGS.image_size, FLAGS.image_size, 3) if FLAGS.image_size else None
        plain = getattr(keras.applications, FLAGS.model)(
            weights=None, input_shape=shape
        )
    else:
        return None
    gated, groups = plain, FLAGS.gate_groups
    if FLAGS.gate in ("channels", "pairs", "both"):
        gated = kd.add_channel_gates(
            gated,
            FLAGS.where,
            groups=groups,
            group_size=FLAGS.gate_group_size,
            pairs=FLAGS.gate == "pairs",
            name=f"{plain.name}_gated",
        )
    if FLAGS.gate in ("layers", "both"):
        gated = kd.add_layer_gates(gated, FLAGS.where, name=f"{plain.name}_gated")
    return plain, gated, None


def real_pictures(bench: Bench) -> list[dict[str, Any]]:
    """A trained net on pictures: its own decisions, beside everything open."""
    model = keras.saving.load_model(FLAGS.keras_file, compile=False)
    images = read_pictures(FLAGS.images, model.input_shape[1:])
    bench.add("own gates", model, images)
    with kd.force_open_rate(model, 1.0):
        bench.add("all open", model, images)
    rows = bench.measure(images, "all open")
    decisions = kd.decide(model, images)
    rows[0]["open_rate"] = float(
        np.mean(np.concatenate([(d > 0).ravel() for d in decisions.values()]))
    )
    return rows


def show(rows: list[dict[str, Any]], base: str) -> None:
    """Print the table: time beside MACs, and what they are compared with."""
    table = Table(title=f"LiteRT, {FLAGS.quantization}, {FLAGS.threads} thread(s)")
    columns = ["net", "median ms", "time ratio", "MMACs", "cost ratio", "MB"]
    if "table_cost" in rows[0]:
        columns.append(f"table {rows[0]['table_unit']}")
    for column in columns:
        table.add_column(column, justify="left" if column == "net" else "right")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['median_ms']:.2f}",
            f"{row['time_ratio']:.3f}",
            f"{row['executed_macs'] / 1e6:.1f}",
            f"{row['cost_ratio']:.3f}",
            f"{row['bytes'] / 1e6:.2f}",
            *([f"{row['table_cost']:.4g}"] if "table_cost" in row else []),
        )
    console = Console()
    console.print(table)
    console.print(
        f"time ratio, cost ratio: time and MACs over those of {base}; time round by round, "
        "the median of the rounds. MMACs: millions of MACs, mean of the images",
        markup=False,
    )


def run() -> list[dict[str, Any]]:
    """Make files as the flags say, time them, print and return the figures."""
    quiet()
    keras.utils.set_random_seed(FLAGS.seed)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(FLAGS.keep or folder))
        rows = real_pictures(bench) if FLAGS.keras_file else forced_rates(bench)
    show(rows, bench.base)
    return rows
