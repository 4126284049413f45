"""How the exits of a net are taught: heads on the frozen trunk, jointly, a first net.

`EarlyExitModel.fit_gates` is the way in; linear gates are fitted in `exit_fitting`.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import fraction, positive_number, whole_number
from keras_dyngate._files import writable_target
from keras_dyngate._graph import Part, flat_graph
from keras_dyngate._labels import label_of
from keras_dyngate._logits import raw_operation
from keras_dyngate._warn import warn
from keras_dyngate.callbacks import TimeLeft, TrainingCheckpoint
from keras_dyngate.layers import DecisionGate, ExitGate
from keras_dyngate.models.exits.cut_points import check_trunk
from keras_dyngate.models.exits.data import Batch, as_keras_data
from keras_dyngate.models.exits.fitting import (
    GateFit,
    checked_batches,
    checked_weights,
)
from keras_dyngate.models.exits.lesson_data import (
    Stream,
    as_arrays,
    held_out,
    plain,
    resolve_mixtures,
)
from keras_dyngate.models.exits.students import PacedAdam, Students, frozen
from keras_dyngate.models.exits.training import HEAD
from keras_dyngate.models.exits.variation import described, resolve_augmentation

HELD_OUT = 0.1  # of the pictures, where the head is watched without `validation_data`
FIRST_PACE = 0.5  # of a first net's learning rate, to that of heads
JOINT_RATE = 0.5  # of all learning rates in joint epochs
DECAY = 1e-4  # of whole nets' weights: heads' decay is larger
FEW = 50  # pictures, of which nothing can be said
START = 1e-5  # of the learning rate, which rises over the first epoch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How exits are taught; see `EarlyExitModel.fit_gates`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    teacher: Any
    temperature: float
    label_share: float
    mixtures: float | None
    augmentation: Any
    joint_epochs: int
    callbacks: Sequence[keras.callbacks.Callback]
    checkpoint: Any
    verbose: Any
    seed: int

    def __post_init__(self) -> None:
        positive_number("temperature", self.temperature)
        positive_number("learning_rate", self.learning_rate)
        fraction("label_share", self.label_share)
        whole_number("joint_epochs", self.joint_epochs)
        whole_number("seed", self.seed)
        if not isinstance(self.weight_decay, (int, float)) or self.weight_decay < 0:
            raise ValueError(
                "`weight_decay` must be a number from 0. "
                f"Received: weight_decay={self.weight_decay!r}"
            )
        given = self.callbacks
        listed = isinstance(given, (list, tuple))
        if given is not None and not (
            listed and all(isinstance(c, keras.callbacks.Callback) for c in given)
        ):
            raise ValueError(
                f"`callbacks` must be a list of Keras callbacks. Received: {given!r}"
            )
        if self.verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={self.verbose!r}"
            )
        if self.checkpoint is not None:
            writable_target("checkpoint", self.checkpoint)


def raw_teacher(model: Any, teacher: Any) -> Part | None:
    """A user's teacher in raw scores; None: the trunk.

    Raises:
        ValueError: If it is no classifier of the net's inputs and classes.
    """
    if teacher is None or teacher is model.trunk:
        return None
    if isinstance(teacher, str) and teacher == "trunk":
        return None
    if not isinstance(teacher, keras.Model):
        raise ValueError(
            "`teacher` must be 'trunk', None or a Keras classifier. "
            f"Received: teacher={teacher!r}"
        )
    graph = flat_graph(teacher)
    if graph is None:
        raise ValueError(
            "`teacher` must be functional or a keras.Sequential, built, for its raw "
            "scores to be read before its softmax. Received: teacher="
            f"{teacher.name!r}, a {type(teacher).__name__}"
        )
    classes = model.output_shape[-1]
    if check_trunk(teacher) != classes:
        raise ValueError(
            f"`teacher` must tell the net's {classes} classes apart. Received: teacher="
            f"{teacher.name!r} with an output of shape {tuple(graph.outputs[0].shape)}"
        )
    theirs, ours = tuple(graph.inputs[0].shape), model.input_shape
    pairs = zip(theirs[1:], ours[1:], strict=False)
    if len(theirs) != len(ours) or any(a not in (None, b) for a, b in pairs):
        raise ValueError(
            f"`teacher` must take what the net takes, inputs of shape {ours[1:]}. "
            f"Received: teacher={teacher.name!r} for {theirs[1:]}"
        )
    return Part(graph.whole, raw_operation(graph))


def copy_of(model: keras.Model) -> keras.Model:
    """The same net with weights of its own."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


