"""Does an exported file say what the Keras model says?"""

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dyngate._labels import label_of
from keras_dyngate._warn import warn
from keras_dyngate.export.preparing import prepared_anytime
from keras_dyngate.export.witness import Witness, witness_of
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.runtime import LiteRTModel

AT_LEAST = 0.98  # of labels, and of exits, or `warn_of` speaks
# What a net is hardly surer of counts as equal for `warn_of`: that part of the spread
# between its scores.
TIE = 0.1
BATCH = 4  # images between two looks at the clock


@dataclasses.dataclass(frozen=True)
class Parity:
    """Agreement of a file with its Keras model, computed in float32, on some images.

    Attributes:
        samples: How many images.
        max_difference: Largest difference of a logit, relative to the largest logit.
        argmax_agreement: Share of images (of a segmentation net: of pixels) with the
            same label, which of one output is 1 above 0; of an anytime net, share of
            answers of all its steps and sub-networks.
        decision_agreement: Share of equal decisions of controllers, to run or to skip;
            None if there are none.
        max_score_difference: Largest difference of a score, where both sides run.
        exit_agreement: Share of images that leave at the same exit; None without exits.
        clear_argmax_agreement, clear_exit_agreement: The same two where what Keras was
            hardly surer of counts as equal: labels whose scores differ by less than a
            tenth of the spread between an image's scores, exits whose confidence is as
            near to the threshold.
    """

    samples: int
    max_difference: float
    argmax_agreement: float
    decision_agreement: float | None = None
    max_score_difference: float = 0.0
    exit_agreement: float | None = None
    clear_argmax_agreement: float = 1.0
    clear_exit_agreement: float | None = None


def _spread(scores: np.ndarray) -> np.ndarray:
    """How far apart raw scores `[..., classes]` are, `[...]`; of one, from 0."""
    if scores.shape[-1] == 1:
        return np.abs(scores[..., 0])
    return np.ptp(scores, axis=-1)


def _clearly_equal(theirs: np.ndarray, ours: np.ndarray, scale: float) -> np.ndarray:
    """Whether labels of scores are the same, or ours are nearly tied; `[...]`."""
    labels = label_of(theirs)
    if ours.shape[-1] == 1:
        margin = np.abs(ours[..., 0])
    else:
        given = np.take_along_axis(ours, labels[..., None], -1)[..., 0]
        margin = ours.max(-1) - given
    return np.asarray((labels == label_of(ours)) | (margin <= TIE * scale))


@dataclasses.dataclass
class _Sums:
    """What is gathered over the images."""

    samples: int = 0
    difference: float = 0.0
    largest: float = 0.0
    score_difference: float = 0.0
    theirs: list[np.ndarray] = dataclasses.field(default_factory=list)
    ours: list[np.ndarray] = dataclasses.field(default_factory=list)
    decisions: list[np.ndarray] = dataclasses.field(default_factory=list)
    exits: list[np.ndarray] = dataclasses.field(default_factory=list)
    witnesses: list[Witness] = dataclasses.field(default_factory=list)

    def add(self, found: dict[str, np.ndarray], witness: Witness, row: int) -> None:
        """One image: outputs of `explain`, and row `row` of what Keras says."""
        ours, theirs = witness.logits[row], found["logits"][0]
        self.samples += 1
        self.ours.append(ours)
        self.theirs.append(theirs)
        for name, scores in witness.decisions.items():
            mine = scores[row].ravel()
            other = found[name].reshape(mine.shape)
            self.decisions.append((other > 0) == (mine > 0))
            both = (other > 0) & (mine > 0)
            difference = float(np.abs((other - mine) * both).max())
            self.score_difference = max(self.score_difference, difference)
        if witness.exits is not None:
            self.exits.append(np.array([found["exit"][0], witness.exits[row]]))


def _clear_exits(
    pairs: np.ndarray, confidences: np.ndarray, limits: np.ndarray
) -> float:
    """Share of exits that are equal, or whose first gate was near its threshold."""
    theirs, ours = pairs.T
    near = np.zeros(len(pairs), bool)
    for row in np.flatnonzero(theirs != ours):
        gate = min(theirs[row], ours[row])
        distance = abs(confidences[row, gate] - limits[gate])
        near[row] = distance <= TIE * np.ptp(confidences[:, gate])
    return float(((theirs == ours) | near).mean())


def _batches(images: np.ndarray, seconds: float | None) -> Iterator[np.ndarray]:
    """Images a few at a time; no more begin when the seconds are over."""
    begin = time.monotonic()
    for start in range(0, len(images), BATCH):
        if seconds is not None and start and time.monotonic() - begin > seconds:
            return
        yield images[start : start + BATCH]


