"""What the training scripts share: flags, and what they mean.

A run folder is a `kd.TrainingRun`'s, with `model.keras` and the exported files. Starting
a script again with the same flags goes on with the run; other flags need another `--out`.

On several machines, with the JAX backend, start one process per machine:

    KERAS_BACKEND=jax python examples/train_cifar10.py --hosts a:1234,b:1234 --host_id 0

each with a run folder of its own; all end with the same weights.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import app, flags, logging

import keras_dyngate as kd
from keras_dyngate.datasets import Data
from keras_dyngate.export import quiet

FLAGS = flags.FLAGS

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
    flags.DEFINE_enum(
        "gate",
        None,
        ["channels", "layers", "both"],
        "Of what; default: channels, of an LC-Net both.",
    )
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


def gated(gate: str | None, method: str) -> str:
    """What a run gates, from its flags: "channels", "layers" or "both"."""
    return gate or ("both" if method == "lcnet" else "channels")


def gates() -> kd.Gates:
    """Which gates a net is to have, from the flags."""
    bias, noise = FLAGS.gate_bias, FLAGS.gate_noise
    parts = gated(FLAGS.gate, FLAGS.method)
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

    def binary(units: int) -> kd.BinaryGate:
        return kd.BinaryGate(units, bias_initializer=bias, noise=noise)

    return kd.Gates(
        None if parts == "layers" else binary,
        None if parts == "channels" else binary,
        group_size=FLAGS.gate_group_size,
        channel_regularizers=regularizers,
        layer_regularizers=regularizers,
    )


def prime(
    run: "Run", model: keras.Model, data: Data, images: int, **options: Any
) -> None:
    """With `--prime`, set the gates of a net whose trunk has been trained.

    Args:
        images: Training images to measure the channels' importance on.
        **options: Of `prime_gates`.
    """
    if not FLAGS.prime or run.begun:  # the checkpoint holds them
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


class Run(kd.TrainingRun):
    """A training run by the flags.

    Args:
        title: What is trained, for the default folder and for messages.
    """

    def __init__(self, title: str) -> None:
        logging.set_verbosity(logging.WARNING)
        super().__init__(
            FLAGS.out or f"outputs/{Path(sys.argv[0]).stem}/{title}",
            settings(),
            title=title,
            seed=FLAGS.seed,
            precision=FLAGS.precision,
            checkpoint_every=FLAGS.checkpoint_every,
        )
        if FLAGS.deterministic:
            _deterministic()
        self.strategy = _strategy()

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where models are to be built and compiled."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def optimizer(self, model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
        """SGD with Nesterov momentum; no weight decay on gates."""
        return kd.sgd(
            model,
            FLAGS.learning_rate,
            steps,
            schedule=FLAGS.schedule,
            weight_decay=FLAGS.weight_decay,
        )

    def train(
        self,
        model: keras.Model,
        data: Data,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        targets: Callable[[Any, Any], Any] | None = None,
    ) -> float:
        """`fit` with the flags' numbers."""
        return self.fit(
            model,
            data,
            epochs=FLAGS.epochs,
            batch_size=FLAGS.batch_size,
            callbacks=callbacks,
            targets=targets,
            shard=(FLAGS.host_id, max(len(FLAGS.hosts), 1)),
        )


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
        found = judge(run, model, data)
        run.finish(data, training_s=seconds, command=command(), **found)


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
