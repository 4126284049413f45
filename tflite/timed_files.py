"""Any .tflite files, timed image by image: the mode of `benchmark.py` for a device."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from pictures import read_pictures
from rich.console import Console
from rich.table import Table

from keras_dyngate.runtime import (
    LatencyReport,
    LiteRTModel,
    describe_machine,
    time_images,
)
from keras_dyngate.runtime.chain import image_input
from keras_dyngate.runtime.latency import ImageGroup

FLAGS = flags.FLAGS


def thresholds() -> dict[str, Any]:
    """Those of --thresholds, as inputs of signatures."""
    if not FLAGS.thresholds:
        return {}
    try:
        return {"thresholds": np.array([float(t) for t in FLAGS.thresholds], "float32")}
    except ValueError as error:
        raise ValueError(
            f"--thresholds must be numbers. Received: {','.join(FLAGS.thresholds)}"
        ) from error


def signature_of(model: LiteRTModel) -> str:
    """The signature to time: the one that was named, or the file's usual one."""
    if FLAGS.signature:
        return FLAGS.signature
    kinds = ("answer_at", "answer") if FLAGS.thresholds else ("answer",)
    usual = [name for kind in kinds if (name := model.table.first(kind))]
    names = [*usual, *model.signatures]
    if not names:
        raise ValueError(f"{model.path} must have a signature. Received: none")
    if names[0] not in usual and len(names) > 1:
        raise ValueError(
            f"--signature must be one of {', '.join(names)} of {model.path}. "
            "Received: none"
        )
    return names[0]


def images_for(
    model: LiteRTModel, signature: str, inputs: dict[str, Any]
) -> np.ndarray:
    """Pictures of the file's size, or random ones."""
    name, spec = image_input(model, signature, inputs)
    shape = spec.shape[1:]
    if -1 in shape:
        raise ValueError(
            f"Input {name!r} of {model.path} must be of a fixed size. Received: "
            f"{list(shape)}, -1 for a size left open"
        )
    if FLAGS.images:
        return read_pictures(FLAGS.images, shape, FLAGS.samples)
    highest = 127 if spec.dtype == np.int8 else 255
    rng = np.random.default_rng(FLAGS.seed)
    pixels = rng.integers(0, highest, (FLAGS.samples, *shape), endpoint=True)
    return pixels.astype("float32")


def short_names(paths: list[str]) -> list[str]:
    """As much of the ends of different paths as tells them apart."""
    parts = [Path(path).absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(paths):
            return names
    raise ValueError(f"--tflite_file must be different files. Received: {paths}")


def _millions(macs: float | None) -> str:
    return "-" if macs is None else f"{macs / 1e6:.2f}"


def _ms(*times: float) -> list[str]:
    return [f"{value:.3f}" for value in times]


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        if index:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def show_groups(console: Console, report: LatencyReport) -> None:
    """Times per exit and per open rate, as far as a file has them."""
    columns = ("images", "share", "median ms", "p90 ms", "MMACs")

    def cells(group: ImageGroup) -> list[str]:
        times = _ms(group.median_ms, group.p90_ms)
        macs = _millions(group.executed_macs)
        return [str(group.images), f"{group.share:.1%}", *times, macs]

    if exits := report.by_exit():
        per_exit = table("per exit", "exit", *columns)
        for group in exits:
            per_exit.add_row(str(group.exit), *cells(group))
        console.print(per_exit)
    if rates := report.by_open_rate():
        per_rate = table("per open rate", "open", *columns)
        for group in rates:
            per_rate.add_row(f"{group.open_rate:.1%}", *cells(group))
        console.print(per_rate)
    correlation = report.macs_correlation()
    if correlation is not None:
        console.print(f"correlation of executed MACs with time: {correlation:.3f}")


def show(reports: dict[str, LatencyReport], rows: list[dict[str, Any]]) -> None:
    """Print the distributions, time beside MACs, then what each file's times depend on."""
    console = Console()
    rounds, count = next(iter(reports.values())).times_ms.shape
    kind = f"images of {FLAGS.images}" if FLAGS.images else "random images"
    signatures = {row["signature"] for row in rows}
    title = (
        f"LiteRT, {', '.join(sorted(signatures))}, {FLAGS.threads} thread(s), "
        f"{count} {kind} x {rounds} rounds"
    )
    columns = ["file", "min ms", "median", "mean", "p90", "p99", "MMACs"]
    several = ["time ratio"] if len(rows) > 1 else []
    times = table(title, *columns, "MB", *several)
    for name, row in zip(reports, rows, strict=True):
        times.add_row(
            name if len(signatures) == 1 else f"{name} {row['signature']}",
            *_ms(*(row[f"{key}_ms"] for key in "min median mean p90 p99".split())),
            _millions(row["executed_macs"]),
            f"{row['bytes'] / 1e6:.2f}",
            *([f"{row['time_ratio']:.3f}"] if several else []),
        )
    console.print(times)
    if several:
        console.print(
            f"time ratio: time of all images over that of {next(iter(reports))} in the "
            "same round, median of the rounds",
            markup=False,
        )
    console.print("MMACs: millions of MACs that were run on an image, on average")
    console.print("{cpu}, {cores} cores".format(**describe_machine()))
    if not FLAGS.images:
        console.print("Random images say little about decisions; give --images.")
    for name, report in reports.items():
        if len(rows) > 1:
            console.print(f"\n{name}")
        show_groups(console, report)


def as_row(path: str, report: LatencyReport, base: LatencyReport) -> dict[str, Any]:
    """All figures of a file as plain values."""
    macs = report.executed_macs
    return {
        "file": path,
        "bytes": Path(path).stat().st_size,
        "signature": report.signature,
        **report.distribution(),
        "time_ratio": report.ratio_to(base),
        "executed_macs": None if macs is None else float(macs.mean()),
        "macs_correlation": report.macs_correlation(),
        "per_exit": [dataclasses.asdict(group) for group in report.by_exit()],
        "per_open_rate": [dataclasses.asdict(group) for group in report.by_open_rate()],
        "images": {
            key: None if values is None else values.tolist()
            for key, values in (
                ("median_ms", report.image_ms),
                ("executed_macs", macs),
                ("exit", report.exits),
                ("open_rate", report.open_rates),
            )
        },
    }


def run() -> tuple[dict[str, LatencyReport], list[dict[str, Any]]]:
    """Time the files of the flags; print and return the figures."""
    given, candidates = thresholds(), {}
    names = short_names(FLAGS.tflite_file)
    for name, path in zip(names, FLAGS.tflite_file, strict=True):
        model = LiteRTModel(path, num_threads=FLAGS.threads)
        signature = signature_of(model)
        candidates[name] = (model, signature, images_for(model, signature, given))
    reports = time_images(candidates, rounds=FLAGS.rounds, **given)
    rows = [
        as_row(path, reports[name], reports[names[0]])
        for name, path in zip(names, FLAGS.tflite_file, strict=True)
    ]
    show(reports, rows)
    return reports, rows
