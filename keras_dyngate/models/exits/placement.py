"""Where exits pay: by the time of a file, and by what quick probes know at a place.

placement = place_exits(model, x_train, y_train, exits=2, quantization="int8")
print(placement)
model = add_decision_gates(model, placement.exits, head="separable")
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import one_of, positive_int
from keras_dyngate.cost.counter import model_profile
from keras_dyngate.models.exits.cut_points import CutPoint, check_trunk, cut_points
from keras_dyngate.models.exits.cut_times import QUANTIZATIONS, spread, timed
from keras_dyngate.models.exits.heads import HEAD_SHARE, KINDS, head_body
from keras_dyngate.models.exits.probes import probe_answers

LATEST = 0.95  # share of the time, behind which an exit saves nothing
APART = 0.02  # of the time, between two candidates at least
DEAR = 0.45  # of the time, for the first .3 of the MACs
LOSS = 0.01  # of right answers, that is no loss yet: 3 of 300 pictures
GAIN = 0.01  # of the time, that one exit more has to save
THRESHOLDS = 30


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a quick probe of a place showed.

    Attributes:
        point: The place; its time where times were measured.
        time_share: Time up to it over that of the whole net, or the same of MACs.
        head_share: Of its head, estimated: its MACs over the net's.
        accuracy: Share of right answers of a small head there, 0 to 1; without labels
            of those that are the net's own.
    """

    point: CutPoint
    time_share: float
    head_share: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where exits pay, as `place_exits` found it.

    Attributes:
        exits: The chosen places in the order of the net; none where no exit pays.
        probes: Of all candidates.
        accuracy: Of the net's own head on the pictures judged on, 1 without labels.
        expected: Expected time with those exits over the plain net's, by the probes;
            heads that are taught longer do better.
        threshold: Of the softmax at all exits, for that.
        measured: What was timed, "float32", "int8", ...; None: MACs stood in for time.
        pictures: How many were judged on.
        early_layers_dear: Whether the first .3 of the MACs take .45 of the time or more:
            exits behind them save little, and a first net before them may do better
            (design of this library).
        seconds: That it took.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        x = np.random.default_rng(0).uniform(0, 255, (64, 16, 16, 3)).astype("float32")
        placement = kd.place_exits(net, x, np.arange(64) % 4, exits=1, head="linear")
        model = kd.add_decision_gates(net, placement.exits)
        ```
    """

    exits: tuple[CutPoint, ...]
    probes: tuple[Probe, ...]
    accuracy: float
    expected: float
    threshold: float
    measured: str | None
    pictures: int
    early_layers_dear: bool
    seconds: float

    def __str__(self) -> str:
        of = f"{self.measured} time" if self.measured else "time (by MACs)"
        width = max(len(probe.point.layer) for probe in self.probes)
        lines = [f"{'after':{width}}  MACs  {of}, its head's  right"]
        for probe in self.probes:
            mark = " <-" if probe.point in self.exits else ""
            lines.append(
                f"{probe.point.layer:{width}}  {probe.point.share:.2f}  "
                f"{probe.time_share:.2f} + {probe.head_share:.3f}  "
                f"{probe.accuracy:.1%}{mark}"
            )
        lines.append(f"{'the net':{width}}  1.00  1.00  {self.accuracy:.1%}")
        if self.exits:
            names = ", ".join(point.layer for point in self.exits)
            lines.append(
                f"exits after {names}: {self.expected:.2f} of the {of} expected, on "
                f"{self.pictures} pictures"
            )
        else:
            lines.append(f"no exit pays, on {self.pictures} pictures")
        if self.early_layers_dear:
            lines.append("early layers are dear: try a first net before them (`first`)")
        return "\n".join(lines)


def place_exits(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    exits: int = 2,
    quantization: str | None = None,
    head: Any = "separable",
    candidates: int = 10,
    validation_data: Any = None,
) -> Placement:
    """Choose places for exits by expected time, at the net's own accuracy.

    Candidates lie apart in MACs, at the narrowest tensors. Their time is that of the
    net's stages as a file, on this machine. At each a small head is taught for a few
    epochs by the net's own answers, and by labels if there are any, on features averaged
    to maps of at most 6 rows. Of all sets of at most `exits` candidates, with one
    threshold on the softmax of all, that of the least expected time is taken whose
    answers are right as often as the net's own, but for a hundredth; each exit has to
    save a hundredth of the time (design of this library).

    Args:
        model: As for `add_decision_gates`.
        x: Training pictures, an array or a dataset of batches, labels with them or not:
            1,500 of them are used, drawn at random from an array, the first of a
            dataset.
        y: Labels of an array; None: the net's own answers count as right.
        exits: How many at most; fewer come back where one more does not pay.
        quantization: Of the file that will ship: None or "float32", "float16", "dynamic"
            or "int8".
        head: What the exits will be, see `add_decision_gates`: for what they cost.
        candidates: Places to try at most.
        validation_data: (pictures, labels), pictures or a dataset to judge on. None: a
            fifth of `x`. Pictures that the net was not trained on judge better: on its
            own the net is hardly ever wrong, and exits look worse beside it.

    Returns:
        A `Placement`; print it for the table of all candidates. Where Keras does not run
        on TensorFlow, shares of the MACs stand in for those of the time.

    Raises:
        ValueError: If the model has no place for an exit; for labels that are no classes
            of the net, pictures of another shape, or a bad argument.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        x = np.random.default_rng(0).uniform(0, 255, (64, 16, 16, 3)).astype("float32")
        placement = kd.place_exits(net, x, np.arange(64) % 4, exits=1, head="linear")
        model = kd.add_decision_gates(net, placement.exits)
        ```
    """
    start = time.perf_counter()
    check_trunk(model)
    exits = positive_int("exits", exits)
    candidates = positive_int("candidates", candidates)
    one_of("quantization", quantization, (None, *QUANTIZATIONS))
    if isinstance(head, str):
        one_of("head", head, KINDS)
    points = spread(_possible(model), candidates)
    answers = probe_answers(model, [p.layer for p in points], x, y, validation_data)
    measured = None
    if keras.backend.backend() == "tensorflow":
        measured = quantization or "float32"
        points = timed(model, points, measured, answers.pictures)
    shares = [p.share if p.time_share is None else p.time_share for p in points]
    early = np.interp(0.3, [0.0, *(p.share for p in points), 1.0], [0.0, *shares, 1.0])
    kept = [0] if shares[0] <= LATEST else []
    for index, share in enumerate(shares):
        if kept and share >= shares[kept[-1]] + APART and share <= LATEST:
            kept.append(index)
    kept = kept or [0]
    total = model_profile(model).total
    probes = tuple(
        Probe(
            points[i],
            shares[i],
            _head_macs(head, points[i].shape, answers.classes, total) / total,
            float(answers.right[:, i].mean()),
        )
        for i in kept
    )
    chosen, threshold, expected = cheapest(
        answers.confidence[:, kept],
        answers.right[:, kept],
        answers.head_right,
        [probe.time_share for probe in probes],
        [probe.head_share for probe in probes],
        exits,
    )
    return Placement(
        exits=tuple(probes[i].point for i in chosen),
        probes=probes,
        accuracy=float(answers.head_right.mean()),
        expected=expected,
        threshold=threshold,
        measured=measured,
        pictures=len(answers.right),
        early_layers_dear=bool(early >= DEAR),
        seconds=time.perf_counter() - start,
    )


def _possible(model: keras.Model) -> list[CutPoint]:
    """Cut points that can carry an exit: feature maps, in a net that has any."""
    points = [p for p in cut_points(model) if p.share <= LATEST]
    known = [p for p in points if None not in p.shape and len(p.shape) <= 4]
    maps = [p for p in known if len(p.shape) == 3]
    if not known:
        raise ValueError(
            "`model` must have a cut point for an exit, with features of known size. "
            f"Received: model={model.name!r}"
        )
    return maps or known


def _head_macs(head: Any, shape: Sequence[Any], classes: int, total: int) -> float:
    """MACs of an exit's head; those that it may cost where it is the user's own."""
    if head == "linear":
        return shape[-1] * classes
    if not isinstance(head, str) or len(shape) != 3:
        return HEAD_SHARE * total
    return model_profile(head_body(head, shape, classes, HEAD_SHARE * total)).total


def cheapest(
    confidence: np.ndarray,
    right: np.ndarray,
    head_right: np.ndarray,
    path_shares: Sequence[float],
    head_shares: Sequence[float],
    exits: int,
) -> tuple[tuple[int, ...], float, float]:
    """The exits of least expected time at the head's accuracy; see `place_exits`.

    Args:
        confidence: Of the answer at each of k places, `[N, k]`.
        right: Whether it is right, bool `[N, k]`.
        head_right: Whether the net's own is, bool `[N]`.
        path_shares: Time to each place, of the whole net's.
        head_shares: Time of a head at each.
        exits: How many at most.

    Returns:
        Which places, ascending; the threshold of all; the expected share of the time.
    """
    rows, lowest = np.arange(len(right)), head_right.mean() - LOSS - 1e-9
    thresholds = np.quantile(confidence, np.linspace(0, 1, THRESHOLDS))
    found: tuple[tuple[int, ...], float, float] = ((), float("inf"), 1.0)
    places = range(confidence.shape[1])
    for count in range(1, min(exits, len(places)) + 1):
        best = found
        for chosen in itertools.combinations(places, count):
            at = list(chosen)
            heads = np.cumsum([head_shares[i] for i in at])
            cost = np.append([path_shares[i] for i in at] + heads, 1.0 + heads[-1])
            answers = np.column_stack([right[:, at], head_right])
            for threshold in np.unique(thresholds):
                leaves = confidence[:, at] >= threshold
                exit_of = np.where(leaves.any(1), leaves.argmax(1), count)
                expected = float(cost[exit_of].mean())
                if expected < best[2] and answers[rows, exit_of].mean() >= lowest:
                    best = chosen, float(threshold), expected
        if best[2] <= found[2] - GAIN:
            found = best
    return found
