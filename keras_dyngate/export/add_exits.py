"""From a trained classifier and pictures to a file that answers early where it may.

    result = kd.add_exits(model, (x_train, y_train), (x_val, y_val), quantization="int8")
    print(result)

Places, heads, a first net, teaching, thresholds on the file, and the static nets that
stand against it: whichever is best at the wished accuracy is the answer.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import (
    boolean,
    fraction,
    one_of,
    positive_int,
    whole_number,
)
from keras_dyngate._deprecation import renamed
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate._graph import flat_graph
from keras_dyngate._images import finite_images
from keras_dyngate._labels import label_of
from keras_dyngate._logits import squashing_call
from keras_dyngate.cost.counter import model_profile
from keras_dyngate.export.arguments import check_labels, class_count
from keras_dyngate.export.conversion import QUANTIZATIONS
from keras_dyngate.export.exits_result import (
    EXITS,
    ExitsResult,
    StaticNet,
    class_rows,
    exit_rows,
)
from keras_dyngate.export.exporter import export_tflite
from keras_dyngate.models.exits.cut_at_exit import cut_at_exit
from keras_dyngate.models.exits.cut_points import check_trunk, checked_graph
from keras_dyngate.models.exits.cutting import resolve_cuts
from keras_dyngate.models.exits.data import Batch, batches, class_indices, fitting
from keras_dyngate.models.exits.decision_gates import add_decision_gates
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.first_nets import automatic_net, first_net
from keras_dyngate.models.exits.heads import KINDS
from keras_dyngate.models.exits.placement import place_exits
from keras_dyngate.models.exits.teaching import copy_of
from keras_dyngate.runtime import LiteRTModel, compare_latency
from keras_dyngate.runtime.exit_calibration import file_exit_table, set_thresholds
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.thresholds.paired_loss import loss_p_value
from keras_dyngate.thresholds.promise import check_promise, path_rows
from keras_dyngate.thresholds.table import ExitOutcome, ExitTable, outcome
from keras_dyngate.thresholds.wish import Wish, sweep

PLACES = 2  # exits in the net that "auto" looks for
JOINT_EPOCHS = 12
EPOCHS = 12
REPRESENTATIVE = 128  # training pictures for 8 bits
TIMED = 64  # validation pictures that files are timed on, in turn
HARDLY = 0.01  # an exit that fewer pictures than that leave at is left out
TIE = 1.05  # times as slow is hardly slower
NEAR = 0.02  # a static net this far below the wish in Keras is not made a file of


@renamed(max_accuracy_drop="accuracy_drop")
def add_exits(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    accuracy_drop: float = 0.0,
    confidence: float | None = None,
    quantization: str | None = None,
    exits: int | str | Sequence[Any] = "auto",
    first: keras.Model | str | None = "auto",
    first_weights: str | os.PathLike[str] | None = "imagenet",
    head: Any = "separable",
    joint: bool = False,
    epochs: int = EPOCHS,
    path: str | os.PathLike[str] = "exits.tflite",
    labels: Sequence[str] | None = None,
    checkpoint: Any = None,
    verbose: Any = "auto",
    seed: int = 0,
) -> ExitsResult:
    """Give a trained classifier early exits, as a file, and say whether they pay.

    Args:
        model: Any functional or Sequential classifier, trained. It stays as it is.
        train: Images and labels, `(x, y)` or a dataset of such batches; images alone
            will do, which the net's own answers teach. What the exits are taught on, and
            what 8-bit files are calibrated with.
        validation: The like, not among those of `train`: places, thresholds and the
            choice between nets come from it, so that another set must judge the result.
        accuracy_drop: Accuracy that may be lost on `validation` against the net as
            it is, -1 to 1. Default 0.
        confidence: Probability at which that holds on fresh pictures too, such as .9, of
            the thresholds, and of each static net, on its own (see
            `EarlyExitModel.calibrate`); None (default): on these alone. It takes a drop
            above 0: without one nothing but a clear gain can be promised.
        quantization: Of the file; as in `export_tflite`.
        exits: Places: "auto" (default), up to two chosen by time (`place_exits`); so
            many at most; or a list of them, as `after` of `add_decision_gates`.
        first: A first net, "auto" (default; none where the pictures are too small or the
            trunk is), or None. See `add_decision_gates`.
        first_weights: See `add_decision_gates`.
        head: See `add_decision_gates`. Default "separable".
        joint: Whether all weights then learn together, 12 epochs, on a copy of the net.
        epochs: Of the teaching on the frozen trunk. Default 12.
        path: Of the file to write. Default "exits.tflite".
        labels: Class names for the file.
        checkpoint: Path: the teaching is kept beside it and gone on with.
        verbose: "auto" (default): a line per epoch; 0: nothing.
        seed: Of all that is random in the teaching.

    Returns:
        An `ExitsResult`: model, file, table, curve, the static nets, and one sentence.

    Raises:
        ValueError: For a model that cannot carry exits, pictures or labels that do not
            suit it, a wish that cannot be kept to, or a bad argument.

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
    start = time.perf_counter()
    check_trunk(model)
    drop = fraction("accuracy_drop", accuracy_drop, low=-1)
    boolean("joint", joint)
    positive_int("epochs", epochs)
    whole_number("seed", seed)
    one_of("verbose", verbose, ("auto", 0, 1, 2))
    if checkpoint is not None:
        writable_target("checkpoint", checkpoint)
    if isinstance(head, str):
        one_of("head", head, KINDS)
    one_of("quantization", quantization, ("float32", *QUANTIZATIONS))
    quantization = None if quantization == "float32" else quantization
    target = writable_target("path", path)
    classes = class_count(checked_graph(model))
    labels = check_labels(labels, classes)
    if isinstance(first, str) and first == "auto":
        first = automatic_net(model, first_weights)
    elif first is not None:
        first_net(model.input_shape, model.output_shape[-1], first)
    x_val, y_val = _arrays("validation", model, validation)
    if confidence is not None:
        check_promise(len(y_val), drop, confidence)
    x_train, y_train = _pair("train", train)
    _check("train", model, x_train, y_train)
    pictures = _some(x_train, y_train)
    plain_labels = _labels(model, x_val)
    places, placement = _places(
        model, x_train, y_train, (x_val, y_val), exits, quantization
    )
    trunk = copy_of(model) if joint else model
    if not places and first is None:
        if placement is None:
            raise ValueError(
                "`exits` must name a place or more where there is no first net. "
                f"Received: exits={exits!r}, first=None"
            )
        # None pays by the probes: one is tried all the same, for the table's sake.
        half = min(placement.probes, key=lambda probe: abs(probe.time_share - 0.5))
        places = [half.point]
    net = add_decision_gates(
        trunk,
        places,
        head=head,
        first=first,
        combine=True,
    )
    net.fit_gates(
        x_train,
        y_train,
        epochs=epochs,
        joint_epochs=JOINT_EPOCHS if joint else 0,
        validation_data=(x_val, y_val),
        checkpoint=checkpoint,
        verbose=verbose,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        maker = _Maker(
            Path(folder), quantization, pictures, labels, x_val, y_val, plain_labels
        )
        made = _calibrated(maker, net, drop, confidence)
        net, file, table, chosen = made.net, made.content, made.table, made.outcome
        plain = maker.static("the plain net", model, quantization)
        rivals = _rivals(maker, model, net, drop, confidence)
        nets = [plain, *rivals]
        ms, path_ms = maker.time(file, {n.name: n.content for n in nets})
        chosen = dataclasses.replace(chosen, ms=float(np.dot(chosen.shares, path_ms)))
        nets = [dataclasses.replace(n, ms=ms[n.name]) for n in nets]
        plain, *rivals = nets
        answer, content = _best(file, ms[EXITS], chosen, made.kept, nets)
        write_whole(target, content)
    names = [*(gate.name for gate in net.gates), "head"]
    spots = [*net.after, None]
    answers = {static.name: static.model for static in (plain, *rivals)}
    return ExitsResult(
        model=answers.get(answer, net),
        path=str(target),
        answer=answer,
        exits_model=net,
        exits=exit_rows(names, spots, table, chosen.thresholds, path_ms, plain.ms),
        outcome=chosen,
        kept=made.kept,
        ms=ms[EXITS],
        plain=plain,
        rivals=tuple(rivals),
        curve=tuple(sweep(table, table, points=39, path_ms=path_ms)),
        classes=class_rows(table, chosen.thresholds),
        placement=placement,
        seconds=time.perf_counter() - start,
    )


def _pair(name: str, data: Any) -> tuple[Any, Any]:
    """(images, labels), or a dataset and None."""
    if not isinstance(data, tuple):
        return data, None
    if len(data) != 2:
        raise ValueError(
            f"`{name}` must be (images, labels), or a dataset of such batches. "
            f"Received: a tuple of {len(data)}"
        )
    return data


def _suited(name: str, model: keras.Model, x: Any, y: Any) -> Iterator[Batch]:
    """Batches of finite images and class indices that suit the model, or a `ValueError`."""
    graph = checked_graph(model)
    shape, classes = tuple(graph.inputs[0].shape), int(graph.outputs[0].shape[-1])
    try:
        for batch in batches(x, y, batch_size=256):
            images = finite_images(name, np.asarray(fitting(batch.x, shape)))
            truth = None if batch.y is None else class_indices(batch.y, classes)
            yield Batch(images, truth, None)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must hold images and labels that suit the model, (images, labels) "
            f"or a dataset of such batches. {error}"
        ) from error


