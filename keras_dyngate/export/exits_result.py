"""What `add_exits` found: the net, its file, a table, the static nets beside it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate.thresholds.table import ExitOutcome, ExitTable, exits_of

EXITS = "exits"  # the answer, where the dynamic net is that


@dataclasses.dataclass(frozen=True)
class Exit:
    """One exit of a file, as the validation pictures use it.

    Attributes:
        name: Of its gate, or "head".
        after: Its place, "input" at the net's input; None: the net's own head.
        ms: Median time of a picture that leaves there.
        time_share: That over the plain file's.
        macs: Of such a picture, mean.
        share: Of the pictures that leave there.
        accuracy: Of those; NaN where none does.
    """

    name: str
    after: str | None
    ms: float
    time_share: float
    macs: float
    share: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class StaticNet:
    """A net without exits, as a file.

    Attributes:
        name: What it is.
        model: In Keras.
        quantization: Of the file.
        content: The file.
        accuracy: On the validation pictures, by the file.
        ms: Median time of a picture.
        macs: Of a picture.
        kept: Whether it loses no more than was wished.
    """

    name: str
    model: keras.Model
    quantization: str
    content: bytes = dataclasses.field(repr=False)
    accuracy: float
    ms: float
    macs: int
    kept: bool


@dataclasses.dataclass(frozen=True)
class PerClass:
    """Who of a class leaves early: `share` of its pictures, `accuracy` of those."""

    label: int
    pictures: int
    share: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class ExitsResult:
    """The result of `add_exits`.

    Attributes:
        model: The answer in Keras: the net with exits, or the static net that is better.
        path: Its file.
        answer: "exits", or the name of that static net, "the plain net" among them.
        exits_model: The net with exits in any case.
        exits: Table of its exits, in the precision of the file.
        outcome: Of its thresholds on the validation pictures; its head is the plain net,
            as it was given, and its `ms` the sum of shares and times of `exits`.
        kept: Whether these thresholds keep to the wish; if not, nobody leaves.
        ms: Mean time of a picture by the file with exits, of pictures one after the
            other. All times are taken in one run, in turn: of this file, to each of its
            exits, and of the static nets.
        plain: The net as it was given, in the file's precision.
        rivals: Static nets that were tried.
        curve: Accuracy over cost on the validation pictures; thresholds on the same.
        classes: Who leaves early, by class.
        placement: How the places were chosen, if they were.
        seconds: Of the whole.

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
        result = kd.add_exits(
            net, x[:32], (x[32:], np.arange(32) % 4), exits=["early"], first=None, epochs=1
        )
        print(result.sentence)
        ```
    """

    model: keras.Model
    path: str
    answer: str
    exits_model: Any
    exits: tuple[Exit, ...]
    outcome: ExitOutcome
    kept: bool
    ms: float
    plain: StaticNet
    rivals: tuple[StaticNet, ...]
    curve: tuple[ExitOutcome, ...]
    classes: tuple[PerClass, ...]
    placement: Any
    seconds: float

    @property
    def sentence(self) -> str:
        """What it saves, and whether it pays."""
        plain, accuracy = self.plain, self.outcome.accuracy
        took = (
            f"{self.ms:.2f} ms a picture, {self.ms / plain.ms:.2f} of the plain net's "
            f"time and {self.outcome.macs / plain.macs:.2f} of its MACs, accuracy "
            f"{accuracy:.1%} (plain {plain.accuracy:.1%})"
        )
        if self.answer == plain.name:
            why = "do not pay" if self.kept else "do not keep to the wish"
            return f"Exits {why} here: {took}. The plain net is the answer."
        if self.answer != EXITS:
            (best,) = (net for net in self.rivals if net.name == self.answer)
            return (
                f"{best.name[0].upper()}{best.name[1:]}, {best.quantization}, is the "
                f"answer: {best.ms:.2f} ms a picture, {best.ms / plain.ms:.2f} of the "
                f"plain net's time and "
                f"{best.macs / plain.macs:.2f} of its MACs, accuracy {best.accuracy:.1%} "
                f"(plain {plain.accuracy:.1%}); exits took {self.ms:.2f} ms at "
                f"{accuracy:.1%}."
            )
        text = f"Exits save {1 - self.ms / plain.ms:.0%} of the time: {took}; "
        rivals = [net for net in self.rivals if net.kept]
        if not rivals:
            return text + "no static net that was tried is as accurate as wished."
        best = min(rivals, key=lambda net: net.ms)
        return (
            f"{text}the best static net, {best.name}, takes {best.ms:.2f} ms for "
            f"{best.accuracy:.1%}."
        )

    def __repr__(self) -> str:
        return f"ExitsResult(answer={self.answer!r}, path={self.path!r})"

    def __str__(self) -> str:
        plain = self.plain
        titles = [f"{net.name}, {net.quantization}" for net in (plain, *self.rivals)]
        names = [
            f"{row.name}, after {row.after}" if row.after else f"{row.name}, at the end"
            for row in self.exits
        ]
        width = max(map(len, ["static net", *titles, *names])) + 1
        heads = f"{'ms':>8}{'time':>6}{'MACs':>6}{'leave':>8}{'right':>8}"
        lines = [f"{'exit':{width}}{heads}"]
        for name, row in zip(names, self.exits, strict=True):
            right = f"{row.accuracy:8.1%}" if row.share else f"{'-':>8}"
            lines.append(
                f"{name:{width}}{row.ms:8.2f}{row.time_share:6.2f}"
                f"{row.macs / plain.macs:6.2f}{row.share:8.1%}{right}"
            )
        lines.append(f"{'static net':{width}}{heads.replace('leave', '     ')}")
        for title, net in zip(titles, (plain, *self.rivals), strict=True):
            lines.append(
                f"{title:{width}}{net.ms:8.2f}{net.ms / plain.ms:6.2f}"
                f"{net.macs / plain.macs:6.2f}{'':8}{net.accuracy:8.1%}"
            )
        lines.append(
            "ms: of a picture; time, MACs: shares of the plain net's; leave: of all "
            "pictures; right: of those that leave there, of static nets of all"
        )
        early = [row for row in self.classes if row.share]
        if early:
            worst = sorted(early, key=lambda row: row.accuracy)[:3]
            found = [
                f"{row.label} ({row.accuracy:.0%} of the {row.share:.0%} that leave)"
                for row in worst
            ]
            lines.append(f"classes least right where they leave: {', '.join(found)}")
        if self.outcome.promise is not None:
            lines.append(f"promised: {self.outcome.promise}")
        return "\n".join([*lines, self.sentence, f"file: {self.path}"])


def exit_rows(
    names: Sequence[str],
    places: Sequence[str | None],
    table: ExitTable,
    thresholds: Sequence[float],
    path_ms: Sequence[float],
    plain_ms: float,
) -> tuple[Exit, ...]:
    """The table of a file's exits on labelled pictures."""
    exits, rows = exits_of(table.confidence, thresholds), np.arange(len(table.labels))
    right = table.correct[rows, exits]
    found = []
    for index, (name, place) in enumerate(zip(names, places, strict=True)):
        mine = exits == index
        found.append(
            Exit(
                name=name,
                after=place,
                ms=path_ms[index],
                time_share=path_ms[index] / plain_ms,
                macs=float(table.macs[:, index].mean()),
                share=float(mine.mean()),
                accuracy=float(right[mine].mean()) if mine.any() else float("nan"),
            )
        )
    return tuple(found)


def class_rows(table: ExitTable, thresholds: Sequence[float]) -> tuple[PerClass, ...]:
    """Who leaves early, by class, on labelled pictures."""
    assert table.truth is not None
    exits, rows = exits_of(table.confidence, thresholds), np.arange(len(table.labels))
    right, early = table.correct[rows, exits], exits < table.confidence.shape[1]
    found = []
    for label in np.unique(table.truth):
        mine = table.truth == label
        gone = mine & early
        found.append(
            PerClass(
                int(label),
                int(mine.sum()),
                float(gone.sum() / mine.sum()),
                float(right[gone].mean()) if gone.any() else float("nan"),
            )
        )
    return tuple(found)
