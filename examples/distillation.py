"""A model to fit that learns from labels and from a trained net."""

from collections.abc import Callable
from typing import Any

import keras


class Distilled(keras.Model):
    """Fits `student` to a mixture of the labels and of a teacher's probabilities.

    Args:
        student: A classifier that puts out probabilities; it is what to save.
        teacher: From images to probabilities, of a net at rest.
        share: Of the teacher in the loss, 0 to 1.
    """

    def __init__(
        self, student: keras.Model, teacher: Callable[[Any], Any], share: float
    ) -> None:
        super().__init__(name="distilled", autocast=False)
        self.student, self.teacher, self.share = student, teacher, share

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
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        y_pred = keras.ops.cast(y_pred, "float32")
        taught = keras.ops.cast(self.teacher(x), "float32")
        soft = keras.losses.categorical_crossentropy(taught, y_pred)
        hard = keras.losses.sparse_categorical_crossentropy(y, y_pred)
        return loss + self.share * keras.ops.mean(soft - hard)
