"""What each sub-network of an anytime net costs and how often it is right.

print(model.evaluate_anytime((images, labels), file="net.tflite"))
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dyngate._warn import warn
from keras_dyngate.cost import count_macs
from keras_dyngate.models.exits.data import batches

if TYPE_CHECKING:
    from keras_dyngate.models.anytime.model import AnytimeModel
    from keras_dyngate.runtime import AnytimeRunner


@dataclasses.dataclass(frozen=True)
class AnytimePoint:
    """One sub-network.

    Attributes:
        k: Which, from 1.
        macs: MACs of the sub-network alone, its head included.
        step_macs: MACs of going on from k - 1 to k.
        ms: Time of one image to this answer, ms; see `AnytimeCurve.timed`.
        accuracy: Share of right answers, of the labels its head answers.
        coarse_accuracy: Share of right coarse labels, a fine head's answers mapped up;
            None without a taxonomy.
        agreement: How often a fine head's answer, mapped up, is that of the last coarse
            head; None for others.
    """

    k: int
    macs: int
    step_macs: int
    ms: float
    accuracy: float
    coarse_accuracy: float | None = None
    agreement: float | None = None


@dataclasses.dataclass(frozen=True)
class AnytimeCurve:
    """Accuracy against cost, a point per sub-network; no ensembling.

    Attributes:
        points: The sub-networks in order.
        samples: Images that the accuracies are from.
        timed: What was timed.
    """

    points: tuple[AnytimePoint, ...]
    samples: int
    timed: str

    def __iter__(self) -> Iterator[AnytimePoint]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __str__(self) -> str:
        levels = any(p.coarse_accuracy is not None for p in self.points)
        head = f"{'k':>3} {'MACs':>15} {'of the step':>15} {'ms':>9} {'accuracy':>9}"
        lines = [head + (f" {'coarse':>9} {'agree':>9}" if levels else "")]
        for p in self.points:
            line = f"{p.k:>3} {p.macs:>15,} {p.step_macs:>15,} {p.ms:>9.2f} "
            line += f"{p.accuracy:>9.2%}"
            if levels:
                for value in (p.coarse_accuracy, p.agreement):
                    line += f" {'' if value is None else format(value, '.2%'):>9}"
            lines.append(line)
        return "\n".join([*lines, f"{self.samples} images; time: {self.timed}"])

    def plot(self, in_time: bool = False) -> Any:
        """Deprecated: `visualization.anytime_curves({"": curve})` draws the same."""
        warn(
            "`AnytimeCurve.plot` will go in version 0.3: call "
            "`keras_dyngate.visualization.anytime_curves({'': curve})`",
            DeprecationWarning,
        )
        from keras_dyngate.visualization import anytime_curves

        return anytime_curves({"": self}, in_time=in_time)


def _answers(model: "AnytimeModel", data: Any, batch_size: int) -> tuple[Any, Any]:
    """Class indices by sub-network `[N, K]`, and true labels `[N]`."""
    pair = isinstance(data, tuple) and len(data) == 2
    x, y = data if pair else (data, None)
    found, truth = [], []
    for images, labels, _ in batches(x, y, batch_size=batch_size):
        if labels is None:
            raise ValueError(
                "`data` must be (images, labels) or batches of both. "
                "Received: images without labels"
            )
        found.append(np.asarray(model.predict_on_batch(images)).argmax(-1))
        labels = np.asarray(labels)
        one_hot = labels.ndim == 2 and labels.shape[1] > 1
        truth.append(labels.argmax(-1) if one_hot else labels.ravel())
    if not found:
        raise ValueError("`data` must hold at least one image. Received: none")
    return np.concatenate(found), np.concatenate(truth).astype("int64")


def _in_keras(model: "AnytimeModel", repeats: int = 5) -> dict[int, float]:
    """Median time of each sub-network alone on one image in Keras, ms."""
    image = np.zeros((1, *model.input_shape[1:]), "float32")
    times = {}
    for k in range(1, model.subnetworks + 1):
        part = model.subnetwork(k)
        part.predict_on_batch(image)
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            part.predict_on_batch(image)
            taken.append(1e3 * (time.perf_counter() - start))
        times[k] = float(np.median(taken))
    return times


def _check_origin(model: "AnytimeModel", runner: "AnytimeRunner") -> None:
    """Refuse the file of a net of another kind or size."""
    ours = [model.family, list(count_macs(model).per_subnetwork)]
    about = runner.model.metadata
    theirs = [about.get("family"), about.get("macs_per_subnetwork")]
    if ours != theirs:
        raise ValueError(
            "`file` must be exported from this net, a {} of {} MACs. ".format(*ours)
            + "Received: a file of {}, {} MACs".format(*theirs)
        )


def _in_file(
    model: "AnytimeModel", file: str | os.PathLike[str]
) -> tuple[dict[int, float], str]:
    """Time to each answer in an exported file, ms, and what that is."""
    from keras_dyngate.runtime import AnytimeRunner

    runner = AnytimeRunner(file, warmup=10)
    _check_origin(model, runner)
    times = runner.median_ms()
    wanted = list(range(1, model.subnetworks + 1))
    if list(times) != wanted:
        raise ValueError(
            f"`file` must have signatures for the sub-networks {wanted}. Received: a "
            f"file with {list(times)}"
        )
    if not runner.incremental:
        return times, "LiteRT, each sub-network on its own"
    ends = np.cumsum(list(times.values())).tolist()
    return dict(zip(times, ends, strict=True)), "LiteRT, steps added up"


def anytime_curve(
    model: "AnytimeModel",
    data: Any,
    batch_size: int = 128,
    file: str | os.PathLike[str] | None = None,
) -> AnytimeCurve:
    """Measure every sub-network; see `AnytimeModel.evaluate_anytime`."""
    answers, truth = _answers(model, data, batch_size)
    if file is None:
        import keras

        times = _in_keras(model)
        timed = f"Keras on {keras.backend.backend()}, each sub-network on its own"
    else:
        times, timed = _in_file(model, file)
    profile, taxonomy, points = count_macs(model), model.taxonomy, []
    coarse_heads = model.coarse_heads
    for k in range(1, model.subnetworks + 1):
        answer, coarse, agreement = answers[:, k - 1], None, None
        accuracy = float((answer == truth).mean())
        if taxonomy is not None:
            up = answer if k <= coarse_heads else taxonomy.coarse_of(answer)
            coarse = float((up == taxonomy.coarse_of(truth)).mean())
            if k <= coarse_heads:
                accuracy = coarse
            elif coarse_heads:
                agreement = float((up == answers[:, coarse_heads - 1]).mean())
        points.append(
            AnytimePoint(
                k=k,
                macs=profile.per_subnetwork[k - 1],
                step_macs=profile.per_step[k - 1],
                ms=times[k],
                accuracy=accuracy,
                coarse_accuracy=coarse,
                agreement=agreement,
            )
        )
    return AnytimeCurve(tuple(points), len(truth), timed)
