"""What a trial left behind: a JSON file in its folder, and the net itself.

for result in results_in("searches/digits"):
    print(result.name, result.values, result.metrics)
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_dyngate._files import write_whole
from keras_dyngate._warn import warn

FORMAT = "keras_dyngate trial 1"
RESULT, MODEL = "result.json", "model.keras"


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """What is known of a trial that came to its end.

    Attributes:
        name: Of the trial.
        folder: Where it is kept.
        values: Its hyper-parameters.
        metrics: What was found, nothing of a refused one.
        seconds: That it took.
        refused: The sentence that it was refused with.
    """

    name: str
    folder: Path
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    seconds: float = 0.0
    refused: str | None = None

    def save(self) -> None:
        """Write it into its folder."""
        noted = {
            "format": FORMAT,
            "name": self.name,
            "values": dict(self.values),
            "metrics": dict(self.metrics),
            "seconds": self.seconds,
            "refused": self.refused,
        }
        write_whole(self.folder / RESULT, json.dumps(noted, indent=1).encode())


def read_result(folder: Path) -> TrialResult | None:
    """What a trial's folder holds; None: the trial is not at its end.

    Raises:
        ValueError: If the file is damaged, or another one.
    """
    try:
        noted = json.loads((folder / RESULT).read_bytes())
    except FileNotFoundError:
        return None
    try:
        if noted["format"] != FORMAT:
            raise ValueError(f"format {noted['format']!r}")
        metrics = {str(k): float(v) for k, v in noted["metrics"].items()}
        if not all(map(math.isfinite, metrics.values())):
            raise ValueError("metrics that are no numbers")
        return TrialResult(
            str(noted["name"]),
            folder,
            dict(noted["values"]),
            metrics,
            float(noted["seconds"]),
            noted["refused"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def results_in(folder: "str | os.PathLike[str]") -> list[TrialResult]:
    """The results of all trials of a search, by name; what is damaged is passed over.

    Warns:
        UserWarning: Of a file that cannot be read, with its path.

    Raises:
        ValueError: If there is no such folder.
    """
    where = Path(folder)
    if not where.is_dir():
        raise ValueError(
            "`folder` must be that of a search. "
            f"Received: folder={os.fspath(folder)!r}, which is none"
        )
    found = []
    for trial in sorted(where.glob("trial_*")):
        try:
            result = read_result(trial)
        except ValueError as error:
            warn(f"The result {trial / RESULT} is passed over: {error}")
            continue
        if result is not None:
            found.append(result)
    return found


def save_model(model: keras.Model, folder: Path) -> None:
    """Keep the net of a trial, whole or not at all."""
    beside = folder / f".{os.getpid()}.{MODEL}"
    try:
        model.save(beside)
        os.replace(beside, folder / MODEL)
    finally:
        beside.unlink(missing_ok=True)
