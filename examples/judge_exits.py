"""
Title: Exits on real photos, judged
Description: Thresholds from one half of val and test, results from the other, 20 times.

    python examples/judge_exits.py --runs outputs/exits_on_photos --seeds 0,1,2 \\
        --photos FOLDER

Reads what `exits_on_photos.py` and `gates_on_photos.py` wrote, for every seed in `--runs`;
see `exit_nets.py` for the nets. For each wish, an accuracy, weights of exits and thresholds
of least MACs come from one half. Then files are made of static nets, of every arm's heads
and of the cheapest dynamic nets (or of those that `--only` names), with the first seed's
weights, and each exit is timed beside the plain net's file, photo by photo: a time is the
shares' sum of those. `rows.json`, kept as it grows.
"""

import functools
import json
import os
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging
from exit_nets import (
    Arm,
    Net,
    dynamic_nets,
    plain_net,
    read,
    static_nets,
    taught_net,
)
from exit_rows import FIRST, Row, file_name, means, over_photos, reached
from photo_folder import photos

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.thresholds.search import Goal, search, search_shared
from keras_dyngate.thresholds.table import outcome

# Accuracies to reach: that of the plain net or of the one taught jointly, and some more.
WISHES = (
    *(("plain", more) for more in (-0.01, 0.0, 0.005, 0.01, 0.015, 0.02, 0.03)),
    *(("plain", more) for more in (0.04, 0.05, 0.06)),
    *(("taught", more) for more in (-0.003, 0.0, 0.003)),
    *(("best", more) for more in (-0.02, -0.01, -0.003, 0.0, 0.005)),
)
# What decides which nets are made files of: gain over what, at least.
TARGETS = (
    *(("plain", more) for more in (0.0, 0.015, 0.03, 0.04, 0.05)),
    *((name, -0.003) for name in ("taught", "best")),
)

FLAGS = flags.FLAGS
flags.DEFINE_string("runs", "outputs/exits_on_photos", "What was trained.")
flags.DEFINE_list("seeds", ["0"], "Which of them.")
flags.DEFINE_float(
    "margin",
    1.0,
    "Points on val by which what a cascade is of may trail a cheaper one.",
)
flags.DEFINE_integer("chosen", 2, "Exits chosen of the joint arm's, at most.", 0)
flags.DEFINE_enum(
    "thresholds",
    "shared",
    ["shared", "each"],
    "One for all exits of a net, or one for each.",
)
flags.DEFINE_integer("halves", 20, "Random halves of val and test.")
flags.DEFINE_list(
    "quantizations",
    ["float32", "dynamic", "int8"],
    "Files to time; int8_first: int8, a first net as well.",
)
flags.DEFINE_string("photos", None, "Folder of photos, for the files; none: no times.")
flags.DEFINE_integer("timed", 64, "Test photos that files are timed on.")
flags.DEFINE_integer("compared", 400, "Test photos that 8-bit files are compared on.")
flags.DEFINE_multi_string(
    "only", None, "Name of a net to make files of; none: the best of all kinds."
)
flags.DEFINE_string("out", "outputs/judge_exits", "Folder for rows.json and files.")


