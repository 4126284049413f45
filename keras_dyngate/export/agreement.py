"""How far a file and its Keras model agree: what is compared, and counted."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_dyngate._labels import label_of
from keras_dyngate.runtime import LiteRTModel

# What a net is hardly surer of counts as equal for `warn_of`: that part of the spread
# between its scores.
TIE = 0.1
BATCH = 4  # images between two looks at the clock
WHOLE = 32  # images at a time where all are compared


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
class Witness:
    """What Keras says of some images, all in float32, as a file computes it.

    Attributes:
        logits: `[N, ..., classes]`, what the exit that it leaves at answers with.
        decisions: Of controllers, by name; what comes after the exit reads 0.
        confidences: Of every gate, `[N, gates]`; None without exits.
        exits: `[N]`, or None.
        thresholds: `[gates]`, or None.
    """

    logits: np.ndarray
    decisions: dict[str, np.ndarray]
    confidences: np.ndarray | None = None
    exits: np.ndarray | None = None
    thresholds: np.ndarray | None = None


Ask = Callable[[np.ndarray], Witness]


@dataclasses.dataclass
class _Sums:
    """What is gathered over the images."""

    samples: int = 0
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


def _clear_exits(pairs: np.ndarray, witnesses: Sequence[Witness]) -> float:
    """Share of exits that are equal, or whose first gate was near its threshold."""
    found = [w.confidences for w in witnesses if w.confidences is not None]
    confidences, limits = np.concatenate(found), witnesses[0].thresholds
    assert limits is not None
    theirs, ours = pairs.T
    near = np.zeros(len(pairs), bool)
    for row in np.flatnonzero(theirs != ours):
        gate = min(theirs[row], ours[row])
        distance = abs(confidences[row, gate] - limits[gate])
        near[row] = distance <= TIE * np.ptp(confidences[:, gate])
    return float(((theirs == ours) | near).mean())


def batches(images: np.ndarray, seconds: float | None) -> Iterator[np.ndarray]:
    """Images a few at a time; no more begin when the seconds are over."""
    begin, size = time.monotonic(), WHOLE if seconds is None else BATCH
    for start in range(0, len(images), size):
        if seconds is not None and start and time.monotonic() - begin > seconds:
            return
        yield images[start : start + size]


def agreement(
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


def witnessed_parity(
    ask: Ask, litert: LiteRTModel, images: np.ndarray, seconds: float | None = None
) -> Parity:
    """Answers and decisions of a file beside those of Keras.

    Args:
        ask: For what Keras says of a batch of images.
        litert: A file with the signature `explain`.
        images: `[N, ...]`.
        seconds: After which no more images are begun. None: all are compared.
    """
    sums, explain = _Sums(), litert.table.first("witness") or "explain"
    for batch in batches(images, seconds):
        witness = ask(batch.astype("float32"))
        sums.witnesses.append(witness)
        for row, image in enumerate(batch):
            sums.add(litert.run(explain, image=image), witness, row)
    exits: dict[str, float] = {}
    same = np.ones(sums.samples, bool)
    if sums.exits:
        pairs = np.stack(sums.exits)
        same = pairs[:, 0] == pairs[:, 1]
        exits["exit_agreement"] = float(same.mean())
        exits["clear_exit_agreement"] = _clear_exits(pairs, sums.witnesses)
    return Parity(
        samples=sums.samples,
        decision_agreement=float(np.concatenate(sums.decisions).mean())
        if sums.decisions
        else None,
        max_score_difference=sums.score_difference,
        **agreement(np.stack(sums.theirs), np.stack(sums.ours), same),
        **exits,
    )
