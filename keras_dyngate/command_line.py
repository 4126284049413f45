"""What can be done without writing code.

    keras-dyngate speed-up net.keras --data photos/ --budget latency:0.7x --out out/

Exit status 0: done, and the budget is kept; 1: done, and nothing that was tried keeps to
it; 2: a wrong command line, or data that cannot be used: one line on stderr says why;
130: stopped by Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RUN = "run.json"  # what a folder is of


def _speed_up(given: argparse.Namespace) -> int:
    """Make a trained net dynamic under a budget."""
    if not Path(given.net).is_file():  # said at once, before anything is loaded
        raise FileNotFoundError(f"net: there is no file {given.net!r}")
    if not Path(given.data).is_dir():
        raise NotADirectoryError(f"--data: there is no folder {given.data!r}")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_libraries():
        import keras

        import keras_dyngate as kd
        from keras_dyngate.export import quiet

        quiet()
    kd.Budget(given.budget, "--budget")
    net, size = _net(given.net)
    data = kd.datasets.image_folder(given.data, size, augmentation="shift")
    outputs = net.output_shape[-1]
    if len(data.classes) != max(outputs, 2):
        raise ValueError(
            f"--data: {given.data!r} has {len(data.classes)} folders, one per class; "
            f"the net tells {max(outputs, 2)} classes apart"
        )
    train, validation, test = (
        part.uint8_arrays() for part in (data.train, data.validation, data.test)
    )
    out = Path(given.out)
    _same_run(given, out)
    sizes = " / ".join(str(len(y)) for _, y in (train, validation, test))
    print(f"{data.name}: {sizes} photos to teach, to choose and to judge by")
    keras.utils.set_random_seed(given.seed)
    found = kd.make_dynamic(
        net,
        train,
        validation,
        given.budget,
        max_accuracy_drop=given.max_accuracy_drop,
        quantization=given.quantization,
        gates=None if given.gates == "none" else given.gates,
        first="auto" if given.first else None,
        first_weights=given.first_weights,
        epochs=given.epochs,
        exit_epochs=given.exit_epochs,
        joint_epochs=given.joint_epochs,
        path=out / "net.tflite",
        labels=data.classes,
        checkpoint=out / "taught",
        seed=given.seed,
    )
    print(found)
    found.model.save(out / "net.keras")
    accuracy = float(kd.LiteRTModel(out / "net.tflite").evaluate(*test)["accuracy"])
    print(f"On the {len(test[1])} test photos, judged once: {accuracy:.1%} right.")
    _note(found, accuracy, len(test[1]), out / "result.json")
    return 0 if found.kept else 1


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep what libraries say when they are loaded, in C++, off the user's terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _net(path: str) -> tuple[Any, int]:
    """A classifier of square colour photos, and their size."""
    import keras

    try:
        net = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras' own vary
        reason = str(error).strip().splitlines()[0][:100]
        raise ValueError(f"net: {path!r} is no Keras model: {reason}") from error
    shape = tuple(getattr(net, "input_shape", ()))
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(
            "net: it must take square colour photos of one size, "
            f"[batch, size, size, 3]; {path!r} takes {shape}"
        )
    return net, int(shape[1])


def _same_run(given: argparse.Namespace, out: Path) -> None:
    """Begin a folder, or see that it is of the same command: it is gone on with."""
    from keras_dyngate._files import write_whole

    words = {k: v for k, v in vars(given).items() if k not in ("run", "command", "out")}
    path = out / RUN
    if path.is_file():
        try:
            known = json.loads(path.read_bytes())
        except ValueError:
            known = {}
        other = sorted(name for name in words if known.get(name) != words[name])
        if other:
            raise ValueError(
                f"--out: {given.out!r} is of a run with another {other}. Take another "
                "folder, or delete that one"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(words, indent=1).encode())


def _note(found: Any, accuracy: float, photos: int, path: Path) -> None:
    """The result as JSON, for other programs."""
    from keras_dyngate._files import write_whole

    noted = {
        "answer": found.answer,
        "sentence": found.sentence,
        "kept": found.kept,
        "pays": found.pays,
        "budget": None if found.budget is None else str(found.budget),
        "max_accuracy_drop": found.max_accuracy_drop,
        "thresholds": found.thresholds,
        "test": {"photos": photos, "accuracy": accuracy},
        "seconds": found.seconds,
        "left_out": found.left_out,
        "tried": [
            {
                "name": net.name,
                "dynamic": net.dynamic,
                "quantization": net.quantization,
                "validation_accuracy": net.accuracy,
                "ms": net.ms,
                "macs": net.macs,
                "bytes": net.bytes,
                "kept": net.kept,
            }
            for net in found.tried
        ],
    }
    write_whole(path, json.dumps(noted, indent=1).encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-dyngate", description="Dynamic neural networks that really skip."
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    speed_up = commands.add_parser(
        "speed-up",
        help="make a trained Keras classifier faster, under a budget",
        description=(
            "Adds early exits and gates to a trained classifier of photos (0 to 255), "
            "teaches them, writes the best .tflite file within the budget, and says "
            "whether it pays. A run that was cut off goes on, with the same command."
        ),
        epilog=(
            "Written into the folder of --out: net.tflite, net.keras, result.json, and "
            "what was taught. Exit status: 0 the budget is kept; 1 nothing keeps to it, "
            "and the closest is written; 2 wrong input; 130 stopped."
        ),
    )
    add = speed_up.add_argument
    add("net", help="a .keras file")
    add(
        "--data",
        required=True,
        help=(
            "folder of photos: train, val and test with a folder per class each; or "
            "train and val alone, the latter to judge by; or a folder per class"
        ),
    )
    add(
        "--budget",
        default="accuracy:0",
        help="latency:8ms, latency:0.7x, macs:0.6x or accuracy:-1 (default: accuracy:0)",
    )
    add("--max-accuracy-drop", type=float, help="accuracy that may be lost, 0 to 1")
    add(
        "--quantization",
        default="float32",
        choices=["float32", "float16", "dynamic", "int8"],
        help="of the file (default: float32)",
    )
    add(
        "--gates",
        default="auto",
        choices=["auto", "layers", "channels", "both", "none"],
        help="what is gated (default: auto)",
    )
    add(
        "--no-first",
        dest="first",
        action="store_false",
        help="try no small first net",
    )
    add("--first-weights", default="imagenet", help="of the first net (imagenet)")
    add("--epochs", type=int, default=5, help="of gated and smaller nets (5)")
    add("--exit-epochs", type=int, default=12, help="of exits (12)")
    add(
        "--joint-epochs",
        type=int,
        default=12,
        help="of the net and its exits together; 0: the net stays as it is (12)",
    )
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--out", default="outputs/speed_up", help="folder for what is made")
    speed_up.set_defaults(run=_speed_up)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see the module."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"keras-dyngate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("keras-dyngate: stopped; the same command goes on", file=sys.stderr)
        return 130
