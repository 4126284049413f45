"""From a trained net and a budget to the file that keeps to it: all in one call.

    found = kd.make_dynamic(model, (x, y), (x_val, y_val), "latency:0.7x")
    print(found)

Early exits with a first net, gates on whole layers and on channels, both together, and
the static nets that stand against them, taught as long: all become files, are timed in
one run, and the best that keeps to the wish is the answer.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import one_of, positive_int, whole_number
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate.cost.budget import Budget
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
from keras_dyngate.export.dynamic_result import DynamicResult
from keras_dyngate.export.dynamic_wish import DynamicWish
from keras_dyngate.export.dynamic_work import Candidates, Teaching
from keras_dyngate.models.exits.cut_points import check_trunk, checked_graph
from keras_dyngate.models.exits.first_nets import automatic_net, first_net

GATES = ("auto", "layers", "channels", "both")


def make_dynamic(
    model: keras.Model,
    train: Any,
    validation: Any,
    budget: "str | Budget | None" = None,
    *,
    max_accuracy_drop: float | None = None,
    quantization: str | None = None,
    exits: Any = "auto",
    first: keras.Model | str | None = "auto",
    first_weights: str | os.PathLike[str] | None = "imagenet",
    gates: str | None = "auto",
    epochs: int = 5,
    exit_epochs: int = 12,
    joint_epochs: int = 12,
    path: str | os.PathLike[str] = "dynamic.tflite",
    labels: Sequence[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
    seed: int = 0,
) -> DynamicResult:
    """Make a trained classifier dynamic under a budget, as a file, and say if it pays.

    Tried are: early exits, a first net among them, taught together with a copy of the
    net; gates on whole layers of that copy, and on channels where layers alone do not
    reach the budget; exits on the gated net; and static rivals: the net as it is, in this
    precision and in int8, as it was taught with its exits, at a lower resolution, and the
    first net alone. Gated and smaller nets are taught equally long by the same teacher,
    the net that was taught with its exits. Design of this library.

    Args:
        model: Any functional or Sequential classifier, trained. It stays as it is.
        train: Images and labels, `(x, y)` or a dataset of such batches.
        validation: The like, not among those of `train`: thresholds and the choice come
            from it, so that another set must judge the result.
        budget: A `Budget`, or its text: "latency:8.0ms", "latency:0.7x" (of this machine,
            by the plain net's file in the same precision), "macs:0.6x": the answer is
            the most accurate net within. "accuracy:-1.0": the fastest net that loses no
            more than one point. None: as "accuracy:0", or `max_accuracy_drop`.
        max_accuracy_drop: Accuracy that may be lost on `validation`, 0 to 1, also under a
            budget of cost. None: any there.
        quantization: Of the file; as in `export_tflite`.
        exits: Places: "auto" (default), how many at most, or a list; see `add_exits`.
        first: A first net, "auto" (default) or None; see `add_exits`.
        first_weights: See `add_decision_gates`.
        gates: "auto" (default): layers, with channels where layers do not reach the
            budget; "layers", "channels", "both"; or None: no gates.
        epochs: Of the teaching of gated and smaller nets. Default 5.
        exit_epochs: Of the teaching of exits. Default 12.
        joint_epochs: Epochs in which a copy of the net and its exits then learn together.
            0: the net answers as it did, and is what is gated. Default 12.
        path: Of the file to write. Default "dynamic.tflite".
        labels: Class names for the file.
        checkpoint: A folder: what is taught is kept there and gone on with if the run is
            cut off. It is for one net, its data and these arguments.
        verbose: "auto" (default): a line per epoch and step; 0: nothing.
        seed: Of all that is random.

    Returns:
        A `DynamicResult`: model, file, thresholds, the table of what was tried, and one
        sentence that says whether it paid.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ValueError: For a model that is no such classifier, or has no place for exits or
            gates, data that do not suit it, a budget that it cannot be measured by or
            that nothing can keep, or a bad argument.

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
    start = time.perf_counter()
    check_trunk(model)
    wish = DynamicWish.of(budget, max_accuracy_drop)
    one_of("quantization", quantization, ("float32", *QUANTIZATIONS))
    quantization = None if quantization == "float32" else quantization
    if gates is not None:
        one_of("gates", gates, GATES)
    positive_int("epochs", epochs)
    positive_int("exit_epochs", exit_epochs)
    whole_number("joint_epochs", joint_epochs)
    whole_number("seed", seed)
    one_of("verbose", verbose, ("auto", 0, 1, 2))
    target = writable_target("path", path)
    names = check_labels(labels, class_count(checked_graph(model)))
    if isinstance(first, str) and first == "auto":
        first = automatic_net(model, first_weights)
    elif first is not None:
        first_net(model.input_shape, model.output_shape[-1], first)
    kept = None if checkpoint is None else Path(checkpoint)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    x_val, y_val = arrays_of("validation", model, validation)
    data = pair_of("train", train)
    check_data("train", model, *data)
    plain_labels = labels_of(model, x_val)
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(
            Path(folder),
            quantization,
            some_of(*data),
            names,
            x_val,
            y_val,
            plain_labels,
        )
        teaching = Teaching(epochs, exit_epochs, joint_epochs, kept, verbose, seed)
        work = Candidates(model, data, maker, wish, teaching)
        work.plain()
        places = work.exits(exits, first)
        work.gated(gates, places, first)
        work.smaller()
        answer = work.settled()
        write_whole(target, answer.content)
    return DynamicResult(
        model=answer.model,
        path=str(target),
        answer=answer.name,
        tried=tuple(work.tried),
        budget=wish.budget,
        max_accuracy_drop=wish.drop,
        thresholds=_thresholds(answer.model),
        table=work.table,
        left_out=tuple(work.left_out),
        seconds=time.perf_counter() - start,
    )


def _thresholds(model: Any) -> tuple[float, ...] | None:
    found = getattr(model, "thresholds", None)
    return None if found is None else tuple(np.asarray(found).tolist())
