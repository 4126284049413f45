"""
Title: Search which gates a net should have
Description: Gates and exits under a budget, searched by keras-tuner: the Pareto front.

    python examples/search_gate_targets.py --budget macs:0.5x --trials 6

A net has many ways to spend half of its MACs: which chains of channels have gates, which
branches, in how many groups, taught how fast, with exits or without. The script tries
some of them for a few epochs each, refuses those that cannot keep to the budget before
they are trained, and prints the nets that no other beats, beside the untuned default,
which is the first trial: all chains in two groups, taught by `train_gates` as it comes.
Then the best choice and the default are both taught for longer. All are judged as files,
on test pictures that neither training nor search has seen.

Without --net and --photos it takes scikit-learn's handwritten digits and the small net of
gate_your_own_net.py, and some minutes: `pip install "keras_dyngate[examples,tuning]"` is
all that it needs. Cut off and run again, it goes on.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from gate_your_own_net import file_of, judged, small_net
from photo_folder import main_of, task

import keras_dyngate as kd

FLAGS = flags.FLAGS  # gate_your_own_net.py has defined net, photos, quantization, ...
flags.DEFINE_string("budget", "macs:0.5x", "What may be spent: see `kd.Budget`.")
flags.DEFINE_enum(
    "oracle", "random", ["random", "bayesian", "hyperband"], "What chooses trials."
)
flags.DEFINE_integer("trials", 6, "How many are trained.", 1)
flags.DEFINE_integer("long", 12, "Epochs of the best choice and of the default.", 1)
FLAGS.set_default("epochs", 4)
FLAGS.set_default("out", "outputs/search_gate_targets")
for name in ("net", "photos", "epochs", "quantization", "seed", "out"):
    flags.declare_key_flag(name)

DEFAULT = "0000"  # the trial that all searches begin with
SHOWN = 3  # points of the front that are made into files, the most accurate


def taught_longer(hypermodel: Any, values: Any, kept: Path) -> keras.Model:
    """The net of some choice, taught for longer; kept in a file."""
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        model, found = hypermodel.make(values, epochs=FLAGS.long, folder=kept.parent)
        print(f"{kept.parent.name}, {FLAGS.long} epochs: {found}")
        model.save(kept)
    return keras.models.load_model(kept, compile=False)


def search() -> None:
    keras.utils.set_random_seed(FLAGS.seed)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    net, _, train, validation, test = task(
        FLAGS.net, FLAGS.photos, small_net, FLAGS.seed, out / "plain.keras"
    )
    hypermodel = kd.DynamicHyperModel(
        net,
        train,
        validation,
        FLAGS.budget,
        epochs=FLAGS.epochs,
        exit_epochs=FLAGS.epochs,
        quantization=FLAGS.quantization,
        seed=FLAGS.seed,
    )
    front = kd.search_gates(
        hypermodel,
        oracle=FLAGS.oracle,
        max_trials=FLAGS.trials,
        directory=out,
        seed=FLAGS.seed,
    )
    print(front)
    front.save(out / "front.json")
    front.plot(out / "front.png")

    best = max(front.tried, key=lambda point: (point.kept, point.accuracy))
    known = {point.name: point for point in front.tried}
    rivals = {"best": best}
    if DEFAULT in known:  # it was not refused
        rivals = {"default": known[DEFAULT], **rivals}
    models = {"untouched": net}
    shown = sorted(front.points, key=lambda point: -point.accuracy)[:SHOWN]
    for point in (*rivals.values(), *shown):
        title = "default" if point.name == DEFAULT else f"trial {point.name}"
        models.setdefault(title, front.model(point))
    for title, point in rivals.items():
        kept = out / f"{title}_{FLAGS.long}_epochs" / f"{point.name}.keras"
        models[f"{title}, long"] = taught_longer(hypermodel, point.values, kept)

    rows = {}
    for title, model in models.items():
        path = out / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
        file = file_of(model, path, train[0])
        rows[title] = judged(file, test)
        few = [{"image": image} for image in test[0][:32].astype("float32")]
        times = [
            file.benchmark("classify", given, repeats=5).median_ms for given in few
        ]
        rows[title]["ms"] = float(np.mean(times))
    whole = rows["untouched"]["macs"]
    print(
        f"On the {len(test[1])} test pictures ({FLAGS.quantization}, {FLAGS.budget}):"
    )
    for title, row in rows.items():
        mark = " <- best within the budget" if title[6:] == best.name else ""
        print(
            f"{title:>14}: accuracy {row['accuracy']:.1%}, {row['macs'] / whole:.3f} of "
            f"the MACs, {row['ms']:.3f} ms{mark}"
        )
    names = ("budget", "oracle", "trials", "epochs", "long", "seed")
    settings = {name: FLAGS[name].value for name in names}
    found = {"rows": rows, "best": best.name, "settings": settings}
    (out / "result.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main_of(search))
