"""
Title: Layers, channels, or both
Description: LC-Net beside its halves and beside hard gates, at equal average MACs.

    python examples/lc_net.py --weights resnet20.npz --data cifar10.npz

Four nets start from the same trained ResNet and are fine-tuned for the same number of
epochs: saliences of layers and channels (lc), of layers (l), of channels (c), and hard
binary gates of both (hard). The price of MACs is moved while training, so that each net
arrives at `--target` of the plain net's MACs. `--weights` is an .npz with PyTorch names
(or a .keras file); for `--data` see cifar_npz.py. A run that was interrupted goes on
where it stopped; results are in `--out`/results.json.
"""

import dataclasses
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar_npz
import keras
import numpy as np
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate._walk import controllers
from keras_dyngate.decisions import DecisionModel
from keras_dyngate.export import quiet

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "Weights of the plain net.", required=True)
flags.DEFINE_string("data", None, ".npz with the images and labels.", required=True)
flags.DEFINE_integer("depth", 20, "Of the net: 20, 32, 44, 56 or 110.")
flags.DEFINE_list("variants", ["lc", "l", "c", "hard"], "Nets to train.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Each net is trained once per seed.")
flags.DEFINE_float("target", 0.7, "Share of the plain net's MACs to arrive at.")
flags.DEFINE_integer("epochs", 8, "Of fine-tuning.")
flags.DEFINE_float(
    "learning_rate", 0.01, "Of the trunk, at first; it falls along a cosine."
)
flags.DEFINE_float("leak", 0.1, "Gradient of the saliences' clip outside [0, 1].")
flags.DEFINE_bool("test", True, "Whether to look at the test images, at the end.")
flags.DEFINE_string("out", "outputs/lc_net", "Folder for nets and figures.")


class HoldMacs(keras.callbacks.Callback):
    """Prices MACs so that a net follows a falling budget.

    The budget falls from 1 to `target` in the first 40 % of the training. Every five
    batches the executed share is measured on the same images. The price is proportional
    to the excess over the budget, 0 below it; the factor grows while the excess stays
    large and shrinks when there is none, as channels need a higher price than layers.
    Where both are priced, layers pay a fifth: their MACs are priced channel by channel
    already, and a layer is soon skipped for good (chosen on validation images).
    """

    def __init__(self, target: float, images: np.ndarray, steps: int) -> None:
        super().__init__()
        self.target, self.images, self.steps = target, images, steps
        self.factor, self.done = 0.5, 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.decider = DecisionModel(self.model)
        self.profile = kd.count_macs(self.model)
        gates = list(controllers(self.model))
        both = {gate.units == 1 for gate in gates} == {True, False}
        self.variables = [
            (v, 0.2 if both and gate.units == 1 else 1.0)
            for gate in gates
            for v in gate.coefficients
        ]

    def share(self) -> float:
        """Executed MACs, controllers included, relative to the plain net's."""
        found = self.decider.predict(self.images, batch_size=256, verbose=0)
        return self.profile.of(found["decisions"]).mean() / self.profile.total

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.done += 1
        if self.done % 5:
            return
        budget = 1 - (1 - self.target) * min(self.done / (0.4 * self.steps), 1.0)
        excess = self.share() - budget
        if abs(excess) > 0.01:
            self.factor *= 1.1 if excess > 0 else 0.9
        price = min(self.factor * max(excess, 0.0), 1.0)
        for variable, share in self.variables:
            variable.assign(price * share)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs.update(macs=self.share(), factor=self.factor)


def build(variant: str) -> keras.Model:
    """One of the four nets, computing at first what the trained one does."""
    hard = variant == "hard"
    penalty = kd.GateSparsity(1e-3, weighting="macs", norm="l0" if hard else "l1")
    gates = kd.Gates(channel_regularizers=penalty, layer_regularizers=penalty)
    if not hard:
        make = getattr(kd, f"lc_resnet{FLAGS.depth}")
        return make(weights=FLAGS.weights, mode=variant, leak=FLAGS.leak, gates=gates)

    def gate(units: int) -> kd.BinaryGate:
        return kd.BinaryGate(units, bias_initializer=3.0)  # 95 % open

    gates = dataclasses.replace(gates, channel=gate, layer=gate)
    return getattr(kd, f"gated_resnet{FLAGS.depth}")(weights=FLAGS.weights, gates=gates)


def freeze_trunk(model: keras.Model, frozen: bool) -> None:
    """Everything but the controllers; frozen normalizations keep their statistics."""
    for layer in model.layers:
        parts = [*layer.convs, *layer.norms] if hasattr(layer, "convs") else [layer]
        for part in parts:
            part.trainable = not frozen