def chosen_on(
    net: Net, arms: dict[str, Arm], mine: np.ndarray, accuracies: list[float]
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """A net's mixing from some photos, and thresholds for each accuracy there."""
    weights = net.mixing(arms, mine)
    table = net.table(arms, mine, weights)
    choose = search_shared if FLAGS.thresholds == "shared" else search
    found = [choose(table, Goal(table.macs, accuracy=a)) for a in accuracies]
    return weights, [thresholds if kept else None for thresholds, kept in found]


def right_on(net: Net, arms: dict[str, Arm]) -> np.ndarray:
    """Which photos a static net is right on."""
    return net.scores(arms)[:, 0].argmax(-1) == arms[net.exits[0][0]].truth


def bases(arms: dict[str, Arm]) -> dict[str, Net]:
    """What accuracies are held against: "best" is the best static net of all photos."""
    best = max(static_nets(arms), key=lambda net: right_on(net, arms).mean())
    return {"plain": plain_net(arms), "taught": taught_net(arms), "best": best}


def judged(
    net: Net, arms: dict[str, Arm], against: dict[str, Net], halves: int
) -> list[Row]:
    """Accuracy and MACs of a net on fresh photos, for each wish that it keeps to."""
    truth = next(iter(arms.values())).truth
    base = {name: right_on(each, arms) for name, each in against.items()}
    total = plain_net(arms).macs(arms)[0, 0]
    validation = next(iter(arms.values())).validation
    everything = np.arange(len(truth))
    splits = [
        np.array_split(np.random.default_rng(number).permutation(everything), 2)
        for number in range(halves)
    ]
    splits.append(
        [everything[:validation], everything[validation:]]
    )  # the official one
    found: dict[Any, dict[int, Row]] = {wish: {} for wish in WISHES}
    for number, (mine, rest) in enumerate(splits):
        wanted = [float(base[name][mine].mean()) + more for name, more in WISHES]
        if len(net.exits) == 1:
            weights, every = np.eye(1), [np.zeros(0)] * len(WISHES)
        else:
            weights, every = chosen_on(net, arms, mine, wanted)
        fresh = net.table(arms, rest, weights)
        for wish, thresholds in zip(WISHES, every, strict=True):
            if thresholds is None:
                continue
            got = outcome(fresh, thresholds)
            row = {"accuracy": got.accuracy, "macs": got.macs / total}
            for name, right in base.items():
                row[f"over {name}"] = float(got.accuracy - right[rest].mean())
            found[wish][number] = {**row, "shares": list(got.shares)}
    rows = []
    for wish, each in found.items():
        official = each.pop(halves, None)
        if len(each) < halves:
            continue  # not reached on some half
        means = {
            key: np.mean([row[key] for row in each.values()], axis=0).tolist()
            for key in each[0]
        }
        deviation = float(np.std([row["over plain"] for row in each.values()]))
        rows.append({"wish": wish, **means, "deviation": deviation})
        rows[-1]["official"] = official
    return rows[:1] if len(net.exits) == 1 else rows


def rows_of(
    seed: str, net: Net, against: dict[str, Net], known: list[Row]
) -> list[Row]:
    """`judged`, with what the rows are of; those of an earlier run if nothing changed."""
    arms = read(Path(FLAGS.runs) / seed)
    said = WISHES, FLAGS.halves, against["best"].name, FLAGS.thresholds
    settings = repr(said).encode()
    digest = zlib.crc32(net.macs(arms).tobytes(), zlib.crc32(settings))
    digest = zlib.crc32(net.scores(arms).tobytes(), digest)
    about = {"net": net.name, "kind": net.kind, "seed": seed, "digest": digest}
    same = [row for row in known if about.items() <= row.items()]
    return same or [
        {**about, **row} for row in judged(net, arms, against, FLAGS.halves)
    ]


def family(row: Row) -> tuple[str, str]:
    """A kind, and the first net if there is one."""
    return row["kind"], row["net"].partition(",")[0] if "first" in row["net"] else ""


def points(rows: list[Row]) -> list[tuple[str, str, float, Row]]:
    """The cheapest nets of a family that reach each of `TARGETS`, as means over seeds."""
    dynamic = [r for r in means(rows, {}) if r["kind"] not in ("static", "heads")]
    found = []
    for base, least in TARGETS:
        best: dict[tuple[str, str], Row] = {}
        for row in reached(dynamic, base, least):
            best.setdefault(family(row), row)
        for (kind, _), row in sorted(best.items()):
            kept = {key: row[key] for key in ("net", "wish", "macs")}
            found.append((kind, base, least, kept))
    return found


def exported(net: Net, quantization: str, pictures: np.ndarray) -> kd.LiteRTModel:
    """The file of a net, exits closed until thresholds are given."""
    folder = Path(FLAGS.runs) / FLAGS.seeds[0]
    model = net.built(folder)
    if len(net.exits) > 1:
        arms = read(folder)
        mine = np.random.default_rng(0).permutation(arms["joint"].validation)
        truth = arms["joint"].truth
        wanted = taught_net(arms).scores(arms)[mine, 0].argmax(-1) == truth[mine]
        weights, (thresholds,) = chosen_on(
            net, arms, mine, [float(wanted.mean()) - 0.02]
        )
        model.mixing = weights
        closed = np.full(len(net.exits) - 1, np.inf)
        chosen = closed if thresholds is None else thresholds
        model.thresholds = np.clip(chosen, 0.0, 1.01)  # 1.01: of no probability
    options: dict[str, Any] = {"parity_data": False}
    options["quantization"] = quantization.removesuffix(FIRST)
    if quantization.endswith(FIRST):
        options["options"] = kd.GateOptions(first_net="int8")
    if quantization != "float32":
        options["representative_data"] = pictures
    path = Path(FLAGS.out) / "files" / file_name(net.name, quantization)
    path.parent.mkdir(parents=True, exist_ok=True)
    kd.export_tflite(model, path, **options)
    return kd.LiteRTModel(path)


@functools.cache
def some_photos(count: int) -> np.ndarray:
    """Test photos, evenly taken."""
    folder = Path(FLAGS.runs) / FLAGS.seeds[0]
    size = Net("", "", (("joint", 0),)).built(folder).input_shape[1]
    found = photos(FLAGS.photos, "test", size)[0].astype("float32")
    return found[:: max(1, len(found) // count)][:count]


def path_times(file: kd.LiteRTModel, plain: kd.LiteRTModel, exits: int) -> Row:
    """Mean time to each exit over that of the plain net's file, and that in ms."""
    pictures = [{"image": picture} for picture in some_photos(FLAGS.timed)]
    calls: dict[str, Any] = {"plain": (plain, "classify", pictures)}
    for index in range(exits):
        if exits == 1:
            calls["0"] = (file, "classify", pictures)
            break
        limits = limits_to(index, exits - 1)
        inputs = [{**picture, "thresholds": limits} for picture in pictures]
        calls[str(index)] = (file, "classify_at", inputs)
    times = compare_latency(calls, rounds=3 * len(pictures))
    # Of gated nets each photo has a time of its own.
    ms = {k: over_photos(t) for k, t in times.items()}
    unit = ms.pop("plain")
    return {"paths": [each / unit for each in ms.values()], "plain_ms": unit}


def answers(file: kd.LiteRTModel) -> np.ndarray:
    """Labels and exits `[2, N]` of photos."""
    found = [file.run("classify", image=p) for p in some_photos(FLAGS.compared)]
    exits = [int(np.ravel(f["exit"])[0]) if "exit" in f else 0 for f in found]
    return np.array([[int(np.ravel(f["label"])[0]) for f in found], exits])


def add_files(nets: list[Net], held: dict[str, Any], path: Path) -> None:
    """Put what files take, and agree on, into `held["files"]`, net by net."""
    arms = read(Path(FLAGS.runs) / FLAGS.seeds[0])
    plain = plain_net(arms)
    pictures = some_photos(FLAGS.timed)
    plain_files = {q: exported(plain, q, pictures) for q in FLAGS.quantizations}
    for net in nets:
        # what taught heads is nothing to a file's time
        twin = held["files"].get(net.name.replace(", untaught", ""), {})
        known = held["files"].setdefault(net.name, twin)
        if set(FLAGS.quantizations) <= set(known):
            continue
        said = None
        for quantization in FLAGS.quantizations:
            file = exported(net, quantization, pictures)
            now = answers(file)
            said = now if said is None else said
            agree = (said == now).mean(axis=1)
            known[quantization] = {
                **path_times(file, plain_files[quantization], len(net.exits)),
                "bytes": Path(file.path).stat().st_size,
                "agreement": {"labels": float(agree[0]), "exits": float(agree[1])},
            }
            print(net.name, quantization, known[quantization], flush=True)
        write_whole(path, json.dumps(held, indent=1).encode())


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    logging.set_verbosity(logging.ERROR)
    path = Path(FLAGS.out) / "rows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    held: dict[str, Any] = {"files": {}}
    if path.exists():
        held = json.loads(path.read_text())
    known, nets, rows = held.get("rows", []), {}, []
    for number, seed in enumerate(FLAGS.seeds, 1):
        arms = read(Path(FLAGS.runs) / seed)
        against = bases(arms)
        dynamic = dynamic_nets(arms, FLAGS.margin, FLAGS.chosen)
        for net in (*static_nets(arms), *dynamic):
            nets.setdefault(net.name, net)
            rows += rows_of(seed, net, against, known)
        later = [row for row in known if row["seed"] in FLAGS.seeds[number:]]
        held["rows"] = [*rows, *later]
        write_whole(path, json.dumps(held, indent=1).encode())
    held |= {**describe_machine(), "keras": keras.__version__}
    held |= {"targets": TARGETS, "points": points(rows)}
    write_whole(path, json.dumps(held, indent=1).encode())
    for row in sorted(rows, key=lambda row: (row["net"], row["seed"], row["macs"])):
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    for point in held["points"]:
        print(point)
    if FLAGS.photos is not None:
        best = {row["net"] for *_, row in held["points"]}
        timed = [n for n in nets.values() if n.kind in ("static", "heads")]
        timed += [nets[name] for name in sorted(best)]
        if FLAGS.only is not None:
            timed = [nets[name] for name in FLAGS.only]
        add_files(timed, held, path)
    print(f"{kd.__name__} {kd.__version__}: {path}")


if __name__ == "__main__":
    app.run(main)
