"""
Title: Promises on real photos, judged
Description: How often thresholds lose more than wished, promised and plugged in.

    python examples/judge_promise.py --runs outputs/exits_on_photos --seed 0

Reads what `exits_on_photos.py` wrote. Of val and test together some photos are drawn to
choose thresholds that lose `--drop` of the accuracy at most, 200 times; the loss on the
others says whether that was kept. Promised thresholds (`calibrate(confidence=.9)`) stand
beside those that just keep to the wish on the drawn photos. `promise.json`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from exit_nets import Arm, Net, dynamic_nets, read

from keras_dyngate._files import write_whole
from keras_dyngate.thresholds.promise import path_rows
from keras_dyngate.thresholds.table import outcome
from keras_dyngate.thresholds.wish import Wish

FLAGS = flags.FLAGS
flags.DEFINE_string("runs", "outputs/exits_on_photos", "What was trained.")
flags.DEFINE_integer("seed", 0, "Which of it.")
flags.DEFINE_list("kinds", ["heads", "joint"], "Of nets, all of whose exits are used.")
flags.DEFINE_list("samples", ["300", "600", "1200"], "How many photos are drawn.")
flags.DEFINE_integer("splits", 200, "How often.")
flags.DEFINE_float("drop", 0.02, "Accuracy that may be lost.")
flags.DEFINE_float("confidence", 0.9, "Of the promise.")
flags.DEFINE_string("out", "outputs/judge_exits", "Folder for promise.json.")


def judged(
    net: Net, arms: dict[str, Arm], samples: int, confidence: float | None
) -> dict[str, Any]:
    """How often the wish is broken on photos that were not drawn, and MACs saved."""
    count, found = len(next(iter(arms.values())).truth), []
    wish = Wish(len(net.exits) - 1, accuracy_drop=FLAGS.drop, confidence=confidence)
    for split in range(FLAGS.splits):
        order = np.random.default_rng(split).permutation(count)
        mine, rest = order[:samples], order[samples:]
        fitted = mine if confidence is None else mine[path_rows(samples)]
        weights = net.mixing(arms, fitted)
        drawn, fresh = (net.table(arms, rows, weights) for rows in (mine, rest))
        try:
            got = outcome(fresh, wish.choose(drawn).thresholds)
        except ValueError:  # nothing can be promised: the plain net has to do
            found.append([0.0, 0.0, 1.0])
            continue
        found.append([got.head_accuracy - got.accuracy, 1 - got.macs_share, 0.0])
    loss, saved, refused = np.array(found).T
    return {
        "refused": float(refused.mean()),
        "broken": float((loss > FLAGS.drop + 1e-9).mean()),
        "loss": float(loss.mean()),
        "saved": float(saved.mean()),
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    arms = read(Path(FLAGS.runs) / str(FLAGS.seed))
    most: dict[str, Net] = {}  # of each arm the net with all its exits
    for net in dynamic_nets(arms, math.inf):
        if net.kind in FLAGS.kinds:
            arm = net.exits[-1][0]
            most[arm] = max(most.get(arm, net), net, key=lambda n: len(n.exits))
    rows = []
    for net in most.values():
        for samples in map(int, FLAGS.samples):
            row: dict[str, Any] = {"net": net.name, "samples": samples}
            row["promised"] = judged(net, arms, samples, FLAGS.confidence)
            row["plug-in"] = judged(net, arms, samples, None)
            rows.append(row)
            print(row, flush=True)
    held = {
        name: FLAGS[name].value for name in ("seed", "splits", "drop", "confidence")
    }
    path = Path(FLAGS.out) / "promise.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({**held, "rows": rows}, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
