"""
Title: Gates on real photos, taught
Description: Layer gates and channel gates at several budgets, and rivals without a gate.

    python examples/gates_on_photos.py --net net.keras --photos FOLDER --seed 0 \\
        --arm layers_70,halves_70,removed_70

Begins where `exits_on_photos.py --arm joint` ended: the net is taught by that arm's
head, as the static nets of its `beside` are, and as long as they. What each arm says of
the photos of val and test, and what that costs, goes into the same folders,
`--out`/seed/arm, for `judge_exits.py`. The number is the share of the MACs to spend, in
percent.

layers_70       whole residuals are gated
halves_70       halves of the channels of each chain are, and primed
both_70         both
removed_70      residuals of layers_70 that fewer photos used are left out for all of
                them, up to the same MACs: a static net
layers_70_bas   an ending changes one thing: "bas", batch shaping beside the price (L0);
                "salience", gates that scale, and their L1; "untaught", by labels alone;
                "unmixed", without mixtures; "unprimed", all gates open at first;
                "strong", more variation of the photos
layers_70_further begins with the net that the joint arm taught, and not with --net
layers_70_exits that net, which then teaches separable heads; its gates stay

Endings go together: layers_70_further_exits.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from photo_folder import photos
from photo_scores import begun, define_flags, main_of, write_scores

import keras_dyngate as kd
from keras_dyngate.callbacks.decision_statistics import decision_statistics
from keras_dyngate.models.exits.fitting import exit_scores

FLAGS = flags.FLAGS
define_flags("layers_70")
flags.DEFINE_integer("epochs", 20, "Of the teaching.")
flags.DEFINE_float("learning_rate", 1e-3, "At its start.")

LEAST = 0.02  # of the MACs: chains with less are left alone


def parts_of(arm: str) -> tuple[str, float, set[str]]:
    """Kind, share and endings of an arm's name."""
    kind, share, *endings = arm.split("_")
    return kind, int(share) / 100, set(endings)


def gated(net: keras.Model, arm: str) -> keras.Model:
    """The net with gates, whose price the budget sets."""
    kind, share, endings = parts_of(arm)
    scaled = "salience" in endings
    norm = "l1" if scaled else "l0"
    options: dict[str, Any] = {
        "gate": "salience" if scaled else "binary",
        "regularizers": [kd.GateSparsity(0.0, weighting="macs", norm=norm)],
    }
    if "bas" in endings:
        options["regularizers"].append(kd.BatchShaping(share, 1 - share))
    if kind != "layers":
        net = kd.add_channel_gates(net, LEAST, groups=2, **options)
    if kind != "halves":
        net = kd.add_layer_gates(net, **options)
    return net


def taught(arm: str, net: keras.Model, teacher: keras.Model, path: Path) -> keras.Model:
    """The net of an arm, trained."""
    kind, share, endings = parts_of(arm)
    train = photos(FLAGS.photos, "train", net.input_shape[1])
    options: dict[str, Any] = {
        "epochs": FLAGS.epochs,
        "learning_rate": FLAGS.learning_rate,
        "teacher": None if "untaught" in endings else teacher,
        "checkpoint": path,
        "seed": FLAGS.seed,
    }
    if "unmixed" in endings:
        options["mixtures"] = 0.0
    if "strong" in endings:
        options["augmentation"] = "strong"
    if kind == "removed":
        rival = sibling(path, arm.replace(kind, "layers"))
        gated_net = keras.models.load_model(rival, compile=False)
        model = without(net, unused(net, gated_net, share, train[0]))
        kd.fine_tune(model, *train, **options)
        return model
    if "exits" in endings:
        gates = keras.models.load_model(
            sibling(path, arm.removesuffix("_exits")), compile=False
        )
        places = [known_as(gates, place) for place in FLAGS.after]
        model = kd.add_decision_gates(gates, places, head="separable")
        del options["teacher"], options["learning_rate"]  # the net itself, and its own
        model.fit_gates(*train, **options)
        return model
    model = gated(net, arm)
    primed = not endings & {"unprimed", "salience"}
    kd.train_gates(model, *train, share, prime=primed, **options)
    return model


def sibling(path: Path, arm: str) -> Path:
    """The net of another arm."""
    return path.parent.parent / arm / "net.keras"


def known_as(model: keras.Model, place: str) -> str:
    """The name of a sum, or of what gates the residual that it ended."""
    return place if place in {x.name for x in model.layers} else f"gated_{place}"


def unused(net: keras.Model, gated_net: keras.Model, share: float, x: Any) -> list[str]:
    """Sums of residuals that fewer photos use, so many that the rest costs the share."""
    rates = decision_statistics(kd.decide(gated_net, x, batch_size=64))["layers"]
    places = [place for place in kd.gateable(net) if place.kind == "layer"]
    left, found = 1.0, []
    for place in sorted(places, key=lambda p: rates[f"gated_{p.name}/layer"]):
        if left > share:
            found.append(place.name)
            left -= place.share
    return found


def without(net: keras.Model, sums: list[str]) -> keras.Model:
    """The same net, weights copied, in which these sums are their first input."""
    order = [layer.name for layer in net.layers]

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if layer.name not in sums:
            return layer(*args, **kwargs)
        return min(args[0], key=lambda x: order.index(x._keras_history.operation.name))

    found = keras.models.clone_model(net, call_function=call)
    for layer in found.layers:
        layer.set_weights(net.get_layer(layer.name).get_weights())
    return found


def run(arm: str) -> None:
    folder = begun(arm)
    if folder is None:
        return
    net = keras.models.load_model(FLAGS.net, compile=False)
    joint = keras.models.load_model(folder.parent / "joint" / "net.keras")
    begin = joint.trunk if "further" in parts_of(arm)[2] else net
    model = taught(arm, begin, joint.trunk, folder / "taught.npz")
    costs = kd.count_macs(model)
    exits = len(getattr(model, "gates", ())) + 1
    about: dict[str, Any] = {
        "places": [*getattr(model, "after", ()), None],
        "names": [*(gate.name for gate in getattr(model, "gates", ())), "head"],
        "first_size": None,
        "head_macs": [0] * (exits - 1),  # `macs` holds them
        "stage_macs": [costs.total, *[0] * (exits - 1)],
    }
    static = parts_of(arm)[0] == "removed"

    def said(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        if exits == 1:
            scores = model.predict(x, batch_size=64, verbose=0)[:, None]
        else:
            scores = exit_scores(model, x, y, batch_size=64).scores
        if static:
            return {"scores": scores}
        decisions = kd.decide(model, x, batch_size=64)
        used = decision_statistics(decisions)
        about["decisions"] = {k: v for k, v in used.items() if k != "gates"}
        left = [np.full((len(x), 1), number) for number in range(exits)]
        macs = [costs.of({**decisions, "exit": each}) for each in left]
        return {"scores": scores, "macs": np.stack(macs, axis=1)}

    write_scores(folder, model, about, said)


if __name__ == "__main__":
    app.run(main_of(run))
