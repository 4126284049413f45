"""
Title: Rows and a page of results
Description: From run folders to examples/results: figures, times side by side, plots.

    python examples/collect_results.py --data_dir cifar10.npz RUN_FOLDER RUN_FOLDER ...

Every run folder of a training script becomes a row: what was trained on what, how and for
how long, its accuracy, decisions and executed MACs on the test images. The exported files
of all runs are timed here, in turns within one run, on the same test images, so that
their times compare. Rows that are in `rows.json` already stay unless they are made
anew; `--page_only` makes the page from the rows there are.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import training
from absl import app, flags
from matplotlib.figure import Figure

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.runtime import compare_latency, describe_machine

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Of the runs' data, for the images to time on.")
flags.DEFINE_string("out", "examples/results", "Folder of rows, page and plots.")
flags.DEFINE_integer("images", 50, "Test images to time on.", 1)
flags.DEFINE_integer("rounds", 100, "Timed calls per file.", 1)
flags.DEFINE_bool("page_only", False, "Only make the page.")

FIGURES = (
    "accuracy",
    "mean_iou",
    "open_rate",
    "always_on",
    "always_off",
    "conditional",
    "macs",
    "executed_macs",
    "plain_macs",
    "training_s",
)
TASKS = {"accuracy": "Classification", "mean_iou": "Segmentation"}


def epochs_in_all(folder: Path) -> int:
    """A run's epochs and those of the runs beside it that its weights come from."""
    result = json.loads((folder / "result.json").read_text())
    weights = Path(result["settings"].get("weights") or "")
    source = folder.parent / weights.parent.name
    before = weights.name == "model.keras" and (source / "result.json").is_file()
    return int(result["epochs"]) + (epochs_in_all(source) if before else 0)


def read_row(folder: Path) -> dict[str, Any]:
    """What a run says of itself, without its times."""
    result = json.loads((folder / "result.json").read_text())
    settings = result["settings"]
    command = result["command"]
    for name in ("weights", "teacher"):  # which run a net came from
        source = Path(settings.get(name) or "")
        if source.name == "model.keras":
            flag = f"--{name} {source.name}"
            command = command.replace(
                flag, f"--{name} {source.parent.name}/model.keras"
            )
    return {
        "run": folder.name,
        "data": result["data"],
        "train_images": result["train_images"],
        "test_images": result["test_images"],
        "method": settings["method"],
        "model": settings["model"],
        "width": settings["width"],
        "gate": training.gated(settings.get("gate"), settings["method"]),
        "gate_group_size": settings["gate_group_size"]
        if settings["method"] not in ("plain", "dgate", "slicing")
        else None,
        "target_macs": settings["target_macs"],
        "batch_shaping": settings["batch_shaping"],
        "primed": settings.get("prime", False),
        "agreement": bool(settings.get("gate_agreement")),
        "packed": bool(settings.get("pack")),
        "teacher": bool(settings.get("teacher")),
        "seed": result["seed"],
        "epochs": result["epochs"],
        "epochs_in_all": epochs_in_all(folder),
        "backend": result["backend"],
        "hardware": result["hardware"],
        "command": command,
        **{name: result[name] for name in FIGURES if name in result},
        "files": {
            name: {
                key: file[key]
                for key in ("bytes", "accuracy", "mean_iou", "mean_executed_macs")
                if file.get(key) is not None
            }
            for name, file in result.get("files", {}).items()
        },
    }


def time_files(rows: dict[str, dict[str, Any]], folders: Iterable[Path]) -> None:
    """Add `ms` to every file, timed in turns with all others of its kind."""
    by_name = {folder.name: folder for folder in folders}
    (dataset,) = {
        json.loads((folder / "result.json").read_text())["settings"]["dataset"]
        for folder in by_name.values()
    }
    arguments = [] if FLAGS.data_dir is None else [FLAGS.data_dir]
    options = {}
    if dataset in ("camvid", "cityscapes"):
        found = kd.LiteRTModel(next(iter(by_name.values())) / "float32.tflite")
        size = found.signatures["segment"].inputs["image"].shape[1:3]
        options = {"image_size": size, "crop_size": size}
    data = getattr(kd.datasets, dataset)(*arguments, **options)
    images = data.test.arrays(FLAGS.images)[0]
    inputs = [{"image": image} for image in images]
    for kind in ("float32", "dynamic"):
        files = {
            name: kd.LiteRTModel(folder / f"{kind}.tflite")
            for name, folder in by_name.items()
        }
        candidates = {
            name: (file, next(iter(file.signatures)), inputs)
            for name, file in files.items()
        }
        times = compare_latency(candidates, rounds=FLAGS.rounds)
        for name, values in times.items():
            rows[name]["files"][kind]["ms"] = float(np.median(values))
            rows[name]["timed_on"] = describe_machine()


# ## The page


def describe(row: dict[str, Any], seed: bool = True) -> str:
    """A row's net in a few words."""
    words = [row["model"] if row["method"] == "plain" else f"gated {row['model']}"]
    if row["width"] != 1:
        words.append(f"width {row['width']:g}")
    if row["method"] == "plain" and row.get("teacher"):
        words.append("teacher")
    if row["gate_group_size"]:
        size = row["gate_group_size"]
        gate = row.get("gate", "channels")
        if gate != "channels":
            words.append("layers")
        if gate != "layers":
            words.append("per channel" if size == 1 else f"groups of {size}")
        words += [
            name.replace("_", "-")
            for name in ("primed", "packed", "batch_shaping", "agreement", "teacher")
            if row.get(name)
        ]
        if "target_macs" in row:
            words.append(f"for {row['target_macs']:g}")
        if seed:
            words.append(f"seed {row['seed']}")
    return ", ".join(words)


