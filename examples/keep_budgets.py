"""
Title: Do budgets hold?
Description: Gates trained to several budgets of MACs and of milliseconds, from seeds.

    python examples/keep_budgets.py

trains a small net on scikit-learn's digits, adds channel and layer gates, and trains these
to spend .4, .55 and .7 of the plain net's MACs, and of its measured time, three seeds each.
Printed is what each run spends in the end: on the images that the budget is measured on
while training, and on validation images that it never saw. A run that was cut off goes on
after the last one that is finished.
"""

import functools
import itertools
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from gate_your_own_net import small_net
from photo_folder import one_line, task

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet

FLAGS = flags.FLAGS
flags.DEFINE_list("shares", ["0.4", "0.55", "0.7"], "Of the cost, to be spent.")
flags.DEFINE_list("units", ["macs", "ms"], "Of the cost.")
flags.DEFINE_integer("seeds", 3, "How many.", 1)
flags.DEFINE_integer("steps", 6, "Epochs of the gates' training.", 1)


net_of = functools.partial(small_net, width=2)  # where a gate costs less than it saves


def gated(net: keras.Model) -> keras.Model:
    """The net with gates on all its chains and branches."""
    price = [kd.GateSparsity(0.0, weighting="macs")]
    model = kd.add_channel_gates(net, groups=2, regularizers=price)
    return kd.add_layer_gates(model, regularizers=price)


def spent(model: keras.Model, table: kd.CostTable, x: np.ndarray) -> float:
    """Share of the plain net's cost, mean of some images."""
    return float(table.of(kd.decide(model, x)).mean()) / table.total


def run(
    found: Any, unit: str, share: float, seed: int, table: kd.CostTable
) -> dict[str, Any]:
    """One training, and what it spends in the end."""
    keras.utils.set_random_seed(seed)
    model = gated(found.net)
    x, y = found.train
    kd.train_gates(
        model,
        x,
        y,
        share,
        table=table if unit == "ms" else None,
        teacher=found.net,
        epochs=FLAGS.steps,
        learning_rate=2e-3,
        verbose=0,
        seed=seed,
    )
    table = table if unit == "ms" else kd.count_macs(model)
    images, labels = found.validation
    right = model.predict(images, verbose=0).argmax(-1) == labels
    return {
        "unit": unit,
        "share": share,
        "seed": seed,
        "spent": spent(model, table, x[:128]),
        "spent_unseen": spent(model, table, images),
        "accuracy": float(right.mean()),
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = out / "rows.json"
    keras.utils.set_random_seed(FLAGS.seed)
    with one_line():
        found = task(None, None, net_of, FLAGS.seed, out / "plain.keras")
        table_file = out / "table.json"
        if not table_file.exists():
            kd.measure_latency(gated(found.net)).save(table_file)
        table = kd.CostTable.load(table_file)
        print(table)
        done = json.loads(rows.read_text()) if rows.exists() else []
        every = itertools.product(
            FLAGS.units, map(float, FLAGS.shares), range(FLAGS.seeds)
        )
        for unit, share, seed in every:
            key = {"unit": unit, "share": share, "seed": seed}
            row = next((r for r in done if key.items() <= r.items()), None)
            if row is None:
                row = run(found, unit, share, seed, table)
                done.append(row)
                write_whole(rows, json.dumps(done, indent=1).encode())
            print(
                f"{unit} {share:.2f} seed {seed}: spends {row['spent']:.3f}, on unseen "
                f"images {row['spent_unseen']:.3f}, accuracy {row['accuracy']:.1%}",
                flush=True,
            )
    worst = max(abs(row["spent"] - row["share"]) for row in done)
    print(f"furthest from its budget: {worst:.3f}")


if __name__ == "__main__":
    app.run(main)
