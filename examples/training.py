"""What the training scripts share: flags, a run folder, a fit that goes on where it was.

A run folder holds `config.json`, `log.csv`, TensorBoard's `logs/`, `checkpoint.npz`,
`model.keras`, the exported files, `training.png` and `result.json`. Starting a script
again with the same flags goes on with the run; other flags need another `--out`.

On several machines, with the JAX backend, start one process per machine:

    KERAS_BACKEND=jax python examples/train_cifar10.py --hosts a:1234,b:1234 --host_id 0

each with a run folder of its own; all end with the same weights.
"""

import contextlib
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import app, flags, logging

import keras_dyngate as kd
from keras_dyngate._files import write_whole
from keras_dyngate._walk import controllers
from keras_dyngate.datasets import Data
from keras_dyngate.export import quiet
from keras_dyngate.runtime import describe_machine

FLAGS = flags.FLAGS

CHECKPOINT = "checkpoint.npz"

# What may differ between the sessions of one run.
_FREE = "checkpoint_every data_dir out hosts host_id distribute export".split()


def define_flags(**defaults: Any) -> None:
    """The flags of every training script, with this script's defaults."""
    flags.DEFINE_string("data_dir", None, "Where the data are.")
    flags.DEFINE_string("weights", None, "Weights to start from: .keras or .npz.")
    flags.DEFINE_integer("epochs", defaults["epochs"], "Of training.", 1)
    flags.DEFINE_integer("batch_size", defaults["batch_size"], "Images per step.", 1)
    flags.DEFINE_integer("train_samples", None, "Use so many training images.", 1)
    flags.DEFINE_integer("test_samples", None, "Judge on so many test images.", 1)
    flags.DEFINE_float("learning_rate", defaults["learning_rate"], "At the start.")
    flags.DEFINE_enum(
        "schedule",
        defaults.get("schedule", "cosine"),
        ["cosine", "steps", "constant"],
        "Of the learning rate: along a cosine to 0, or divided by 10 at 60, 75, 90 %.",
    )
    flags.DEFINE_float("weight_decay", defaults["weight_decay"], "Not of the gates.")
    flags.DEFINE_integer("seed", 0, "Of everything random.")
    flags.DEFINE_string("out", None, "Run folder; default outputs/<script>/<what>.")
    flags.DEFINE_integer("checkpoint_every", 200, "Steps from one save to the next.", 1)
    flags.DEFINE_bool("deterministic", False, "Slower; runs repeat to the bit.")
    flags.DEFINE_enum("precision", "float32", _PRECISIONS, "Keras' dtype policy.")
    flags.DEFINE_bool("jit", None, "Compile by XLA; default: Keras decides.")
    flags.DEFINE_integer("steps_per_execution", 1, "Steps per call of the backend.", 1)
    flags.DEFINE_enum("distribute", "none", ["none", "mirrored"], "Over local devices.")
    flags.DEFINE_bool("export", True, "Export and test files (TensorFlow backend).")
    flags.DEFINE_list("hosts", [], "host:port of every machine (JAX backend).")
    flags.DEFINE_integer("host_id", 0, "Which of them this is.")


_PRECISIONS = ["float32", "mixed_float16", "mixed_bfloat16"]


def define_gate_flags() -> None:
    """Flags of gated nets."""
    flags.DEFINE_integer("gate_group_size", 16, "Channels per decision; 1: the paper.")
    flags.DEFINE_float("gate_bias", 2.0, "First logit of every gate; 2 is 88 % open.")
    flags.DEFINE_float("target_macs", 0.6, "Share of the plain net's MACs to spend.")
    flags.DEFINE_float(
        "budget_end",
        None,
        "Share of the training by which the MACs have come down to the target; "
        "default 0.4, with --prime 0.05.",
    )
    flags.DEFINE_float("batch_shaping", 0.75, "Its first coefficient; 0 leaves it out.")
    flags.DEFINE_float("gate_noise", 1.0, "Scale of the gates' noise in training.")
    flags.DEFINE_bool("prime", False, "Set gates by the importance of their channels.")
    flags.DEFINE_float(
        "gate_agreement", 0.0, "Price of channels that a group drags on."
    )
    flags.DEFINE_integer(
        "export_group_size", None, "Channels that run together in a file, at least.", 1
    )


