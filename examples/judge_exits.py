"""
Title: Exits on real photos, judged
Description: Thresholds from one half of val and test, results from the other, 20 times.

    python examples/judge_exits.py --runs outputs/exits_on_photos --seeds 0,1,2 \\
        --photos FOLDER

Reads what `exits_on_photos.py` wrote, for every seed in `--runs`. Candidates are the arms'
exits, first nets before them, and static nets: the net itself ("plain"), taught jointly
("taught"), each exit's head alone ("cut after"), first nets alone. Exits combine; their
weights come from the same half as the thresholds. The cheapest candidates with and without
a first net are made files of, from the first seed's nets, and each exit is timed beside the
plain net's file, photo by photo: a time is the shares' sum of those. `rows.json`.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging
from photo_folder import photos

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.calibration.exit_search import Goal, search
from keras_dyngate.calibration.exit_table import ExitTable, outcome
from keras_dyngate.calibration.mixing import fit_mixing, mix
from keras_dyngate.export import quiet
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.runtime.exit_places import limits_to

NEAR = 0.003  # of what was wished, that counts as reached

FLAGS = flags.FLAGS
flags.DEFINE_string("runs", "outputs/exits_on_photos", "What was trained.")
flags.DEFINE_list("seeds", ["0"], "Which of them.")
flags.DEFINE_integer("halves", 20, "Random halves of val and test.")
flags.DEFINE_list("quantizations", ["float32", "dynamic", "int8"], "Files to time.")
flags.DEFINE_string("photos", None, "Folder of photos, for the files; none: no times.")
flags.DEFINE_integer("timed", 64, "Test photos that files are timed on.")
flags.DEFINE_string("out", "outputs/judge_exits", "Folder for rows.json.")


class Arm:
    """What one arm of one seed says of val and test, and what it costs."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        held = np.load(folder / "scores.npz")
        self.places, self.names = about["places"], about["names"]
        self.first_size = about.get("first_size", 128)
        self.stage_macs, self.head_macs = about["stage_macs"], about["head_macs"]
        parts = [held["val_scores"], held["test_scores"]]
        self.scores = np.concatenate(parts)
        self.truth = np.concatenate([held["val_truth"], held["test_truth"]])

    @property
    def trunk_macs(self) -> list[int]:
        """MACs of the trunk up to each exit, heads apart."""
        own = np.array(self.stage_macs) - np.array([*self.head_macs, 0])
        return np.cumsum(own).tolist()


