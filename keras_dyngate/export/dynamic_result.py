"""What `make_dynamic` found: the answer, its file, and a table of all that was tried."""

import dataclasses
from typing import Any

import keras

from keras_dyngate.cost.budget import Budget


@dataclasses.dataclass(frozen=True)
class Tried:
    """One net that was tried, as a file.

    Attributes:
        name: What it is: "exits", "layer gates", "the plain net at 128 pixels", ...
        dynamic: Whether it decides per picture.
        model: In Keras, its thresholds set.
        quantization: Of the file.
        content: The file.
        accuracy: On the validation pictures, by the file.
        ms: Of a picture, mean; all files are timed in one run, in turn.
        macs: Of a picture, mean.
        kept: Whether it keeps to the budget, and to the accuracy that was wished.
    """

    name: str
    dynamic: bool
    model: keras.Model
    quantization: str
    content: bytes = dataclasses.field(repr=False)
    accuracy: float
    ms: float
    macs: float
    kept: bool = False

    @property
    def bytes(self) -> int:
        """Of the file."""
        return len(self.content)


@dataclasses.dataclass(frozen=True)
class DynamicResult:
    """The result of `make_dynamic`.

    Attributes:
        model: The answer in Keras.
        path: Its file.
        answer: Its name in `tried`.
        tried: All nets that were tried, the plain net first, in the file's precision.
        budget: What was asked for: the answer is the best that keeps to it, by accuracy
            or, for a budget of accuracy, by time.
        max_accuracy_drop: The accuracy that may be lost, 0 to 1; None: any.
        thresholds: Of the answer's exits; None: it has none.
        table: Measured costs of the gated net that was tried; None: there was none.
        left_out: What was not tried, and why: a sentence each.
        seconds: Of the whole.

    Example:
        ```python
        layers = keras.layers
        convs = [layers.Conv2D(16, 3, activation="relu", name=n) for n in ("a", "b")]
        top = [layers.GlobalAveragePooling2D(), layers.Dense(2)]
        net = keras.Sequential([keras.Input((12, 12, 3)), *convs, *top])
        x = np.random.default_rng(0).uniform(0, 255, (48, 12, 12, 3)).astype("float32")
        data = (x[:32], np.arange(32) % 2), (x[32:], np.arange(16) % 2)
        few = {"epochs": 1, "exit_epochs": 1, "joint_epochs": 1}
        found = kd.make_dynamic(net, *data, "macs:0.8x", **few)
        print(found)
        ```
    """

    model: keras.Model
    path: str
    answer: str
    tried: tuple[Tried, ...]
    budget: Budget | None
    max_accuracy_drop: float | None
    thresholds: tuple[float, ...] | None
    table: Any
    left_out: tuple[str, ...]
    seconds: float

    @property
    def plain(self) -> Tried:
        """The net as it was given."""
        return self.tried[0]

    @property
    def best(self) -> Tried:
        """The answer."""
        return next(net for net in self.tried if net.name == self.answer)

    @property
    def kept(self) -> bool:
        """Whether the answer keeps to what was asked for."""
        return self.best.kept

    @property
    def pays(self) -> bool:
        """Whether a net that decides per picture is the answer, and none beats it."""
        return self.best.dynamic and self.better is None

    @property
    def better(self) -> Tried | None:
        """A static net that is faster and no less accurate than a dynamic answer."""
        best = self.best
        found = [
            net
            for net in self.tried
            if not net.dynamic and net.ms <= best.ms and net.accuracy >= best.accuracy
        ]
        return min(found, key=lambda net: net.ms) if found and best.dynamic else None

    @property
    def sentence(self) -> str:
        """What it saves, and whether it paid."""
        best, plain = self.best, self.plain
        took = (
            f"{best.ms:.2f} ms a picture, {best.ms / plain.ms:.2f} of the plain net's "
            f"time, {best.macs / plain.macs:.2f} of its MACs, accuracy "
            f"{best.accuracy:.1%} (plain {plain.accuracy:.1%})"
        )
        if not self.kept:
            return (
                f"Nothing that was tried keeps to {self.asked}. The closest is "
                f"{best.name}: {took}."
            )
        if self.better is not None:
            return (
                f"It does not pay here: {best.name} keeps to {self.asked}, {took}; but "
                f"{self.better.name}, in {self.better.quantization}, takes "
                f"{self.better.ms:.2f} ms at {self.better.accuracy:.1%}."
            )
        others = [net for net in self.tried if net.dynamic != best.dynamic]
        if self.pays:
            text = f"It pays: {best.name}, {took}."
            rivals = [net for net in others if net.kept]
            if not rivals:
                return f"{text} No static net that was tried keeps to {self.asked}."
            rival = self.nearest(rivals)
            return (
                f"{text} The best static net, {rival.name}, takes {rival.ms:.2f} ms at "
                f"{rival.accuracy:.1%}."
            )
        text = f"It does not pay here: {best.name} is the better choice, {took}."
        rivals = [net for net in others if net.kept] or others
        if not rivals:
            return text
        rival = self.nearest(rivals)
        return (
            f"{text} The best dynamic net, {rival.name}, takes {rival.ms:.2f} ms at "
            f"{rival.accuracy:.1%}."
        )

    @property
    def asked(self) -> str:
        """The wish in words."""
        words = [] if self.budget is None else [f"the budget {self.budget}"]
        if self.max_accuracy_drop is not None:
            words.append(f"an accuracy drop of {self.max_accuracy_drop:.1%}")
        return " and ".join(words)

    def nearest(self, nets: list[Tried]) -> Tried:
        """The best of some nets, by what was asked for: accuracy, or time."""
        if self.budget is not None and self.budget.unit is not None:
            return max(nets, key=lambda net: (net.accuracy, -net.ms))
        return min(nets, key=lambda net: (net.ms, -net.accuracy))

    def __repr__(self) -> str:
        return f"DynamicResult(answer={self.answer!r}, path={self.path!r})"

    def __str__(self) -> str:
        plain = self.plain
        names = [f"{net.name}, {net.quantization}" for net in self.tried]
        width = max(map(len, names)) + 1
        heads = f"{'ms':>8}{'time':>6}{'MACs':>6}{'right':>8}{'MB':>7}{'kept':>6}"
        lines = [f"{'':{width}}{heads}"]
        for name, net in zip(names, self.tried, strict=True):
            lines.append(
                f"{name:{width}}{net.ms:8.2f}{net.ms / plain.ms:6.2f}"
                f"{net.macs / plain.macs:6.2f}{net.accuracy:8.1%}{net.bytes / 1e6:7.2f}"
                f"{'yes' if net.kept else 'no':>6}"
            )
        lines.append(
            "ms: of a picture; time, MACs: shares of the plain net's; right: of the "
            f"validation pictures; kept: to {self.asked}"
        )
        lines += [f"not tried: {sentence}" for sentence in self.left_out]
        return "\n".join([*lines, self.sentence, f"file: {self.path}"])