def _arrays(name: str, model: keras.Model, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and class indices of a set that is gone through several times."""
    found = list(_suited(name, model, *_pair(name, data)))
    if any(batch.y is None for batch in found):
        raise ValueError(f"`{name}` must have labels. Received: images alone")
    if not found:
        raise ValueError(f"`{name}` must hold at least one sample. Received: none")
    images, truth, _ = zip(*found, strict=True)
    return np.concatenate(images), np.concatenate(truth)


def _check(name: str, model: keras.Model, x: Any, y: Any) -> None:
    """Refuse pictures that do not suit the model; of a dataset its first batch is seen."""
    for _ in _suited(name, model, x, y):
        if not hasattr(x, "shape"):
            break


def _some(x: Any, y: Any) -> np.ndarray:
    """A few training pictures, spread over an array, the first ones of a dataset."""
    if hasattr(x, "shape"):
        rows = np.linspace(0, len(x) - 1, min(len(x), REPRESENTATIVE)).astype(int)
        return np.asarray(x)[rows]
    found: list[np.ndarray] = []
    for batch in batches(x, y):
        found.append(batch.x)
        if sum(map(len, found)) >= REPRESENTATIVE:
            break
    return np.concatenate(found)[:REPRESENTATIVE]


def _labels(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What a classifier answers, by its raw scores."""
    graph = flat_graph(model)
    assert graph is not None
    scores = model.predict(x, batch_size=64, verbose=0)
    one = scores.shape[-1] == 1
    probabilities = one and squashing_call(graph) is not None
    return label_of(scores - 0.5 if probabilities else scores)


def _places(
    model: keras.Model,
    x: Any,
    y: Any,
    validation: tuple[np.ndarray, np.ndarray],
    exits: Any,
    quantization: str | None,
) -> tuple[list[Any], Any]:
    """Where exits are to be, and how that was found."""
    if isinstance(exits, (list, tuple)):
        try:
            return resolve_cuts(model, exits) if exits else [], None
        except ValueError as error:
            raise ValueError(str(error).replace("after", "exits")) from error
    whole = isinstance(exits, int) and not isinstance(exits, bool) and exits >= 0
    if exits != "auto" and not whole:
        raise ValueError(
            "`exits` must be 'auto', how many at most, or a list of places. "
            f"Received: exits={exits!r}"
        )
    if exits == 0:
        return [], None
    placement = place_exits(
        model,
        x,
        y,
        exits=PLACES if exits == "auto" else exits,
        quantization=quantization,
        validation_data=validation,
    )
    return list(placement.exits), placement


class _Maker:
    """Makes files of nets, and judges them on the validation pictures."""

    def __init__(
        self,
        folder: Path,
        quantization: str | None,
        pictures: np.ndarray,
        labels: Sequence[str] | None,
        x: np.ndarray,
        y: np.ndarray,
        plain_labels: np.ndarray,
    ) -> None:
        self.folder, self.quantization, self.pictures = folder, quantization, pictures
        self.labels, self.x, self.y, self.plain_labels = labels, x, y, plain_labels

    def file(self, model: keras.Model, quantization: str | None) -> LiteRTModel:
        """A file of a net, which stays in the folder."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.tflite"
        eight = quantization in ("dynamic", "int8")
        export_tflite(
            model,
            path,
            quantization=quantization,
            representative_data=self.pictures if eight else None,
            labels=self.labels,
            parity_data=False,
        )
        return LiteRTModel(path)

    def exits(self, model: EarlyExitModel) -> tuple[Path, ExitTable, tuple[float, ...]]:
        """A file with exits, what they say, and the time to each."""
        litert = self.file(model, self.quantization)
        table, path_ms = file_exit_table(litert, self.x, self.y)
        return litert.path, dataclasses.replace(table, plain=self.plain_labels), path_ms

    def static(
        self,
        name: str,
        model: keras.Model,
        quantization: str | None,
        keeps: Callable[[np.ndarray], bool] = lambda right: True,
    ) -> StaticNet:
        """A static net as a file; its time is measured later.

        `keeps` says of the right answers, bool `[N]`, whether they are enough.
        """
        litert = self.file(model, quantization)
        found = litert.evaluate(self.x, self.y)
        return StaticNet(
            name=name,
            model=model,
            quantization=quantization or "float32",
            content=litert.path.read_bytes(),
            accuracy=found["accuracy"],
            ms=found["median_ms"],
            macs=model_profile(model).total,
            kept=keeps(found["labels"] == self.y),
        )

    def time(
        self, exits: bytes, files: dict[str, bytes]
    ) -> tuple[dict[str, float], list[float]]:
        """Mean ms of a picture by each file, and to each exit of one; interleaved."""
        candidates: dict[str, Any] = {}
        rows = np.linspace(0, len(self.x) - 1, min(len(self.x), TIMED)).astype(int)
        inputs = [{"image": image} for image in self.x[rows]]
        for index, (name, content) in enumerate({EXITS: exits, **files}.items()):
            path = self.folder / f"timed_{index}.tflite"
            path.write_bytes(content)
            candidates[name] = (LiteRTModel(path), "classify", inputs)
        litert, _, _ = candidates[EXITS]
        gates = len(litert.metadata["thresholds"])
        paths = [f"to exit {index}" for index in range(gates + 1)]
        for index, name in enumerate(paths):
            limits = limits_to(index, gates)
            there = [{**given, "thresholds": limits} for given in inputs]
            candidates[name] = (litert, "classify_at", there)
        times = {
            name: float(np.median(each.reshape(3, -1), axis=0).mean())
            for name, each in compare_latency(
                candidates, rounds=3 * len(inputs)
            ).items()
        }
        return times, [times.pop(name) for name in paths]


@dataclasses.dataclass(frozen=True)
class _Exits:
    """A net with exits, its file, what it says and takes, and what it is worth."""

    net: EarlyExitModel
    content: bytes
    table: ExitTable
    path_ms: tuple[float, ...]
    outcome: ExitOutcome
    kept: bool


def _chosen(
    table: ExitTable, drop: float, confidence: float | None, path_ms: tuple[float, ...]
) -> tuple[ExitOutcome, bool]:
    """Thresholds, and whether they keep to the wish; if none do, nobody leaves."""
    gates = table.confidence.shape[1]
    wish = Wish(gates, accuracy_drop=drop, confidence=confidence, path_ms=path_ms)
    try:
        return wish.choose(table), True
    except ValueError:
        return outcome(table, np.full(gates, np.inf), path_ms), False


def _calibrated(
    maker: _Maker, net: EarlyExitModel, drop: float, confidence: float | None
) -> _Exits:
    """The net without exits that hardly any picture leaves at, its file and thresholds.

    If no thresholds keep to the wish, nobody leaves, and the outcome has no promise.
    """
    while True:
        rows = path_rows(len(maker.x)) if confidence else np.arange(len(maker.x))
        net.fit_mixing(maker.x[rows], maker.y[rows])
        net.thresholds = [1.0] * len(net.gates)
        path, table, path_ms = maker.exits(net)
        gates = len(net.gates)
        tried, kept = _chosen(table.take(rows), drop, None, path_ms)
        used = [k for k, share in enumerate(tried.shares[:-1]) if share >= HARDLY]
        if len(used) in (0, gates) or not kept:
            chosen, kept = _chosen(table, drop, confidence, path_ms)
            net.thresholds = chosen.thresholds
            set_thresholds(path, chosen.thresholds)
            return _Exits(net, path.read_bytes(), table, path_ms, chosen, kept)
        net = EarlyExitModel(
            net.trunk,
            [net.after[index] for index in used],
            [net.gates[index] for index in used],
            combine=net.combine,
            name=net.name,
        )


def _rivals(
    maker: _Maker,
    model: keras.Model,
    net: EarlyExitModel,
    drop: float,
    confidence: float | None,
) -> list[StaticNet]:
    """Static nets that come near the wish: each exit alone, the net itself in int8."""
    right = maker.plain_labels == maker.y
    wanted = float(right.mean()) - drop

    def keeps(mine: np.ndarray) -> bool:
        """Whether right answers lose no more than was wished, or promised."""
        if confidence is None:
            return float(mine.mean()) >= wanted - 1e-9
        worse, better = int((right & ~mine).sum()), int((mine & ~right).sum())
        return loss_p_value(worse, better, len(right), drop) <= 1 - confidence

    tried: list[tuple[str, keras.Model, str | None]] = []
    for number, place in enumerate(net.after):
        static = cut_at_exit(net, exit=number)
        if float((_labels(static, maker.x) == maker.y).mean()) < wanted - NEAR:
            continue
        first = net.stages[number].at_input
        name = "the first net alone" if first else f"cut after {place}"
        tried.append((name, static, maker.quantization))
    if net.trunk is not model:
        tried.append(("the plain net, taught", net.trunk, maker.quantization))
    if maker.quantization != "int8":
        tried.append(("the plain net in 8 bits", model, "int8"))
    return [maker.static(*each, keeps) for each in tried]


def _best(
    exits: bytes,
    ms: float,
    outcome: ExitOutcome,
    kept: bool,
    rivals: Sequence[StaticNet],
) -> tuple[str, bytes]:
    """The answer and its file: the fastest of what keeps to the wish.

    Of nets that are hardly slower, it is the one that is right most often.
    """
    found = [(n.ms, n.accuracy, n.name, n.content) for n in rivals if n.kept]
    if kept:
        found.append((ms, outcome.accuracy or 0.0, EXITS, exits))
    limit = TIE * min(found)[0]
    near = [each for each in found if each[0] <= limit]
    *_, name, content = max(near, key=lambda each: (each[1], -each[0]))
    return name, content
