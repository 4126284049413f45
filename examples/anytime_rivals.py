"""
Title: Anytime nets beside early exits, and nets that are trained alone
Description: Accuracy at equal time of three ways to answer early, on CIFAR-10.

    python examples/anytime_cifar.py --data cifar10.npz --model sliced_resnet \\
        --blocks 1 --width 32 --epochs 30 --precision mixed_bfloat16 --out any
    python examples/anytime_rivals.py --data cifar10.npz --model sliced_resnet \\
        --blocks 1 --width 32 --epochs 30 --precision mixed_bfloat16 --out any

goes on where `anytime_cifar.py` ended, and takes its flags. `--alone` are widths of nets
of the same kind that are trained as long, each alone, with dense kernels: those given
have the MACs of the default net's sub-networks. On the widest, exits behind the first two
stages are taught, and then all together, in `--exit_epochs` each. The files are timed in
turns on test images. An exit answers all images (`exit 1`: what is known when that much
time has gone by), or those that it is sure of (`exits, by confidence`: thresholds from
validation images). `rivals.json` in `--out`.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anytime_cifar
import cifar_npz
import keras
import numpy as np
from absl import app, flags
from cifar_npz import Split

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate.export import quiet
from keras_dyngate.models.exits.fitting import exit_scores
from keras_dyngate.runtime import compare_latency, describe_machine
from keras_dyngate.runtime.anytime_runner import step_inputs
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.thresholds.mixing import mix

FLAGS = flags.FLAGS
flags.DEFINE_list("alone", ["8", "14", "20", "25"], "Widths.")
flags.DEFINE_list("shares", ["0.35", "0.67"], "Of the MACs, where the exits are.")
flags.DEFINE_integer("exit_epochs", 12, "Of heads, and then of all together.")
flags.DEFINE_list("drops", ["0", "0.01", "0.02"], "Accuracy that exits may lose.")
flags.DEFINE_enum(
    "quantization", "float32", ["float32", "dynamic", "int8"], "Of files."
)
flags.DEFINE_integer("timed", 50, "Test images to time on.", 1)


def with_exits(net: keras.Model, train: Split, validation: Split, out: Path) -> Any:
    """The net with exits, all taught together; as `out` has it, if it was before."""
    path = out / "exits.keras"
    if path.exists():
        return keras.models.load_model(path, compile=False)
    places = [point for point in kd.cut_points(net) if "pad" not in point.layer]
    after = [
        min(places, key=lambda point: abs(point.share - float(share))).layer
        for share in FLAGS.shares
    ]
    model = kd.add_decision_gates(net, after, head="separable", combine=True)
    rng = np.random.default_rng(FLAGS.seed)
    model.fit_gates(
        *train,
        epochs=FLAGS.exit_epochs,
        joint_epochs=FLAGS.exit_epochs,
        batch_size=FLAGS.batch,
        augmentation=lambda images: cifar_npz.copies(images, rng),
        validation_data=tuple(validation),
        checkpoint=out / "exits",
        seed=FLAGS.seed,
    )
    model.save(path)
    return model


def exported(model: Any, name: str, train: Split, out: Path) -> kd.LiteRTModel:
    """The file of a net."""
    path = out / f"{name}.{FLAGS.quantization}.tflite"
    options: dict[str, Any] = {"quantization": FLAGS.quantization}
    if isinstance(model, kd.AnytimeModel):
        every = range(1, model.subnetworks + 1)
        options["options"] = kd.AnytimeOptions(subnetworks=every)
    if FLAGS.quantization != "float32":
        options["representative_data"] = train.x[:256]
    kd.export_tflite(model, path, parity_data=False, **options)
    return kd.LiteRTModel(path)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    keras.config.set_dtype_policy(FLAGS.precision)
    out = Path(FLAGS.out)
    train, validation, test = anytime_cifar.load_data()
    given = (train, validation)
    anytime = anytime_cifar.trained(FLAGS.width, FLAGS.subnetworks, *given, out)
    rows: list[dict[str, Any]] = [
        {
            "net": f"sub-network {point.k}",
            "macs": point.macs,
            "accuracy": point.accuracy,
        }
        for point in anytime.evaluate_anytime(tuple(test))
    ]
    images = list(test.x[:: max(1, len(test.x) // FLAGS.timed)][: FLAGS.timed])
    pictures = [{"image": image} for image in images]
    sliced = exported(anytime, "anytime", train, out)
    inputs_of = step_inputs(sliced, images)
    calls: dict[str, Any] = {
        f"sub-network {number}": (sliced, step, inputs_of[step])
        for number, step in sliced.table.numbered("step").items()
    }
    net = None
    for width in map(int, FLAGS.alone):
        folder = out / f"alone_{width}"
        net = anytime_cifar.trained(width, 1, *given, folder).subnetwork(1)
        name = f"alone, width {width}"
        said = net.predict(test.x, batch_size=256, verbose=0).argmax(-1)
        accuracy = float((said == test.y).mean())
        rows.append(
            {"net": name, "macs": kd.count_macs(net).total, "accuracy": accuracy}
        )
        calls[name] = (exported(net, folder.name, train, out), "classify", pictures)
    exits = with_exits(net, train, validation, out)
    exits.calibrate(*validation, accuracy_drop=0.01)  # weights of the exits too
    file = exported(exits, "exits", train, out)
    scores = mix(exit_scores(exits, *test, batch_size=256).scores, exits.mixing)
    per_exit = np.asarray(kd.count_macs(exits).per_exit)
    count = len(exits.gates)
    for number in range(count + 1):
        right = scores[:, number].argmax(-1) == test.y
        name = f"exit {number + 1}"
        macs = int(per_exit[number])
        rows.append({"net": name, "macs": macs, "accuracy": float(right.mean())})
        limits = limits_to(number, count)
        inputs = [{**picture, "thresholds": limits} for picture in pictures]
        calls[name] = (file, "classify_at", inputs)
    times = compare_latency(calls, rounds=3 * len(images))
    ms = {name: float(np.median(taken)) for name, taken in times.items()}
    done = 0.0
    for number in range(1, anytime.subnetworks + 1):  # steps add up
        done += ms[f"sub-network {number}"]
        ms[f"sub-network {number}"] = done
    for row in rows:
        row["ms"] = ms[row["net"]]
    paths = np.array([ms[f"exit {number + 1}"] for number in range(count + 1)])
    for drop in map(float, FLAGS.drops):
        exits.calibrate(*validation, accuracy_drop=drop)
        found = exits.predict(test.x, batch_size=256, verbose=0)
        shares = np.bincount(found["exit"], minlength=count + 1) / len(test.y)
        rows.append(
            {
                "net": f"exits, by confidence, {100 * drop:g} points less on validation",
                "macs": float(found["macs"].mean()),
                "accuracy": float((found["label"] == test.y).mean()),
                "ms": float(shares @ paths),
            }
        )
    print(f"| net | MMACs | {FLAGS.quantization}, ms | accuracy |\n|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['net']} | {row['macs'] / 1e6:.2f} | {row['ms']:.3f} | "
            f"{row['accuracy']:.2%} |"
        )
    held = {
        "settings": {**anytime_cifar.settings(), "exit_epochs": FLAGS.exit_epochs},
        **describe_machine(),
        "training_images": len(train.x),
        "quantization": FLAGS.quantization,
        "rows": rows,
    }
    write_whole(out / "rivals.json", json.dumps(held, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
