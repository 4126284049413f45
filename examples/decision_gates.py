"""
Title: Leave early when it is easy
Description: Decision gates on a trained, frozen ResNet: the curve, an ablation, a file.

    python examples/decision_gates.py --weights resnet56.npz --data cifar10.npz

Gates are fitted on the training images (and on shifted and mirrored copies of them); the
trunk is not touched. Test images are split in halves again and again: thresholds come
from one half, results from the other. The table gives {hinge, cross-entropy} x {largest
score, margin, entropy} on the same trunk; with `--head separable` (or "conv") the trunk
teaches convolutional heads instead, which answer together, and `--more` pictures teach
without labels; with `--joint_epochs` the trunk then learns with them. `--before` asks whole
nets first instead, small ones that were taught apart, and nothing is trained. At last one
file is exported, and timed on the images that its thresholds were not chosen on.
`--weights` is an .npz with PyTorch names (or a .keras file); for `--data` see
cifar_npz.py. Results go to `--out`.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar_npz
import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.models.exits.fitting import ExitScores, exit_scores
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.thresholds.mixing import fit_mixing
from keras_dyngate.thresholds.table import outcome
from keras_dyngate.thresholds.wish import Wish, sweep
from keras_dyngate.visualization import exit_curves

# Objective to confidences: of linear gates, and of heads.
CELLS = {
    True: dict.fromkeys(("cross_entropy", "hinge"), ("entropy", "score", "margin")),
    False: {"cross_entropy": ("probability",)},
}
WHOLE = {"whole nets": ("probability",)}

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "Weights of the plain net.", required=True)
flags.DEFINE_string("data", None, ".npz with the images and labels.", required=True)
flags.DEFINE_integer("depth", 56, "Of the net: 20, 32, 44, 56 or 110.")
flags.DEFINE_list("after", ["stage1_block5", "stage2_block5"], "Where the gates are.")
flags.DEFINE_enum("head", "linear", ["linear", "conv", "separable"], "Kind of exits.")
flags.DEFINE_string("pooling", "avg4x4", 'Of the gates: "avg", "avg4x4" or "flatten".')
flags.DEFINE_integer(
    "copies", 10, "Shifted and mirrored copies of the training images."
)
flags.DEFINE_integer("epochs", 15, "Of each gate, or of heads.")
flags.DEFINE_integer("joint_epochs", 0, "Of heads and trunk together.")
flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16"], "Keras' dtype policy."
)
flags.DEFINE_string("more", None, ".npz whose x_train teach heads too, without labels.")
flags.DEFINE_integer(
    "more_limit", None, "How many of those, every n-th from the first; default: all."
)
flags.DEFINE_float("weight_decay", 1e-3, "Of each gate.")
flags.DEFINE_integer("splits", 20, "Of the test images into halves.")
flags.DEFINE_float("drop", 0.02, "Accuracy that may be lost.")
flags.DEFINE_list("shares", [], "Of the plain net's MACs: the accuracy there, too.")
flags.DEFINE_enum(
    "thresholds",
    "shared",
    ["shared", "each"],
    "One for all exits that answer together, or one for each.",
)
flags.DEFINE_list("before", [], ".keras nets to ask first, cheap ones first.")
flags.DEFINE_string("quantization", "none", "Of the file: none, dynamic or int8.")
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_string("out", "outputs/decision_gates", "Folder for files and figures.")


def varied(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of the pictures, then of `--copies` of them."""
    found = [(x, y), *((cifar_npz.copies(x, rng), y) for _ in range(FLAGS.copies))]
    return [
        (images[i : i + 256], labels[i : i + 256])
        for images, labels in found
        for i in range(0, len(labels), 256)
    ]


def linear_gates(trunk: keras.Model, objective: str, batches: list[Any]) -> Any:
    """The trunk with gates, each fitted on its own."""
    model = kd.add_decision_gates(
        trunk, FLAGS.after, pooling=FLAGS.pooling, objective=objective
    )
    fits = model.fit_gates(
        batches, epochs=FLAGS.epochs, weight_decay=FLAGS.weight_decay
    )
    print(objective, {name: f"{fit.accuracy:.3f}" for name, fit in fits.items()})
    return model


