"""
Title: Is a search under a budget better than a plain one?
Description: Two searches at equal training steps, paired over seeds; the distribution.

    python examples/compare_searches.py --seeds 10

One search is `kd.search_gates` as it comes: trials that cannot keep to the budget are
refused before they are trained, and the library's defaults are tried first. The other is
plain random search in the same space: it knows of the budget by the objective alone, so a
trial that cannot keep to it is trained to spend the least it can, and loses what it is
over. Both take the same net of a seed, the same pictures, and as many training steps in
all, the fewer of the two searches' own: what does not fit into these is not counted. What
each finds best on the validation pictures is judged on the test pictures.

Data are scikit-learn's handwritten digits, parted anew for each seed, and the net is the
small one of gate_your_own_net.py, trained anew. Each seed runs in a process of its own;
seeds that are done are not run again, and one that was cut off goes on.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from gate_your_own_net import small_net
from photo_folder import main_of, task

import keras_dyngate as kd
from keras_dyngate.tuning.judging import Judge
from keras_dyngate.tuning.results import results_in

FLAGS = flags.FLAGS  # gate_your_own_net.py has defined epochs, seed, out, ...
flags.DEFINE_integer("seeds", 10, "How many, from 0 on.", 1)
flags.DEFINE_integer("one", None, "Run this seed alone.", 0)
flags.DEFINE_string("budget", "macs:0.4x", "What may be spent: see `kd.Budget`.")
flags.DEFINE_enum("oracle", "random", ["random", "bayesian"], "Of the budgeted search.")
flags.DEFINE_integer("trials", 8, "Trainings of each search.", 1)
FLAGS.set_default("epochs", 4)
FLAGS.set_default("out", "outputs/compare_searches")
for name in ("epochs", "out"):
    flags.declare_key_flag(name)

ARMS = ("budgeted", "plain")


def counted(folder: Path, steps: float) -> list[Any]:
    """The trials that fit into so many steps, in the order they were run."""
    found, spent = [], 0.0
    for result in results_in(folder):
        spent += result.metrics.get("steps", 0.0)
        if spent > steps:
            break
        found += [result] if result.metrics else []
    return found


def searched(arm: str, net: Any, train: Any, validation: Any, out: Path) -> None:
    """One search, in its folder."""
    hypermodel = kd.DynamicHyperModel(
        net,
        train,
        validation,
        FLAGS.budget,
        epochs=FLAGS.epochs,
        refuse=arm == "budgeted",
        seed=FLAGS.one,
    )
    options = {"directory": out, "project": arm, "seed": FLAGS.one}
    if arm == "plain":
        options["start"] = []
    else:
        options["oracle"] = FLAGS.oracle
    kd.search_gates(hypermodel, max_trials=FLAGS.trials, **options)


def spent(folder: Path) -> float:
    """Training steps of all trials of a search."""
    return sum(result.metrics.get("steps", 0.0) for result in results_in(folder))


def run_one() -> None:
    """Both searches of a seed, and what their best nets are worth."""
    out = Path(FLAGS.out) / f"seed_{FLAGS.one}"
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.one)
    net, _, train, validation, test = task(
        None, None, small_net, FLAGS.one, out / "plain.keras"
    )
    judge = Judge((test[0], test[1]), False, None)
    whole = kd.count_macs(net).total
    for arm in ARMS:
        searched(arm, net, train, validation, out)
    steps = min(spent(out / arm) for arm in ARMS)
    found = {}
    for arm in ARMS:
        trials = counted(out / arm, steps)
        best = max(trials, key=lambda result: result.metrics["objective"])
        model = keras.models.load_model(best.folder / "model.keras", compile=False)
        table = kd.count_macs(model)
        wanted = kd.Budget(FLAGS.budget).value * whole
        on_test = judge(model, table, whole=whole, wanted=wanted, folder=None)
        found[arm] = {
            "trained": len(trials),
            "kept_budget": sum(r.metrics["kept"] for r in trials),
            "refused": sum(r.refused is not None for r in results_in(out / arm)),
            "steps": sum(r.metrics["steps"] for r in trials),
            "best": best.name,
            "validation": best.metrics,
            "test": on_test,
        }
    (out / "result.json").write_text(json.dumps(found, indent=1))


def sign_test(differences: Any) -> float:
    """Two-sided p of as many wins or losses by chance; ties do not count."""
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    count = wins + losses
    ways = sum(math.comb(count, k) for k in range(max(wins, losses), count + 1))
    return min(1.0, 2 * ways / 2**count)


def report(found: list[dict[str, Any]]) -> None:
    """Each seed's line, and the distribution of the differences."""
    print(f"{FLAGS.budget}, {FLAGS.trials} trainings of {FLAGS.epochs} epochs each")
    for seed, pair in enumerate(found):
        line = []
        for arm in ARMS:
            one = pair[arm]
            line.append(
                f"{arm} {one['test']['val_accuracy']:.1%} at "
                f"{one['test']['val_cost']:.3f} ({one['trained']} trained, "
                f"{one['kept_budget']:.0f} in budget, {one['refused']} refused)"
            )
        print(f"seed {seed}: {'; '.join(line)}")
    for key, title in (("objective", "objective"), ("val_accuracy", "accuracy")):
        values = [[pair[arm]["test"][key] for arm in ARMS] for pair in found]
        differences = np.subtract(*np.array(values).T) * 100
        low, middle, high = np.quantile(differences, (0.25, 0.5, 0.75))
        wins, losses = (differences > 0).sum(), (differences < 0).sum()
        print(
            f"test {title}, budgeted minus plain, points: mean {differences.mean():+.1f}, "
            f"median {middle:+.1f}, quartiles {low:+.1f} and {high:+.1f}, from "
            f"{differences.min():+.1f} to {differences.max():+.1f}; {wins} better, "
            f"{losses} worse of {len(differences)}, "
            f"sign test p={sign_test(differences):.3f}"
        )


def compare() -> None:
    found = []
    for seed in range(FLAGS.seeds):
        path = Path(FLAGS.out) / f"seed_{seed}" / "result.json"
        if not path.exists():  # a process each: TensorFlow keeps what it compiled
            names = ("budget", "oracle", "trials", "epochs", "out")
            given = [f"--{name}={FLAGS[name].value}" for name in names]
            command = [sys.executable, __file__, f"--one={seed}", *given]
            subprocess.run(command, check=True)
        found.append(json.loads(path.read_text()))
    report(found)
    (Path(FLAGS.out) / "result.json").write_text(json.dumps(found, indent=1))


def main() -> None:
    compare() if FLAGS.one is None else run_one()


if __name__ == "__main__":
    app.run(main_of(main))