def means(rows: list[dict[str, Any]], measure: str) -> list[str]:
    """Lines that say what rows that differ by their seed have in common."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(describe(row, seed=False), []).append(row)
    lines = []
    for kind, same in kinds.items():
        if len(same) < 2:
            continue
        found = [100 * row[measure] for row in same]
        share = np.mean([row["executed_macs"] / row["plain_macs"] for row in same])
        seeds = ", ".join(str(row["seed"]) for row in same)
        lines.append(
            f"* {kind}, seeds {seeds}: {np.mean(found):.2f} % "
            f"({min(found):.2f} to {max(found):.2f}) at {share:.3f} of the MACs."
        )
    return ["Means over seeds:", "", *lines, ""] if lines else []


def table(rows: list[dict[str, Any]], measure: str) -> list[str]:
    """Lines of a Markdown table."""
    columns = (
        "net",
        f"{measure.replace('_', ' ')}, %",
        "open",
        "conditional gates",
        "MMACs, paper's count",
        "executed MMACs",
        "share of plain",
        *(
            f"{kind}: {unit}"
            for kind in ("float32", "8-bit weights")
            for unit in ("ms", "%")
        ),
    )
    header = f"| {' | '.join(columns)} |"
    lines = [header, "|" + "---|" * (header.count("|") - 1)]
    for row in rows:
        cells = [
            describe(row),
            f"{100 * row[measure]:.2f}",
            f"{row['open_rate']:.2f}" if "open_rate" in row else "",
            f"{row['conditional']:.2f}" if "conditional" in row else "",
            f"{row['macs'] / 1e6:.1f}",
            f"{row['executed_macs'] / 1e6:.1f}",
            f"{row['executed_macs'] / row['plain_macs']:.3f}",
        ]
        for kind in ("float32", "dynamic"):
            file = row["files"].get(kind, {})
            cells.append(f"{file['ms']:.2f}" if "ms" in file else "")
            cells.append(f"{100 * file[measure]:.2f}" if measure in file else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(rows: list[dict[str, Any]], measure: str, path: Path) -> None:
    """Accuracy against executed MACs, and against the float file's time."""
    sides: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "executed MMACs per image": lambda row: row["executed_macs"] / 1e6,
        "ms per image, float32 file": lambda row: (
            row["files"].get("float32", {}).get("ms")
        ),
    }
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes_of = figure.subplots(1, 2, sharey=True)
    for axes, (label, value) in zip(axes_of, sides.items(), strict=True):
        for gated, style in ((False, "s"), (True, "o")):
            points = [
                (value(row), 100 * row[measure])
                for row in rows
                if (row["method"] != "plain") == gated and value(row) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=LEGEND[gated])
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    axes_of[0].set_ylabel(f"{measure.replace('_', ' ')}, %")
    axes_of[0].legend()
    figure.savefig(path, dpi=120)


LEGEND = {False: "plain", True: "gated"}


def write_page(rows: list[dict[str, Any]], folder: Path) -> None:
    """README.md and a plot for each dataset and length of training."""
    notes = folder / "notes.md"
    lines = ["# Results", ""]
    if notes.is_file():
        lines += [notes.read_text().strip(), ""]
    sections: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        sections.setdefault((row["data"], row["epochs_in_all"]), []).append(row)
    for (data, epochs), chosen in sorted(sections.items()):
        chosen.sort(key=lambda row: (row["method"] != "plain", row["executed_macs"]))
        measure = "mean_iou" if "mean_iou" in chosen[0] else "accuracy"
        title = f"{data}, {epochs} epochs"
        name = "_".join(re.findall(r"\w+", title)).lower()
        plot(chosen, measure, folder / f"{name}.png")
        machines = sorted(
            {_machine(row["timed_on"]) for row in chosen if "timed_on" in row}
        )
        lines += [
            f"## {title}",
            "",
            f"{TASKS[measure]}; {chosen[0]['train_images']} training and "
            f"{chosen[0]['test_images']} test images. Times: LiteRT, batch 1, one thread, "
            f"medians, files in turns: {'; '.join(machines)}.",
            "",
            *table(chosen, measure),
            "",
            *means(chosen, measure),
            f"![{measure} against cost]({name}.png)",
            "",
            "<details><summary>Commands</summary>",
            "",
            *(f"* {row['run']}: `{row['command']}`" for row in chosen),
            "",
            "</details>",
            "",
        ]
    write_whole(folder / "README.md", "\n".join(lines).encode())


def _machine(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(str(value) for value in found.values())
    return str(found)


def _identity(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["data"], row["epochs_in_all"], row["run"]


def main(argv: list[str]) -> None:
    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    folders = [Path(name) for name in argv[1:]]
    if not FLAGS.page_only:
        made = {run.name: read_row(run) for run in folders}
        time_files(made, folders)
        anew = {_identity(row) for row in made.values()}
        rows = [row for row in rows if _identity(row) not in anew] + [*made.values()]
        rows.sort(key=_identity)
        write_whole(path, (json.dumps(rows, indent=1) + "\n").encode())
    write_page(rows, folder)
    print(f"{len(rows)} rows: {folder / 'README.md'}")


if __name__ == "__main__":
    app.run(main)