class _Lesson:
    """Pictures, and what is judged on."""

    def __init__(
        self, model: Any, recipe: Recipe, x: Any, y: Any, weight: Any, validation: Any
    ) -> None:
        self.model, self.recipe = model, recipe
        size = recipe.batch_size
        arrays = as_arrays(x, y, weight)
        if arrays is not None:
            x, y, weight = arrays
            (arrays,) = self._checked(x, y, weight, size=max(1, len(x)))
        judged = None
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation, None)
            judged = self._judged(pair[0], pair[1])
        elif recipe.joint_epochs:
            if arrays is None:
                raise ValueError(
                    "`validation_data` must be given with `joint_epochs` where `x` is a "
                    "dataset: the net's own head is watched on it. "
                    "Received: validation_data=None"
                )
            arrays, rest = held_out(arrays, HELD_OUT, recipe.seed)
            judged = list(self._checked(rest.x, rest.y, rest.weight, size=size))
        if judged is not None and any(batch.y is None for batch in judged):
            name = "y" if validation is None else "validation_data"
            why = ", to watch the head in joint training" if validation is None else ""
            raise ValueError(
                f"`{name}` must have labels{why}. Received: pictures without labels"
            )
        self.judged = judged
        mixtures = resolve_mixtures(recipe.mixtures, recipe.teacher, one_label=True)
        self.stream = Stream(
            lambda: self._checked(x, y, weight, size=size),
            arrays,
            batch_size=size,
            mixtures=mixtures,
            augmentation=resolve_augmentation(recipe.augmentation, model.input_shape),
            seed=recipe.seed,
        )
        sample = self.stream.arrays or next(self.stream.open_batches())
        has_labels = sample.y is not None
        # Mixtures of pictures have no label.
        self.labelled = has_labels and mixtures < 1
        if arrays is not None and arrays.weight is not None and not arrays.weight.any():
            raise ValueError(
                "`sample_weight` must have a weight above 0. Received: all are 0"
            )
        if recipe.teacher is None and not has_labels:
            raise ValueError("`y` must be given with teacher=None. Received: y=None")

    def _judged(self, x: Any, y: Any) -> list[Batch]:
        """The batches of `validation_data`."""
        try:
            found = list(self._checked(x, y, None, size=self.recipe.batch_size))
        except ValueError as error:
            raise ValueError(f"`validation_data` cannot be used: {error}") from error
        if not sum(len(batch.x) for batch in found):
            raise ValueError(
                "`validation_data` must hold at least one sample. Received: none"
            )
        return found

    def guess(self) -> float:
        """How often the commonest label of what is judged on is right; 0 for few."""
        labels = np.concatenate([np.zeros(0, int), *(b.y for b in self.judged or ())])
        if len(labels) < FEW:
            return 0.0
        return float(np.bincount(labels).max() / len(labels))

    def fingerprint(self) -> int:
        """Of the trunk's weights and of arrays; a dataset may begin otherwise each time."""
        parts = self.model.trunk.get_weights()
        arrays = self.stream.arrays
        if arrays is not None:
            parts.append(np.asarray(arrays.x)[:: max(1, len(arrays.x) // 64)])
            parts += [arrays.y] if arrays.y is not None else []
        found = 0
        for part in parts:
            found = zlib.crc32(np.ascontiguousarray(part).tobytes(), found)
        return found

    def _checked(self, x: Any, y: Any, weight: Any, size: int) -> Iterator[Batch]:
        for batch in checked_batches(self.model, x, y, weight, size):
            given = batch.weight is not None
            yield batch._replace(
                weight=checked_weights(batch.weight) if given else None
            )


def _run(
    lesson: _Lesson,
    students: Students,
    epochs: int,
    rate: float,
    pace: Callable[[Any], tuple[float, float]],
    title: str,
) -> keras.callbacks.History:
    """`fit`, gone on with from a checkpoint where there is one."""
    recipe, stream = lesson.recipe, lesson.stream
    schedule = keras.optimizers.schedules.CosineDecay(
        min(START, rate),
        max(1, (epochs - 1) * stream.steps),
        warmup_target=rate,
        warmup_steps=min(stream.steps, epochs * stream.steps),
    )
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    students.compile(PacedAdam(schedule, pace), jit_compile=jit)
    callbacks, verbose = list(recipe.callbacks or ()), recipe.verbose
    if verbose == "auto":
        callbacks.append(TimeLeft(title, labelled=lesson.labelled))
        verbose = 0
    options: dict[str, Any] = {
        "steps_per_epoch": stream.steps,
        "verbose": verbose,
        "shuffle": False,
    }
    if lesson.judged is not None:
        options["validation_data"] = as_keras_data([plain(b) for b in lesson.judged])
    if recipe.checkpoint is None:
        return students.fit(stream(0), epochs=epochs, callbacks=callbacks, **options)
    path = Path(recipe.checkpoint)
    kept = TrainingCheckpoint(
        path.with_name(f"{path.stem}.{title.replace(' ', '_')}.npz"),
        every=max(1, stream.steps // 2),
        settings={
            "epochs": epochs,
            "rate": rate,
            "steps": stream.steps,
            "mixtures": stream.mixtures,
            "augmentation": described(recipe.augmentation, lesson.model.input_shape),
            "temperature": recipe.temperature,
            "label_share": recipe.label_share,
            "seed": recipe.seed,
            "data and net": lesson.fingerprint(),
        },
    )
    return kept.fit(students, stream, epochs=epochs, callbacks=callbacks, **options)


def _students(lesson: _Lesson, gates: Sequence[ExitGate], **options: Any) -> Students:
    return Students(
        lesson.model,
        gates,
        taught=lesson.recipe.teacher is not None,
        temperature=lesson.recipe.temperature,
        label_share=lesson.recipe.label_share,
        **options,
    )


def _paces(
    lesson: _Lesson, first: Sequence[ExitGate]
) -> Callable[[Any], tuple[float, float]]:
    """Learning rates and weight decay: of heads, of a first net, of the trunk."""
    own = {id(v): (FIRST_PACE, DECAY) for gate in first for v in gate.variables}
    own |= {id(v): (1.0, DECAY) for v in lesson.model.trunk.variables}
    heads = (1.0, lesson.recipe.weight_decay)
    return lambda variable: own.get(id(variable), heads)


def teach(
    model: Any, recipe: Recipe, x: Any, y: Any, weight: Any, validation: Any
) -> dict[str, GateFit]:
    """Teach all exits of a net that are no linear gates; see `fit_gates`.

    Returns:
        A `GateFit` by name, of the trunk's head too if it learned and was kept.
    """
    taught = [gate for gate in model.gates if not isinstance(gate, DecisionGate)]
    teacher = raw_teacher(model, recipe.teacher)
    lesson = _Lesson(model, recipe, x, y, weight, validation)
    pairs = zip(model.gates, model.stages, strict=False)
    first = [g for g, stage in pairs if stage.at_input and g in taught]
    heads = [gate for gate in taught if gate not in first]
    found: dict[str, GateFit] = {}
    guess = lesson.guess()

    def on_frozen_trunk(gates: Sequence[ExitGate], title: str) -> None:
        start = time.perf_counter()
        with frozen([model.trunk, *([teacher] if teacher else [])]):
            students = _students(lesson, gates, teacher=teacher, joint=False)
            pace = _paces(lesson, first)
            history = _run(
                lesson, students, recipe.epochs, recipe.learning_rate, pace, title
            )
        found.update(_fits(lesson, gates, history, start))

    if not recipe.joint_epochs:
        on_frozen_trunk(taught, "exits")
        _warn_of_guesses(found, guess)
        return found
    if heads:
        on_frozen_trunk(heads, "exits")
    found |= _jointly(lesson, heads, teacher)
    if first:  # by the better teacher
        on_frozen_trunk(first, "first net")
    _warn_of_guesses(found, guess)
    return found


def _warn_of_guesses(fits: Mapping[str, GateFit], guess: float) -> None:
    """Warn of exits that learned nothing: right no oftener than one label for all."""
    for name, fit in fits.items():
        if fit.validation_accuracy is not None and fit.validation_accuracy < guess:
            warn(
                f"The exit {name!r} is right on {fit.validation_accuracy:.1%} of the "
                f"pictures it was judged on, where one label for all is on {guess:.1%}: "
                "teach it longer, or with another `learning_rate`",
            )


def _jointly(
    lesson: _Lesson, heads: Sequence[ExitGate], teacher: Part | None
) -> dict[str, GateFit]:
    """All weights together; the result before it is kept if the head loses by it."""
    model, recipe, start = lesson.model, lesson.recipe, time.perf_counter()
    if teacher is None and recipe.teacher is not None:
        teacher = raw_teacher(model, copy_of(model.trunk))
    learning = [model.trunk, *heads]
    before = [layer.get_weights() for layer in learning]
    with frozen([teacher] if teacher else []):
        students = _students(lesson, heads, teacher=teacher, joint=True)
        was = _head_accuracy(students, lesson)
        rate = JOINT_RATE * recipe.learning_rate
        pace = _paces(lesson, [])
        history = _run(
            lesson, students, recipe.joint_epochs, rate, pace, "all together"
        )
        now = _head_accuracy(students, lesson)
    if now < was:
        for layer, weights in zip(learning, before, strict=True):
            layer.set_weights(weights)
        warn(
            f"The net's own head lost by joint training, from {was:.1%} to {now:.1%} of "
            "the held-out pictures: the exits of the frozen trunk are kept",
        )
        return {}
    fits = _fits(lesson, [*heads, HEAD], history, start)
    return {**fits, HEAD: dataclasses.replace(fits[HEAD], validation_accuracy=now)}


def _head_accuracy(students: Students, lesson: _Lesson) -> float:
    right = count = 0
    for batch in lesson.judged or []:
        scores = students.predict_on_batch(plain(batch)[0])[HEAD]
        right += int((label_of(scores) == batch.y).sum())
        count += len(batch.y)
    return right / max(1, count)


def _fits(
    lesson: _Lesson,
    exits: Sequence[Any],
    history: keras.callbacks.History,
    start: float,
) -> dict[str, GateFit]:
    """What a history says of exits, each a layer or a name."""
    found = {}
    for name in (getattr(item, "name", item) for item in exits):
        seen, judged = (
            history.history.get(f"{key}{name}_accuracy") for key in ("", "val_")
        )
        found[name] = GateFit(
            loss=None,
            accuracy=seen[-1] if seen and lesson.labelled else float("nan"),
            features=None,
            seconds=time.perf_counter() - start,
            validation_accuracy=judged[-1] if judged else None,
        )
    return found
