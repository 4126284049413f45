"""What can be done without writing code.

    keras-dyngate speed-up net.keras --data photos/ --budget latency:0.7x --out out/

Exit status 0: done, and the budget is kept; 1: done, and nothing that was tried keeps to
it; 2: a wrong command line, or data that cannot be used: one line on stderr says why.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _speed_up(given: argparse.Namespace) -> int:
    """Make a trained net dynamic under a budget."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    import keras_dyngate as kd
    from keras_dyngate.export import quiet

    quiet()
    kd.Budget(given.budget)  # said at once, before anything is read
    if not Path(given.net).is_file():
        raise FileNotFoundError(f"There is no file {given.net!r}.")
    net = keras.saving.load_model(given.net, compile=False)
    size = net.input_shape[1] if len(net.input_shape) == 4 else None
    if size is None or size != net.input_shape[2]:
        raise ValueError(
            "The net must take square pictures of a known size. "
            f"Received: {given.net!r}, which takes {net.input_shape}"
        )
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    data = kd.datasets.image_folder(given.data, size, augmentation="shift")
    train, validation, test = (
        part.uint8_arrays() for part in (data.train, data.validation, data.test)
    )
    sizes = " / ".join(str(len(y)) for _, y in (train, validation, test))
    print(f"{data.name}: {sizes} photos to teach, to choose and to judge by")
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
            "whether it pays. A run that was cut off goes on."
        ),
        epilog="Exit status: 0 the budget is kept, 1 nothing keeps to it, 2 wrong input.",
    )
    add = speed_up.add_argument
    add("net", help="a .keras file")
    add("--data", required=True, help="folder of photos, one folder per class")
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
