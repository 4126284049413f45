"""
Title: Nets to try, as files
Description: A trained dynamic net and its plain twin in int8, some photos, a model card.

    python examples/publish_nets.py --runs outputs/exits_on_photos --photos FOLDER \\
        --dynamic "first 160, joint: b7_add, b13_add" --plain "plain 160, taught"

Makes files of two of the nets that `judge_exits.py` knows by these names. Thresholds are
chosen on val, on the file itself; everything that the card says is measured on test. Photos
of test go along, as many for each exit, right and wrong as they come.
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging
from exit_nets import Net, dynamic_nets, read, static_nets
from exit_rows import over_photos
from photo_folder import photo_folder

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.runtime import compare_latency, describe_machine

FLAGS = flags.FLAGS
flags.DEFINE_string("runs", "outputs/exits_on_photos", "What was trained.")
flags.DEFINE_integer("seed", 0, "Whose nets.")
flags.DEFINE_string("photos", None, "Folder of train, val and test.", required=True)
flags.DEFINE_string("dynamic", None, "Name of a dynamic net.", required=True)
flags.DEFINE_string("plain", "plain, taught jointly", "Name of a static net.")
flags.DEFINE_string("title", "grocery", "Of the files.")
flags.DEFINE_string("quantization", "int8", "Of the files.")
flags.DEFINE_float("accuracy_drop", 0.003, "What early exits may lose on val.")
flags.DEFINE_integer("shown", 3, "Photos for each exit.")
flags.DEFINE_integer("timed", 64, "Photos of test to time on.")
flags.DEFINE_string("notes", None, "A text for the card: data, licences, limits.")
flags.DEFINE_string("out", "outputs/published", "Folder for files, photos and card.")

ENDS = {"dynamic": "decides per photo", "plain": "the same for every photo"}


def chosen() -> dict[str, Net]:
    """The two nets, by the ends of their files' names."""
    arms = read(Path(FLAGS.runs) / str(FLAGS.seed))
    known = {
        net.name: net for net in (*static_nets(arms), *dynamic_nets(arms, math.inf))
    }
    wanted = {"dynamic": FLAGS.dynamic, "plain": FLAGS.plain}
    for flag, name in wanted.items():
        if name not in known:
            raise app.UsageError(
                f"--{flag} must be one of {sorted(known)}. Received: {name}"
            )
    return {end: known[name] for end, name in wanted.items()}


def published(
    model: keras.Model, end: str, data: Any, validation: Any, examples: np.ndarray
) -> kd.LiteRTModel:
    """The file of a net, a threshold for each exit chosen on validation photos."""
    wish = {"accuracy_drop": FLAGS.accuracy_drop, "shared": False}
    if isinstance(model, kd.EarlyExitModel):
        model.calibrate(*validation, **wish)
    path = Path(FLAGS.out) / f"{FLAGS.title}_{end}.tflite"
    kd.export_tflite(
        model,
        path,
        quantization=FLAGS.quantization,
        representative_data=examples if FLAGS.quantization != "float32" else None,
        labels=data.classes,
    )
    if isinstance(model, kd.EarlyExitModel):
        kd.calibrate_tflite(path, *validation, **wish)
    return kd.LiteRTModel(path)


def measured(net: Net, file: kd.LiteRTModel, x: Any, y: Any) -> dict[str, Any]:
    """What the file of a net says of all photos."""
    found = file.evaluate(x, y)
    macs = found["mean_executed_macs"]
    row: dict[str, Any] = {"net": net.name, "accuracy": found["accuracy"], "macs": macs}
    row["labels"] = found["labels"]
    row["bytes"] = Path(file.path).stat().st_size
    row["exit"] = found.get("exit", np.zeros(len(y), "int64"))
    row["exits"] = np.bincount(row["exit"], minlength=len(net.exits)) / len(y)
    return row