def candidate(
    exits: list[tuple[np.ndarray, float, float]], truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores `[N, n, classes]` of some exits and the MACs to each.

    Args:
        exits: (scores, MACs of the trunk up to it, MACs of its head), the last answers.
        truth: Labels.
    """
    heads = np.cumsum([head for _, _, head in exits])
    macs = np.array([trunk for _, trunk, _ in exits]) + heads
    return np.stack([scores for scores, _, _ in exits], axis=1), macs


def table_of(scores: np.ndarray, macs: np.ndarray, truth: np.ndarray) -> ExitTable:
    """A table by the largest probability, from scores that were mixed."""
    top = scores.max(-1, keepdims=True)
    confidence = 1 / np.exp(scores - top).sum(-1)
    spent = np.tile(macs, (len(truth), 1))
    return ExitTable(
        confidence[:, :-1].astype("float32"), scores.argmax(-1), spent, truth
    )


def judged(
    scores: np.ndarray, macs: np.ndarray, truth: np.ndarray, wanted: np.ndarray
) -> dict[str, float] | None:
    """Accuracy and MACs on fresh halves, thresholds for an accuracy on the others.

    Args:
        scores, macs: Of a candidate.
        truth: Labels.
        wanted: Right answers of what is to be reached, bool `[N]`.
    """
    found = []
    for split in range(FLAGS.halves):
        order = np.random.default_rng(split).permutation(len(truth))
        first, second = np.array_split(order, 2)
        weights = fit_mixing(scores[first], truth[first], combine=True)
        mixed = mix(scores, weights).astype("float32")
        mine = table_of(mixed[first], macs, truth[first])
        goal = Goal(mine.macs, accuracy=float(wanted[first].mean()))
        thresholds, kept = search(mine, goal)
        if not kept:
            continue
        fresh = outcome(table_of(mixed[second], macs, truth[second]), thresholds)
        found.append(
            [fresh.accuracy - wanted[second].mean(), fresh.accuracy, fresh.macs]
            + list(fresh.shares)
        )
    if len(found) < FLAGS.halves:
        return None
    mean = np.mean(found, axis=0)
    return {
        "gain": float(mean[0]),
        "accuracy": float(mean[1]),
        "macs": float(mean[2]),
        "shares": mean[3:].tolist(),
        "deviation": float(np.std([row[0] for row in found])),
    }


def candidates(arms: dict[str, Arm]) -> dict[str, Any]:
    """Every dynamic net that the arms make: name to (scores, MACs)."""
    made: dict[str, Any] = {}
    joint = arms["joint"]
    trunk, heads = joint.trunk_macs, [*joint.head_macs, 0]
    own = f"first {joint.first_size}"
    firsts = {own: (joint.scores[:, 0], 0.0, float(heads[0]))}
    for name, arm in arms.items():
        if name.startswith("first_"):
            title = name.replace("_", " ")
            firsts[title] = (arm.scores[:, 0], 0.0, float(arm.head_macs[0]))
    inside = [
        (joint.scores[:, k], float(trunk[k]), float(heads[k]))
        for k in range(1, len(heads))
    ]
    *exits, head = inside
    for count in range(len(exits) + 1):
        for chosen in itertools.combinations(range(len(exits)), count):
            some = [exits[k] for k in chosen]
            title = ", ".join(joint.places[k + 1] for k in chosen) or "no exits"
            if some:
                made[f"joint: {title}"] = candidate([*some, head], joint.truth)
            for name, first in firsts.items():
                made[f"{name}, joint: {title}"] = candidate(
                    [first, *some, head], joint.truth
                )
    for name in ("linear", "conv", "separable", "conv_untaught", "separable_untaught"):
        if name in arms:
            arm = arms[name]
            costs = zip(arm.trunk_macs, [*arm.head_macs, 0], strict=True)
            every = [
                (arm.scores[:, k], float(t), float(h)) for k, (t, h) in enumerate(costs)
            ]
            made[name] = candidate(every, arm.truth)
    return made


def statics(arms: dict[str, Arm], plain: np.ndarray) -> dict[str, tuple[float, float]]:
    """Static nets: accuracy on val and test, and MACs."""
    joint = arms["joint"]
    right = joint.scores.argmax(-1) == joint.truth[:, None]
    accuracy, total = right.mean(0), joint.trunk_macs[-1]
    found = {
        "plain": (float(plain.mean()), float(total)),
        "taught": (float(accuracy[-1]), float(total)),
    }
    for index, place in enumerate(joint.places[:-1]):
        macs = joint.trunk_macs[index] + joint.head_macs[index]
        first = f"first {joint.first_size} alone"
        name = first if index == 0 else f"cut after {place}"
        found[name] = (float(accuracy[index]), float(macs))
    for name, arm in arms.items():
        if name.startswith(("first_", "plain_")):
            own = (arm.scores[:, 0].argmax(-1) == arm.truth).mean()
            found[f"{name.replace('_', ' ')} alone"] = (
                float(own),
                float(arm.head_macs[0]),
            )
    return found


def best(rows: list[dict[str, Any]]) -> list[str]:
    """The cheapest joint candidates that reach each wish, with a first net and without."""
    found: dict[Any, tuple[float, str]] = {}
    for name in {row["dynamic"] for row in rows if "joint:" in row.get("dynamic", "")}:
        for wish in ("plain", "taught"):
            mine = [r for r in rows if r.get("dynamic") == name and r["wish"] == wish]
            if mine and np.mean([row["gain"] for row in mine]) >= -NEAR:
                key = wish, name.startswith("first")
                macs = float(np.mean([row["macs"] for row in mine]))
                found[key] = min(found.get(key, (np.inf, "")), (macs, name))
    return sorted({name for _, name in found.values()})


def path_times(name: str, quantization: str, folder: Path) -> list[float]:
    """Time to each exit of a candidate's file, over that of the plain net's file."""
    whole = keras.models.load_model(folder / "joint" / "net.keras")
    first, _, places = name.rpartition("joint: ")
    wanted = [] if places == "no exits" else places.split(", ")
    gates = dict(zip(whole.after, whole.gates, strict=True))
    chosen = {place: gates[place] for place in wanted}
    if first:
        size = first.split()[1].rstrip(",")
        other = folder / f"first_{size}" / "net.keras"
        gate = next(iter(gates.values()))
        if other.exists():
            gate = keras.models.load_model(other).gates[0]
        chosen = {whole.after[0]: gate, **chosen}
    model = kd.EarlyExitModel(
        whole.trunk, list(chosen), list(chosen.values()), combine=True
    )
    exits = len(chosen) + 1
    model.thresholds, model.mixing = (
        [1.0] * len(chosen),
        np.tril(np.ones((exits, exits))),
    )
    found = photos(FLAGS.photos, "test", whole.input_shape[1])[0].astype("float32")
    pictures = found[:: max(1, len(found) // FLAGS.timed)][: FLAGS.timed]
    options: dict[str, Any] = {"parity_data": False, "quantization": quantization}
    if quantization != "float32":
        options["representative_data"] = pictures
    candidates: dict[str, Any] = {}
    for title, net in (("exits", model), ("plain", whole.trunk)):
        path = Path(FLAGS.out) / f"{title}_{quantization}.tflite"
        kd.export_tflite(net, path, **options)
        candidates[title] = kd.LiteRTModel(path)
    file, plain = candidates.values()
    calls: dict[str, Any] = {
        "plain": (plain, "classify", [{"image": picture} for picture in pictures])
    }
    for index in range(exits):
        limits = limits_to(index, exits - 1)
        inputs = [{"image": picture, "thresholds": limits} for picture in pictures]
        calls[str(index)] = (file, "classify_at", inputs)
    times = compare_latency(calls, rounds=3 * len(pictures))
    unit = float(np.median(times.pop("plain")))
    return [float(np.median(each)) / unit for each in times.values()]


def add_times(rows: list[dict[str, Any]], folder: Path) -> None:
    """Put `time` by quantization into the rows of the best candidates."""
    for name in best(rows):
        for quantization in FLAGS.quantizations:
            shares = path_times(name, quantization, folder)
            for row in rows:
                if row.get("dynamic") == name:
                    expected = float(np.dot(row["shares"], shares))
                    row.setdefault("time", {})[quantization] = expected
                    row.setdefault("path_times", {})[quantization] = shares


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    logging.set_verbosity(logging.ERROR)
    rows: list[dict[str, Any]] = []
    for seed in FLAGS.seeds:
        folders = sorted((Path(FLAGS.runs) / seed).iterdir())
        arms = {
            folder.name: Arm(folder)
            for folder in folders
            if (folder / "scores.npz").exists()
        }
        truth = arms["joint"].truth
        other = next(arm for name, arm in arms.items() if name != "joint")
        plain = other.scores[:, -1].argmax(-1) == truth
        taught = arms["joint"].scores[:, -1].argmax(-1) == truth
        total = arms["joint"].trunk_macs[-1]
        for name, (accuracy, macs) in statics(arms, plain).items():
            rows.append(
                {
                    "seed": seed,
                    "static": name,
                    "accuracy": accuracy,
                    "macs": macs / total,
                }
            )
        for name, (scores, macs) in candidates(arms).items():
            for wish, wanted in (("plain", plain), ("taught", taught)):
                found = judged(scores, macs, truth, wanted)
                if found is not None:
                    found["macs"] /= total
                    rows.append({"seed": seed, "dynamic": name, "wish": wish, **found})
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    if FLAGS.photos is not None:
        add_times(rows, Path(FLAGS.runs) / FLAGS.seeds[0])
    for row in sorted(rows, key=lambda row: row["macs"]):
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    about = {**describe_machine(), "keras": keras.__version__, "rows": rows}
    write_whole(out / "rows.json", json.dumps(about, indent=1).encode())
    print(f"{kd.__name__} {kd.__version__}: {out / 'rows.json'}")


if __name__ == "__main__":
    app.run(main)
