"""Class indices from the labels that users pass, for a file to be judged by."""

import dataclasses
from typing import Any

import numpy as np


def class_count(outputs: int) -> int:
    """How many classes a net with so many outputs tells apart."""
    return max(outputs, 2)


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """What labels a file is judged by.

    Attributes:
        shape: Of one image's label: (), or (height, width) of a map.
        classes: How many there are; None if the file does not say.
        ignore_class: Label that does not count, or None.
    """

    shape: tuple[int, ...] = ()
    classes: int | None = None
    ignore_class: int | None = None

    def indices(self, labels: Any, count: int) -> np.ndarray:
        """Labels of a batch as int64 `[count, *shape]`.

        Args:
            labels: Class indices, whole floats among them, with or without a last axis
                of 1; or one-hot (or soft) `[count, *shape, classes]`, of which the
                largest is meant.
            count: How many images they belong to.

        Raises:
            ValueError: They are none of this, or out of range.
        """
        array, wanted = np.asarray(labels), (count, *self.shape)
        if self.classes is not None and array.shape == (*wanted, self.classes):
            return self._largest(array)
        fits = array.shape in (wanted, (*wanted, 1))
        if array.dtype.kind not in "biuf" or not (
            fits or (not self.shape and array.size == count)
        ):
            per = f"map {self.shape} of class indices" if self.shape else "class index"
            raise ValueError(
                f"`x` must give one {per} per image, or one-hot labels. Received: "
                f"labels of shape {array.shape} and dtype {array.dtype} for {count} "
                "image(s)"
            )
        array = array.reshape(wanted)
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise ValueError(
                "`x` must give labels that are whole numbers. "
                f"Received: {array.dtype} values from {array.min()} to {array.max()}"
            )
        self._check_range(array)
        return array.astype(np.int64)

    def _check_range(self, labels: np.ndarray) -> None:
        counted = labels[labels != self.ignore_class] if self.shape else labels
        if not counted.size:
            return
        low, high = counted.min(), counted.max()
        if low >= 0 and (self.classes is None or high < self.classes):
            return
        limit = "" if self.classes is None else f" to {self.classes - 1}"
        given = f"Received: labels from {low} to {high}"
        if self.shape:
            raise ValueError(
                f"`x` must give label maps of classes from 0{limit}, or "
                f"`ignore_class` for pixels without one. {given}, "
                f"ignore_class={self.ignore_class}"
            )
        raise ValueError(
            f"`x` must give class indices from 0{limit}, or one-hot labels. {given}"
        )

    def _largest(self, labels: np.ndarray) -> np.ndarray:
        sums = labels.astype(np.float64).sum(axis=-1)
        if labels.min() < 0 or not np.allclose(sums, 1, atol=1e-3):
            raise ValueError(
                f"`x` must give one-hot labels of {self.classes} classes that are "
                f"0 or more and sum to 1. Received: values from {labels.min()} to "
                f"{labels.max()}, sums from {sums.min()} to {sums.max()}"
            )
        return np.argmax(labels, axis=-1)