def _agreement(
    theirs: np.ndarray, ours: np.ndarray, same: np.ndarray
) -> dict[str, float]:
    """Fields of `Parity` from raw scores `[N, ..., classes]` of both sides.

    `same` says which come from the same exit; of others the exits' agreement tells.
    """
    scale = float(np.median(_spread(ours)))
    clear = _clearly_equal(theirs, ours, scale)[same]
    return {
        "max_difference": float(np.abs(theirs - ours).max() / np.abs(ours).max()),
        "argmax_agreement": float((label_of(theirs) == label_of(ours)).mean()),
        "clear_argmax_agreement": float(clear.mean()) if clear.size else 1.0,
    }


def _anytime_parity(
    model: AnytimeModel,
    litert: LiteRTModel,
    images: np.ndarray,
    seconds: float | None = None,
) -> Parity:
    """Every step and every sub-network of a file beside the model's."""
    network = prepared_anytime(model).network
    named = {
        name: k
        for kind in ("step", "subnetwork")
        for k, name in litert.table.numbered(kind).items()
    }
    theirs: dict[str, list[np.ndarray]] = {name: [] for name in named}
    ours: dict[str, list[np.ndarray]] = {name: [] for name in named}
    samples = 0
    for batch in _batches(images, seconds):
        samples += len(batch)
        x = keras.ops.convert_to_tensor(batch.astype("float32"))
        answers = {
            k: keras.ops.convert_to_numpy(network.at(k, x)) for k in set(named.values())
        }
        for index, image in enumerate(batch):
            kept: dict[str, Any] = {"image": image}
            for name, k in named.items():
                wanted = litert.signatures[name].inputs
                outputs = litert.run(name, **{key: kept[key] for key in wanted})
                theirs[name].append(outputs.pop("logits")[0])
                ours[name].append(answers[k][index])
                kept |= outputs
    every = np.ones(samples, bool)
    found = [_agreement(np.stack(theirs[n]), np.stack(ours[n]), every) for n in named]
    columns = {name: [row[name] for row in found] for name in found[0]}
    difference = max(columns.pop("max_difference"))
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    return Parity(samples, difference, **means)


def check_parity(
    model: keras.Model,
    path: str | os.PathLike[str],
    images: np.ndarray,
    *,
    seconds: float | None = None,
) -> Parity:
    """Run images through a file's `explain` and through Keras, and compare.

    Of an anytime net all steps and sub-networks are compared. A net that was trained in
    another precision is computed in float32 in Keras too, as it is in the file.

    Args:
        model: The Keras model that was exported.
        path: The exported file.
        images: `[N, height, width, channels]`, 0 to 255, or other inputs of the model.
        seconds: After which no more images are begun. None: all are compared.
    """
    litert = LiteRTModel(path)
    if isinstance(model, AnytimeModel):
        return _anytime_parity(model, litert, images, seconds)
    ask, sums = witness_of(model), _Sums()
    for batch in _batches(images, seconds):
        witness = ask(batch.astype("float32"))
        sums.witnesses.append(witness)
        for row, image in enumerate(batch):
            sums.add(litert.run("explain", image=image), witness, row)
    exits: dict[str, float] = {}
    same = np.ones(sums.samples, bool)
    if sums.exits:
        pairs = np.stack(sums.exits)
        same = pairs[:, 0] == pairs[:, 1]
        confidences = [
            w.confidences for w in sums.witnesses if w.confidences is not None
        ]
        exits["exit_agreement"] = float(same.mean())
        exits["clear_exit_agreement"] = _clear_exits(
            pairs, np.concatenate(confidences), model.thresholds
        )
    return Parity(
        samples=sums.samples,
        decision_agreement=float(np.concatenate(sums.decisions).mean())
        if sums.decisions
        else None,
        max_score_difference=sums.score_difference,
        **_agreement(np.stack(sums.theirs), np.stack(sums.ours), same),
        **exits,
    )


def warn_of(parity: Parity, measured_on: str) -> None:
    """Warn where labels or exits of a file are clearly not those of its model.

    Args:
        parity: On some images.
        measured_on: Which images, in words.
    """
    found = [
        f"{share:.1%} of the {name}"
        for name, share, clear in (
            ("labels", parity.argmax_agreement, parity.clear_argmax_agreement),
            ("exits", parity.exit_agreement, parity.clear_exit_agreement),
        )
        if share is not None and clear is not None and clear < AT_LEAST
    ]
    if found:
        warn(
            f"The file agrees with Keras on {' and '.join(found)} only, of "
            f"{parity.samples} {measured_on}: see `ExportReport.parity`. Give "
            "`parity_data` for a judgement on images of yours, or another "
            "`quantization`",
        )
