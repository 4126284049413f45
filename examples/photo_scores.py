"""What a net says of the photos of val and test, written for `judge_exits.py`."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging
from photo_folder import photos

from keras_dyngate._files import write_whole

FLAGS = flags.FLAGS


def define_flags(arm: str) -> None:
    """The flags of scripts that train arms."""
    flags.DEFINE_string("net", None, "A trained .keras classifier.", required=True)
    flags.DEFINE_string("photos", None, "Folder of train, val and test.", required=True)
    flags.DEFINE_list("arm", [arm], "Which arms, one after the other.")
    flags.DEFINE_list("after", ["b4_add", "b7_add", "b10_add", "b13_add"], "Exits.")
    flags.DEFINE_integer("seed", 0, "Of everything random.")
    flags.DEFINE_string("out", "outputs/exits_on_photos", "Folder for what is made.")


def main_of(run: Callable[[str], None]) -> Callable[[list[str]], None]:
    """The `main` of such a script, for `absl.app.run`; `run` trains one arm."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
        logging.set_verbosity(logging.ERROR)
        for arm in FLAGS.arm:
            run(arm)

    return main


def begun(arm: str) -> Path | None:
    """The folder of an arm that is to be trained; None if it was."""
    folder = Path(FLAGS.out) / str(FLAGS.seed) / arm
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "scores.npz").exists():
        print(f"{arm}: done already")
        return None
    keras.utils.set_random_seed(FLAGS.seed)
    return folder


def write_scores(
    folder: Path,
    model: keras.Model,
    about: dict[str, Any],
    said: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
) -> None:
    """Write what an arm is, `about.json` and `net.keras`, and at last `scores.npz`.

    Args:
        folder: Of the arm.
        model: The net.
        about: JSON-able; see `exit_nets.Arm`.
        said: From photos and labels to arrays: `scores` `[N, exits, classes]`, and `macs`
            `[N, exits]` where photos differ in them.
    """
    found: dict[str, np.ndarray] = {}
    for part in ("val", "test"):
        x, y = photos(FLAGS.photos, part, model.input_shape[1])
        arrays = said(x, y)
        right = arrays["scores"].argmax(-1) == y[:, None]
        print(folder.name, part, np.round(right.mean(0), 4).tolist(), flush=True)
        found[f"{part}_truth"] = y
        found |= {f"{part}_{name}": value for name, value in arrays.items()}
    model.save(folder / "net.keras")
    write_whole(folder / "about.json", json.dumps(about, indent=1).encode())
    content = io.BytesIO()
    np.savez(content, **found)
    write_whole(folder / "scores.npz", content.getvalue())
