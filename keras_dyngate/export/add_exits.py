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
from collections.abc import Sequence
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
from keras_dyngate.export.arguments import check_labels, class_count
from keras_dyngate.export.candidates import (
    Maker,
    arrays_of,
    check_data,
    labels_of,
    pair_of,
    some_of,
)
from keras_dyngate.export.conversion import QUANTIZATIONS
from keras_dyngate.export.exit_candidates import (
    calibrated_file,
    choose_by,
    half_way,
    places_of,
    static_rivals,
)
from keras_dyngate.export.exits_result import (
    EXITS,
    ExitsResult,
    StaticNet,
    class_rows,
    exit_rows,
)
from keras_dyngate.models.exits.cut_points import check_trunk, checked_graph
from keras_dyngate.models.exits.decision_gates import add_decision_gates
from keras_dyngate.models.exits.first_nets import automatic_net, first_net
from keras_dyngate.models.exits.heads import KINDS
from keras_dyngate.models.exits.teaching import copy_of
from keras_dyngate.thresholds.promise import check_promise
from keras_dyngate.thresholds.table import ExitOutcome
from keras_dyngate.thresholds.wish import sweep

JOINT_EPOCHS = 12
EPOCHS = 12
TIE = 1.05  # times as slow is hardly slower


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
    x_val, y_val = arrays_of("validation", model, validation)
    if confidence is not None:
        check_promise(len(y_val), drop, confidence)
    x_train, y_train = pair_of("train", train)
    check_data("train", model, x_train, y_train)
    pictures = some_of(x_train, y_train)
    plain_labels = labels_of(model, x_val)
    places, placement = places_of(
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
        places = [half_way(placement)]
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
        maker = Maker(
            Path(folder), quantization, pictures, labels, x_val, y_val, plain_labels
        )
        choose = choose_by(accuracy_drop=drop, confidence=confidence)
        made = calibrated_file(maker, net, choose, confidence)
        net, file, table, chosen = made.net, made.content, made.table, made.outcome
        plain = maker.static("the plain net", model, quantization)
        rivals = static_rivals(maker, model, net, drop, confidence)
        nets = [plain, *rivals]
        files = {EXITS: file, **{n.name: n.content for n in nets}}
        ms = maker.time_files(files, to_exits_of=EXITS)
        path_ms = [ms[f"to exit {index}"] for index in range(len(net.gates) + 1)]
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