def gates() -> kd.Gates:
    """Which gates a net is to have, from the flags."""
    bias, noise = FLAGS.gate_bias, FLAGS.gate_noise
    regularizers: list[Any] = [kd.GateSparsity(0.0, weighting="macs")]
    if FLAGS.batch_shaping:
        falling = kd.LinearSchedule(FLAGS.batch_shaping, 0.0, end=0.2)
        regularizers.append(kd.BatchShaping(coefficient=falling))
    if FLAGS.gate_agreement:
        if FLAGS.export_group_size is None:
            raise ValueError(
                "`--gate_agreement` needs groups. Received: no --export_group_size"
            )
        regularizers.append(
            kd.GateAgreement(FLAGS.gate_agreement, FLAGS.export_group_size)
        )
    return kd.Gates(
        lambda units: kd.BinaryGate(units, bias_initializer=bias, noise=noise),
        group_size=FLAGS.gate_group_size,
        channel_regularizers=regularizers,
    )


def prime(
    run: "Run", model: keras.Model, data: Data, images: int, **options: Any
) -> None:
    """With `--prime`, set the gates of a net whose trunk has been trained.

    Args:
        images: Training images to measure the channels' importance on.
        **options: Of `prime_gates`.
    """
    if not FLAGS.prime or (run.folder / CHECKPOINT).exists():  # which holds them
        return
    if FLAGS.weights is None:
        raise ValueError("`--prime` needs a trained trunk. Received: no --weights")
    kd.prime_gates(model, *data.train.arrays(images), FLAGS.target_macs, **options)


def gate_callbacks(
    data: Data,
    model: keras.Model,
    probes: int,
    watched: int,
    batch_size: int | None = None,
) -> list[keras.callbacks.Callback]:
    """What drives the gates of `model` to the budget of the flags, and watches them.

    Primed gates begin at the budget; to others it comes down on them.

    Args:
        data: The images to look at.
        model: The gated net itself, whatever model is fitted.
        probes: Training images to measure the budget on.
        watched: Validation images to gather statistics on, `batch_size` at a time.
    """
    end = FLAGS.budget_end
    if end is None:
        end = 0.05 if FLAGS.prime else 0.4
    return [
        kd.RegularizationSchedule(),
        kd.MacBudget(
            FLAGS.target_macs,
            data.train.arrays(probes)[0],
            end=end,
            every=10,
            group_size=FLAGS.export_group_size,
            watched=model,
        ),
        kd.DecisionStatistics(
            data.validation.arrays(watched)[0],
            batch_size=batch_size,
            per_layer=False,
            watched=model,
        ),
    ]


def compiling() -> dict[str, Any]:
    """Arguments of `compile` from the flags."""
    return {
        "steps_per_execution": FLAGS.steps_per_execution,
        "jit_compile": "auto" if FLAGS.jit is None else FLAGS.jit,
    }


def settings() -> dict[str, Any]:
    """The flags of this script by name, as far as they make a run what it is."""
    return {flag.name: flag.value for flag in _own_flags() if flag.name not in _FREE}


def _own_flags() -> list[Any]:
    """Flags of the script and of this module, without absl's own."""
    by_module = FLAGS.flags_by_module_dict()
    return [f for m in (sys.argv[0], __name__) for f in by_module.get(m, [])]


def command() -> str:
    """The command line, with the files' names instead of their places."""
    words = ["python", f"examples/{Path(sys.argv[0]).name}"]
    for word in sys.argv[1:]:
        name, equals, value = word.partition("=")
        words.append(name + equals + Path(value).name if equals else Path(word).name)
    return " ".join(words)