def heads(
    trunk: keras.Model, objective: str, x: np.ndarray, y: np.ndarray, out: Path
) -> Any:
    """The trunk with heads that it taught, by its answers alone if `--more` teach."""
    model = kd.add_decision_gates(
        trunk, FLAGS.after, head=FLAGS.head, objective=objective, combine=True
    )
    truth: np.ndarray | None = y
    if FLAGS.more is not None:
        with np.load(FLAGS.more, allow_pickle=False) as file:
            more = file["x_train"]
        more = more[:: max(1, len(more) // (FLAGS.more_limit or len(more)))]
        x = np.concatenate([x, more[: FLAGS.more_limit].astype("float32")])
        truth = None
    rng = np.random.default_rng(FLAGS.seed)
    model.fit_gates(
        x,
        truth,
        epochs=FLAGS.epochs,
        joint_epochs=FLAGS.joint_epochs,
        weight_decay=FLAGS.weight_decay,
        augmentation=lambda images: cifar_npz.copies(images, rng),
        checkpoint=out / "taught",
        seed=FLAGS.seed,
    )
    return model


def interval(values: list[float]) -> dict[str, float]:
    """Mean, and the range that holds 95 % of the splits."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def shared(model: Any) -> bool:
    """Whether all exits get the same threshold."""
    return bool(model.combine) and FLAGS.thresholds == "shared"


def judge(
    model: Any,
    scores: ExitScores,
    drop: float,
    splits: int,
    seed: int,
    shares: list[float],
) -> dict[str, Any]:
    """Thresholds from one half of the samples, results from the other, many times.

    Exits that answer together have their weights from the first half too.
    """
    rng, points, chosen = np.random.default_rng(seed), [], []
    plain, one = kd.count_macs(model.trunk).total, shared(model)
    budgets: dict[float, list[Any]] = {share: [] for share in shares}
    for _ in range(splits):
        order = rng.permutation(len(scores.scores))
        halves = scores.take(order[::2]), scores.take(order[1::2])
        if model.combine:
            known = halves[0]
            model.mixing = fit_mixing(known.scores, known.truth, combine=True)
        first, second = (half.table(model) for half in halves)
        points.append(sweep(first, second, points=39, path_ms=None))
        wish = Wish(len(model.gates), accuracy_drop=drop, shared=one)
        found = wish.choose(first)
        chosen.append(outcome(second, found.thresholds))
        for share, had in budgets.items():
            wish = Wish(len(model.gates), macs=share * plain, shared=one)
            had.append(outcome(second, wish.choose(first).thresholds))
    curve = [
        {
            "macs_share": interval([p.macs_share for p in same]),
            "drop": interval([p.head_accuracy - p.accuracy for p in same]),
        }
        for same in zip(*points, strict=True)
    ]
    return {
        "curve": curve,
        "points": points[0],
        "at": {
            f"{share:g}": {
                "accuracy": interval([o.accuracy for o in had]),
                "macs_share": interval([o.macs / plain for o in had]),
            }
            for share, had in budgets.items()
        },
        "saved": interval([1 - o.macs_share for o in chosen]),
        "drop": interval([o.head_accuracy - o.accuracy for o in chosen]),
        "best_saved_on_the_mean_curve": max(
            [1 - p["macs_share"]["mean"] for p in curve if p["drop"]["mean"] <= drop],
            default=0.0,
        ),
    }


def time_file(
    model: Any, out: Path, test: cifar_npz.Split, train: Any
) -> dict[str, Any]:
    """The file beside the plain net, each image in turn; every figure in ms."""
    half = len(test.x) // 2
    known = test.x[:half], test.y[:half]
    model.calibrate(*known, accuracy_drop=FLAGS.drop, shared=shared(model))
    images, labels = test.x[half:], test.y[half:]
    quantization = None if FLAGS.quantization == "none" else FLAGS.quantization
    options = {"quantization": quantization, "representative_data": train}
    report = kd.export_tflite(
        model, out / "exits.tflite", parity_data=images, **options
    )
    print(report)
    plain = kd.export_tflite(model.trunk, out / "plain.tflite", **options)
    file, plain_file = (kd.LiteRTModel(r.path) for r in (report, plain))

    gates = len(model.gates)
    pictures = [{"image": image} for image in images]
    candidates: dict[str, Any] = {
        "plain": (plain_file, "classify", pictures),
        "own exits": (file, "classify", pictures),
    }
    for exit_index in range(gates + 1):
        limits = limits_to(exit_index, gates)
        inputs = [{**picture, "thresholds": limits} for picture in pictures]
        candidates[f"to exit {exit_index}"] = (file, "classify_at", inputs)
    times = compare_latency(candidates, rounds=3 * len(images))
    found = file.evaluate((images, labels))
    shares = np.bincount(found["exit"], minlength=gates + 1) / len(images)
    paths = [times[f"to exit {i}"].mean() for i in range(gates + 1)]
    return {
        "thresholds": np.nan_to_num(model.thresholds).tolist(),
        "accuracy": found["accuracy"],
        "plain_accuracy": plain_file.evaluate((images, labels))["accuracy"],
        "macs_share": found["mean_executed_macs"] / report.macs.per_exit[-1],
        "shares": shares.tolist(),
        "mean_ms": {name: float(t.mean()) for name, t in times.items()},
        "mean_over_paths": float(times["own exits"].mean() / np.dot(shares, paths)),
        "last_exit_over_plain": float(
            np.median(times[f"to exit {gates}"] / times["plain"])
        ),
        "mean_over_plain": float(times["own exits"].mean() / times["plain"].mean()),
        "bytes": report.bytes,
        "bytes_over_plain": report.bytes / plain.bytes,
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.precision)
    rng = np.random.default_rng(FLAGS.seed)
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    train, validation, test = cifar_npz.load(FLAGS.data)
    # The gates need no validation data: all training images are theirs.
    x, y = (np.concatenate(pair) for pair in zip(train, validation, strict=True))
    trunk = getattr(kd, f"resnet{FLAGS.depth}")(weights=FLAGS.weights)
    results: dict[str, Any] = {
        "settings": {
            name: FLAGS[name].value
            for name in (
                "depth after head pooling copies epochs joint_epochs precision "
                "more_limit weight_decay splits drop before thresholds quantization seed"
            ).split()
        },
        **describe_machine(),
        "cells": {},
    }
    before = trunk.predict(test.x, batch_size=128, verbose=0).argmax(-1)
    results["plain_accuracy"] = float((before == test.y).mean())  # nothing was taught
    curves, model, scores = {}, None, None
    linear = FLAGS.head == "linear" and not FLAGS.before
    batches = varied(x, y, rng) if linear else []
    for objective, confidences in (WHOLE if FLAGS.before else CELLS[linear]).items():
        if FLAGS.before:
            read = keras.saving.load_model
            model = kd.cascade([*(read(path) for path in FLAGS.before), trunk])
        elif linear:
            model = linear_gates(trunk, objective, batches)
        else:
            model = heads(trunk, objective, x, y, out)
        for confidence in confidences:
            for gate in model.gates:
                gate.confidence = confidence
            scores = exit_scores(model, test.x, test.y, batch_size=128)
            shares = [float(share) for share in FLAGS.shares]
            cell = judge(model, scores, FLAGS.drop, FLAGS.splits, FLAGS.seed, shares)
            name = f"{objective}, {confidence}"
            curves[name] = cell.pop("points")
            results["cells"][name] = cell
            print(
                f"{name}: {cell['saved']['mean']:.1%} fewer MACs "
                f"({cell['saved']['low']:.1%} to {cell['saved']['high']:.1%}), accuracy "
                f"{-cell['drop']['mean']:+.2%} ({-cell['drop']['high']:+.2%} to "
                f"{-cell['drop']['low']:+.2%}); where the mean curve loses "
                f"{FLAGS.drop:.1%}: {cell['best_saved_on_the_mean_curve']:.1%}"
            )
            for had in cell["at"].values():
                macs, accuracy = (had[k]["mean"] for k in ("macs_share", "accuracy"))
                print(f"  {macs:.3f} of the plain net's MACs: {accuracy:.2%}")
    said = scores.scores.argmax(-1)
    results["gate_accuracy"] = (said == test.y[:, None]).mean(0).tolist()
    results["macs_per_exit"] = list(kd.count_macs(model).per_exit)
    exit_curves(curves).savefig(out / "curves.png", dpi=120)
    results["file"] = time_file(model, out, test, x)
    print(json.dumps(results["file"], indent=1))
    write_whole(out / "results.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
