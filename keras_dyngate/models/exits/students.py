"""What `fit` trains when exits are taught: students around a teacher's raw scores.

    students = Students(model, gates, teacher=None)     # None: the frozen trunk itself
    students.compile(PacedAdam(...)); students.fit(stream(0), steps_per_epoch=..., ...)

Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015, arXiv
1503.02531. Mixtures of pictures as in Zhang et al., mixup, ICLR 2018; their labels are
the teacher's alone (Beyer et al., Knowledge distillation: a good teacher is patient and
consistent, CVPR 2022).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate.layers import ExitGate
from keras_dyngate.losses import ScoreCrossEntropy
from keras_dyngate.models.exits.training import HEAD


def soft_cross_entropy(teacher: Any, student: Any, temperature: float) -> Any:
    """Cross-entropy `[batch]` to a teacher's answers, both at a temperature, times T^2.

    Args:
        teacher, student: Raw scores `[batch, classes]`; one score is a sigmoid's.
        temperature: T; its square keeps gradients of a size (Hinton et al.).
    """
    student = student / temperature
    if student.shape[-1] == 1:
        yes = ops.sigmoid(teacher / temperature)
        found = ops.sum(ops.softplus(student) - yes * student, axis=-1)
    else:
        wanted = ops.softmax(teacher / temperature)
        found = -ops.sum(wanted * ops.log_softmax(student), axis=-1)
    return temperature**2 * found


class PacedAdam(keras.optimizers.Adam):
    """Adam with decoupled weight decay, each variable at a pace of its own.

    Args:
        learning_rate: Number or schedule.
        pace: From a variable to (factor of its learning rate, its weight decay).
    """

    def __init__(
        self, learning_rate: Any, pace: Callable[[Any], tuple[float, float]]
    ) -> None:
        super().__init__(learning_rate)
        self.pace = pace
        self._paces: list[tuple[float, float]] = []

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        self._paces = [self.pace(variable) for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        factor, decay = self._paces[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype) * factor
        self.assign_sub(variable, variable * rate * decay)
        super().update_step(gradient, variable, rate)


class Students(keras.Model):
    """Exits of a net, and its head if that learns too, with a teacher's raw scores.

    Labels of -1 are unknown: those samples learn from the teacher alone.

    Args:
        model: An `EarlyExitModel`.
        gates: Its exits that learn.
        teacher: What gives raw scores of the pictures, frozen; None: the net's own head,
            whose trunk stays as it is.
        taught: Whether there is a teacher; without one, labels alone teach.
        joint: Whether the trunk learns too, and its head with it.
        temperature: Of teacher and students.
        label_share: Weight of the labels, 0 to 1; the teacher has the rest.
    """

    def __init__(
        self,
        model: Any,
        gates: Sequence[ExitGate],
        *,
        teacher: keras.Model | None,
        taught: bool,
        joint: bool,
        temperature: float,
        label_share: float,
    ) -> None:
        super().__init__(name="students", autocast=False)
        self.gates, self.teacher = list(gates), teacher
        self.taught, self.joint = taught, joint
        self.temperature, self.label_share = temperature, label_share
        last = max(
            (i for i, g in enumerate(model.gates) if g in self.gates), default=-1
        )
        whole = joint or (taught and teacher is None)
        stages = model.raw_stages if whole else model.raw_stages[: last + 1]
        self.parts = [stage.part for stage in stages]
        mine = {id(gate) for gate in self.gates}
        gates_of = [s.gate if id(s.gate) in mine else None for s in stages]
        self._gate_of = tuple(gates_of)
        self._with_head = stages[-1].gate is None
        names = [gate.name for gate in self.gates] + ([HEAD] if joint else [])
        self.accuracies = {
            name: keras.metrics.Mean(f"{name}_accuracy") for name in names
        }
        losses = {gate.name: gate.loss() for gate in self.gates}
        self._label_losses = {HEAD: ScoreCrossEntropy(), **losses}
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.teacher is not None:
            found["teacher"] = _float32(self.teacher(x, training=False))
        for part, gate in zip(self.parts, self._gate_of, strict=True):
            x = part(x, training=training if self.joint else False)
            if gate is not None:
                found[gate.name] = gate(x, training=training)
        if self._with_head:
            found[HEAD if self.joint else "teacher"] = _float32(x)
        return found

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        y = ops.reshape(y, (-1,))
        known = ops.cast(y >= 0, "float32")
        truth, total = ops.maximum(y, 0), 0.0
        share = self.label_share if self.taught else 1.0
        for name in self.accuracies:
            scores = y_pred[name]
            by_label = self._label_losses[name].call(truth, scores)
            loss = share * known * by_label
            if self.taught:
                taught = soft_cross_entropy(
                    ops.stop_gradient(y_pred["teacher"]), scores, self.temperature
                )
                loss = loss + (1 - share) * taught
            if sample_weight is not None:
                loss = loss * ops.reshape(sample_weight, (-1,))
            total = total + ops.mean(loss)
        for extra in self.losses:  # of regularizers
            total = total + ops.sum(ops.cast(extra, "float32"))
        return total

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        y = ops.reshape(y, (-1,))
        known = ops.cast(y >= 0, "float32")
        if sample_weight is not None:
            known = known * ops.reshape(sample_weight, (-1,))
        for name, metric in self.accuracies.items():
            right = ops.cast(label_in(y_pred[name]) == y, "float32")
            metric.update_state(right, sample_weight=known)
        return self.get_metrics_result()


def label_in(scores: Any) -> Any:
    """int32 labels `[batch]` of raw scores, as tensors; of one score, 1 above 0."""
    if scores.shape[-1] == 1:
        return ops.cast(ops.reshape(scores, (-1,)) > 0, "int32")
    return ops.cast(ops.argmax(scores, axis=-1), "int32")


def _float32(x: Any) -> Any:
    return ops.cast(x, "float32")


@contextlib.contextmanager
def frozen(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Layers, and all inside them, that do not learn for a while."""
    found = {id(i): i for layer in layers for i in layer._flatten_layers()}
    # Outer ones first, as a flag goes to all inside; then weights that have their own.
    every: list[Any] = sorted(found.values(), key=lambda i: -len(i._flatten_layers()))
    every += {id(v): v for layer in every for v in layer.variables}.values()
    flags = [item.trainable for item in every]
    try:
        for item in every:
            item.trainable = False
        yield
    finally:
        for item, flag in zip(every, flags, strict=True):
            item.trainable = flag