class Run:
    """One training run in its folder.

    Args:
        title: What is trained, for the default folder and for messages.
    """

    def __init__(self, title: str) -> None:
        script = Path(sys.argv[0]).stem
        self.folder = Path(FLAGS.out or f"outputs/{script}/{title}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.title = title
        logging.set_verbosity(logging.WARNING)
        keras.utils.set_random_seed(FLAGS.seed)
        if FLAGS.deterministic:
            _deterministic()
        keras.config.set_dtype_policy(FLAGS.precision)
        self.strategy = _strategy()

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where models are to be built and compiled."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def optimizer(self, model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
        """SGD with Nesterov momentum; no weight decay on gates."""
        rate: Any = FLAGS.learning_rate
        if FLAGS.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, steps)
        elif FLAGS.schedule == "steps":
            rate = keras.optimizers.schedules.PiecewiseConstantDecay(
                [int(steps * share) for share in (0.6, 0.75, 0.9)],
                [rate, rate / 10, rate / 100, rate / 1000],
            )
        optimizer = keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=FLAGS.weight_decay
        )
        gates = [v for gate in controllers(model) for v in gate.trainable_variables]
        if gates:
            optimizer.exclude_from_weight_decay(gates)
        return optimizer

    def fit(
        self,
        model: keras.Model,
        data: Data,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        outputs: Sequence[str] = (),
    ) -> float:
        """Train a compiled model on `data.train`; seconds that this session took.

        With names of `outputs`, each of them is given the labels.
        """

        def targets(images: Any, labels: Any) -> tuple[Any, Any]:
            return images, {name: labels for name in outputs} if outputs else labels

        hosts = max(len(FLAGS.hosts), 1)
        stateful = [c for c in callbacks if isinstance(c, kd.StatefulCallback)]
        checkpoint = kd.TrainingCheckpoint(
            self.folder / CHECKPOINT,
            FLAGS.checkpoint_every,
            stateful,
            settings(),
        )
        checkpoint.restore(model)  # refuses other settings, before anything is written
        write_whole(
            self.folder / "config.json", json.dumps(settings(), indent=1).encode()
        )
        steps = data.train.steps(FLAGS.batch_size)
        steps -= steps % FLAGS.steps_per_execution
        log = keras.callbacks.CSVLogger(str(self.folder / "log.csv"), append=True)
        watchers: list[Any] = [TimeLeft(FLAGS.epochs, self.title), log]
        with contextlib.suppress(ImportError):
            import tensorboard  # noqa: F401

            board = keras.callbacks.TensorBoard(
                str(self.folder / "logs"), write_graph=False
            )
            watchers.append(board)
        start = time.perf_counter()
        try:
            checkpoint.fit(
                model,
                lambda step: data.train.stream(
                    FLAGS.batch_size,
                    seed=FLAGS.seed,
                    start=step,
                    shard=(FLAGS.host_id, hosts),
                ).map(targets),
                steps_per_epoch=steps,
                epochs=FLAGS.epochs,
                validation_data=data.validation.batches(FLAGS.batch_size).map(targets),
                callbacks=[*callbacks, *watchers],
                verbose="auto" if sys.stdout.isatty() else 2,
            )
        except Exception:
            for unreadable in data.train.unreadable:
                print(f"unreadable: {unreadable}", file=sys.stderr)
            raise
        if data.train.unreadable:
            print(f"{len(data.train.unreadable)} unreadable images were skipped.")
        self.plot()
        return time.perf_counter() - start

    def plot(self) -> None:
        """The log's accuracy, loss, open rate and MACs over the epochs."""
        from matplotlib.figure import Figure

        with open(self.folder / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        names = [
            ("accuracy", "val_accuracy"),
            ("logits_mean_iou", "val_logits_mean_iou"),
            ("loss", "val_loss"),
            ("open_rate", "conditional"),
            ("mac_share",),
        ]
        shown = [[n for n in group if rows and n in rows[0]] for group in names]
        shown = [group for group in shown if group]
        if not shown:
            return
        figure = Figure(figsize=(4 * len(shown), 3), layout="constrained")
        for axes, group in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            for name in group:
                axes.plot([float(row[name] or "nan") for row in rows], label=name)
            axes.set_xlabel("epoch")
            axes.legend()
        figure.savefig(self.folder / "training.png", dpi=120)

    def finish(self, data: Data, **found: Any) -> None:
        """Write `result.json`: the settings, the machine, what was found; print that."""
        result = {
            "title": self.title,
            "data": data.name,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "epochs": FLAGS.epochs,
            "seed": FLAGS.seed,
            "backend": keras.backend.backend(),
            "hardware": describe_machine(),
            "command": command(),
            "settings": settings(),
            **found,
        }
        path = self.folder / "result.json"
        write_whole(path, json.dumps(result, indent=1).encode())
        for name, value in found.items():
            if isinstance(value, (int, float)):
                print(f"{name}: {value:.6g}")
        for name, file in found.get("files", {}).items():
            print(f"{name}.tflite: {file['median_ms']:.2f} ms, {file['bytes']:,} bytes")
        print(f"Everything is in {self.folder}")


class TimeLeft(keras.callbacks.Callback):
    """After each epoch, prints how far the run is and how long the rest will take."""

    def __init__(self, epochs: int, title: str) -> None:
        super().__init__()
        self.epochs, self.title = epochs, title
        self.start = time.perf_counter()
        self.first: int | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.first is None:
            self.first, self.start = epoch, time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        assert self.first is not None
        logs = logs or {}
        taken = time.perf_counter() - self.start
        left = taken / (epoch + 1 - self.first) * (self.epochs - epoch - 1)
        shown = [f"{self.title}: epoch {epoch + 1} of {self.epochs}"]
        for name, text in (
            ("val_accuracy", "validation accuracy {:.2%}"),
            ("val_logits_mean_iou", "validation mean IoU {:.2%}"),
            ("open_rate", "open rate {:.2f}"),
        ):
            if name in logs:
                shown.append(text.format(logs[name]))
        if "mean_macs" in logs:
            macs, ms = logs["mean_macs"] / 1e6, logs["ms_per_image"]
            shown.append(f"{macs:.1f} MMACs ({ms:.2f} ms here, masked)")
        print(", ".join([*shown, f"{left / 60:.0f} min left"]), flush=True)


def drive(
    argv: list[str],
    title: str,
    load_data: Callable[[], Data],
    train: Callable[[Run, Data], tuple[keras.Model, float]],
    judge: Callable[[Run, keras.Model, Data], dict[str, Any]],
) -> None:
    """A whole script: data, training, `model.keras`, and what the test images say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    quiet()
    with clear_errors():
        data = load_data()
        run = Run(title)
        print(f"{title} on {data.name}: {len(data.train)} training images")
        model, seconds = train(run, data)
        model.save(run.folder / "model.keras")
        if FLAGS.hosts:  # from here on, every machine on its own
            keras.distribution.set_distribution(None)
            model = keras.models.load_model(run.folder / "model.keras")
        run.finish(data, training_s=seconds, **judge(run, model, data))


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Missing data, a full disk, a loss that is no number: one line, exit status 1."""
    try:
        yield
    except (FileNotFoundError, FloatingPointError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _strategy() -> Any:
    """The distribution asked for, or None."""
    if FLAGS.hosts:
        if keras.backend.backend() != "jax":
            raise ValueError(
                "`--hosts` needs KERAS_BACKEND=jax. "
                f"Received: the {keras.backend.backend()} backend"
            )
        keras.distribution.initialize(
            ",".join(FLAGS.hosts), len(FLAGS.hosts), FLAGS.host_id
        )
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    if FLAGS.distribute == "none":
        return None
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`--distribute mirrored` needs KERAS_BACKEND=tensorflow. "
            f"Received: the {keras.backend.backend()} backend"
        )
    import tensorflow as tf

    return tf.distribute.MirroredStrategy()


def _deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