def kept_photos(exits: np.ndarray, count: int) -> list[int]:
    """So many photos of every exit, evenly taken."""
    found: list[int] = []
    for number in np.unique(exits):
        mine = np.flatnonzero(exits == number)
        found += mine[
            np.linspace(0, len(mine) - 1, count + 2).astype(int)[1:-1]
        ].tolist()
    return list(dict.fromkeys(found))


def write_photos(numbers: list[int], x: np.ndarray, names: list[str]) -> list[str]:
    """Some photos as files, called by their class; what they are called."""
    folder = Path(FLAGS.out) / "photos"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = []
    for place, number in enumerate(numbers, 1):
        found.append(f"{place:02}_{names[number]}.jpg")
        keras.utils.save_img(folder / found[-1], x[number], quality=90)
    return found


def card(rows: dict[str, dict[str, Any]], ms: dict[str, float], count: int) -> str:
    """The model card."""
    plain = rows["plain"]
    lines = [
        f"# {FLAGS.title}: a net that decides per photo, and its plain twin",
        "",
        "| file | net | accuracy | MMACs | ms | time | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for end, row in rows.items():
        lines.append(
            f"| `{FLAGS.title}_{end}.tflite` | {row['net']} | {row['accuracy']:.1%} | "
            f"{row['macs'] / 1e6:.1f} | {ms[end]:.2f} | {ms[end] / ms['plain']:.2f} | "
            f"{row['bytes'] / 1e6:.2f} |"
        )
    shares = ", ".join(f"{share:.1%}" for share in rows["dynamic"]["exits"])
    same = (rows["dynamic"]["labels"] == plain["labels"]).mean()
    machine = describe_machine()
    lines += [
        "",
        f"On the {count} photos of test, {FLAGS.quantization}, batch 1, one thread of "
        f"{machine['cpu']}, files in turns. Thresholds were chosen on val. Of the "
        f"dynamic net's exits answer, first to last, {shares}; with {same:.1%} of the "
        "photos both nets say the same.",
    ]
    if FLAGS.notes is not None:
        lines += ["", Path(FLAGS.notes).read_text().strip()]
    arguments = " ".join(
        f'--{name} "{FLAGS[name].value}"'
        for name in ("dynamic", "plain", "seed", "accuracy_drop")
    )
    lines += ["", "```", f"python examples/publish_nets.py {arguments}", "```"]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    logging.set_verbosity(logging.ERROR)
    keras.utils.set_random_seed(FLAGS.seed)
    nets = chosen()
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)
    runs = Path(FLAGS.runs) / str(FLAGS.seed)
    models = {end: net.built(runs) for end, net in nets.items()}
    data = photo_folder(FLAGS.photos, models["plain"].input_shape[1])
    x, y = data.test.uint8_arrays()
    known = data.validation.uint8_arrays(), data.train.uint8_arrays()[0]
    files = {end: published(m, end, data, *known) for end, m in models.items()}
    rows = {end: measured(nets[end], file, x, y) for end, file in files.items()}
    some = [{"image": image} for image in x[:: max(1, len(x) // FLAGS.timed)]]
    calls = {end: (file, "classify", some) for end, file in files.items()}
    times = compare_latency(calls, rounds=3 * len(some))
    ms = {end: over_photos(taken) for end, taken in times.items()}
    numbers = kept_photos(rows["dynamic"]["exit"], FLAGS.shown)
    index = {
        "nets": [
            {"file": Path(file.path).name, "name": f"{FLAGS.title}: {ENDS[end]}"}
            for end, file in files.items()
        ],
        "photos": write_photos(numbers, x, [data.classes[label] for label in y]),
    }
    out = Path(FLAGS.out)
    write_whole(out / "index.json", (json.dumps(index, indent=1) + "\n").encode())
    text = card(rows, ms, len(x))
    write_whole(out / "README.md", text.encode())
    print(text)


if __name__ == "__main__":
    app.run(main)
