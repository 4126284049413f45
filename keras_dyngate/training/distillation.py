"""A model to fit that learns from labels and from a trained net.

fitted = kd.Distillation(gated, teacher=plain, share=0.5)
fitted.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
fitted.fit(x, y)  # trains `gated`; save that
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import boolean, fraction, positive_number


class Distillation(keras.Model):
    """Fits a classifier to a mixture of the labels' loss and of a teacher's answers.

    The loss is `(1 - share) * loss(labels) + share * cross entropy with the teacher`,
    both of probabilities. With a `temperature` the two nets' probabilities are taken to
    the power `1 / temperature`, and that part of the loss times its square. A sample with
    the class index -1 has no label: the teacher's part of its loss is all there is. Metrics
    given to `compile` as `weighted_metrics` pass over it.

    Args:
        student: A classifier that puts out probabilities; it is what to save.
        teacher: A Keras model of the same images and classes, or any function from
            images to probabilities; at rest, and never trained.
        share: Of the teacher in the loss, 0 to 1. Default 0.5.
        temperature: Above 1, the teacher's small probabilities count more. Default 1.
        from_logits: Whether both put out raw scores instead. Default False.

    Raises:
        ValueError: For bad arguments, or a teacher of other classes.

    References:
        Hinton, Vinyals, Dean, arXiv 1503.02531.

    Example:
        ```python
        layers = [keras.Input((4,)), keras.layers.Dense(3, "softmax")]
        student, teacher = keras.Sequential(layers), keras.Sequential(layers)
        fitted = kd.Distillation(student, teacher, share=0.5)
        fitted.compile("adam", "sparse_categorical_crossentropy")
        fitted.fit(np.ones((6, 4)), np.arange(6) % 3, verbose=0)  # trains `student`
        ```
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: "keras.Model | Callable[[Any], Any]",
        share: float = 0.5,
        temperature: float = 1.0,
        from_logits: bool = False,
    ) -> None:
        super().__init__(name="distillation", autocast=False)
        self.share = fraction("share", share)
        self.temperature = positive_number("temperature", temperature)
        self.from_logits = boolean("from_logits", from_logits)
        if isinstance(teacher, keras.Model):
            if teacher.output_shape != student.output_shape:
                raise ValueError(
                    "`teacher` must put out what the student does, "
                    f"{student.output_shape}. "
                    f"Received: {teacher.name!r} with {teacher.output_shape}"
                )
            ask: Any = lambda x: teacher(x, training=False)  # noqa: E731
        elif callable(teacher):
            ask = teacher
        else:
            raise ValueError(
                "`teacher` must be a Keras model, or a function from images to "
                f"probabilities. Received: teacher={teacher!r}"
            )
        self.student = student
        # A function, so that the teacher's weights are not this model's.
        self._ask = ask

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.student(x, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        y, known = _labels(y, sample_weight)
        loss = super().compute_loss(x, y, y_pred, known, training)
        if not training or not self.share:
            return loss
        hard = loss - sum(self.losses) if self.losses else loss
        taught, said = (
            self._softened(ops.cast(answer, "float32"))
            for answer in (self._ask(x), y_pred)
        )
        soft = keras.losses.categorical_crossentropy(ops.stop_gradient(taught), said)
        soft = soft * self.temperature**2
        if sample_weight is not None:
            soft = soft * ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        return loss + self.share * (ops.mean(soft) - hard)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        y, known = _labels(y, sample_weight)
        return super().compute_metrics(x, y, y_pred, known)

    def _softened(self, answer: Any) -> Any:
        """Probabilities at the temperature."""
        if self.temperature == 1.0 and not self.from_logits:
            return answer
        logs = answer if self.from_logits else ops.log(ops.maximum(answer, 1e-7))
        return ops.softmax(logs / self.temperature, axis=-1)


def _labels(y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Class indices from 0, and weights that are 0 where there was no label."""
    whole = keras.backend.is_int_dtype(getattr(y, "dtype", "float32"))
    if not whole or tuple(y.shape[1:]) not in ((), (1,)):
        return y, sample_weight
    y = ops.convert_to_tensor(y)
    known = ops.cast(ops.reshape(y, (-1,)) >= 0, "float32")
    if sample_weight is not None:
        known = known * ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
    return ops.maximum(y, 0), known