def train(variant: str, seed: int, train_data: cifar_npz.Split) -> keras.Model:
    """Saliences alone in the first half of the epochs, then everything.

    With the trunk at rest a salience falls because it matters little; with it in motion
    the weights after it can grow instead, and the price buys nothing. Hard gates need
    the trunk to get used to missing channels, so there all is trained from the start.
    Both schedules were chosen on validation images.
    """
    keras.utils.set_random_seed(seed)
    model = build(variant)
    per_epoch, half = -(-len(train_data.x) // 128), FLAGS.epochs // 2
    hold = HoldMacs(FLAGS.target, train_data.x[:256], FLAGS.epochs * per_epoch)
    phases = [(0, half, 0.03), (half, FLAGS.epochs, FLAGS.learning_rate)]
    if variant == "hard":
        phases = [(0, FLAGS.epochs, 2 * FLAGS.learning_rate)]
    for first, last, start in phases:
        frozen = last < FLAGS.epochs
        freeze_trunk(model, frozen)
        rate: float | keras.optimizers.schedules.CosineDecay = start
        if not frozen:
            steps = (last - first) * per_epoch
            rate = keras.optimizers.schedules.CosineDecay(start, steps)
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(
            cifar_npz.augmented(train_data, seed),
            initial_epoch=first,
            epochs=last,
            callbacks=[hold],
            verbose=2,
        )
    return model


def measure(model: keras.Model, data: cifar_npz.Split) -> dict[str, float]:
    """Accuracy and mean MACs, the controllers' included, relative to the plain net."""
    profile = kd.count_macs(model)
    predicted = model.predict(data.x, verbose=0).argmax(-1)
    macs = profile.of(kd.decide(model, data.x))
    return {
        "accuracy": float((predicted == data.y).mean()),
        "macs": float(macs.mean()),
        "macs_share": float(macs.mean() / profile.total),
        "macs_share_deviation": float(macs.std() / profile.total),
    }


def time_file(model: keras.Model, folder: Path, x: np.ndarray) -> dict[str, float]:
    """Time per image of the exported net and of the plain one, in turns, ms."""
    path = folder / "net.tflite"
    report = kd.export_tflite(model, path, parity_data=x)
    print(report)
    plain = getattr(kd, f"resnet{FLAGS.depth}")(weights=FLAGS.weights)
    kd.export_tflite(plain, folder / "plain.tflite")
    files = [kd.LiteRTModel(folder / "plain.tflite"), kd.LiteRTModel(path)]
    times = [
        [f.benchmark("classify", {"image": i}, repeats=5).median_ms for f in files]
        for i in x
    ]
    plain_ms, ms = np.mean(times, axis=0)
    return {
        "ms": ms,
        "plain_ms": plain_ms,
        "decisions": report.parity.decision_agreement,
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    names = ("depth", "target", "epochs", "learning_rate", "leak")
    settings = {name: FLAGS[name].value for name in names}
    train_data, validation, test = cifar_npz.load(FLAGS.data)

    # Train what is not yet there; a net that is done is never trained again.
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if results.setdefault("settings", settings) != settings:
        raise app.UsageError(f"--out holds a run of other settings: {path}")
    runs = results.setdefault("runs", {})
    for seed in FLAGS.seeds:
        for variant in FLAGS.variants:
            name = f"{variant}_{seed}"
            if name in runs:
                continue
            model = train(variant, int(seed), train_data)
            model.save(out / f"{name}.keras")
            runs[name] = {"validation": measure(model, validation)}
            if FLAGS.test:
                runs[name]["test"] = measure(model, test)
                folder = out / name
                folder.mkdir(exist_ok=True)
                runs[name]["file"] = time_file(model, folder, test.x[:100])
            print(name, json.dumps(runs[name]))
            write_whole(path, json.dumps(results, indent=1).encode())

    # A line per kind of net: means over the seeds, and their spread.
    data = "test" if FLAGS.test else "validation"
    for variant in FLAGS.variants:
        rows = [runs[f"{variant}_{seed}"] for seed in FLAGS.seeds]
        accuracy = np.array([row[data]["accuracy"] for row in rows])
        line = (
            f"{variant:5} accuracy {accuracy.mean():.2%} +- {accuracy.std(ddof=0):.2%}, "
            f"MACs {np.mean([row[data]['macs_share'] for row in rows]):.3f} of plain"
        )
        if FLAGS.test:
            ratio = [row["file"]["ms"] / row["file"]["plain_ms"] for row in rows]
            line += f", time {np.mean(ratio):.3f} of plain"
        print(line)


if __name__ == "__main__":
    app.run(main)
