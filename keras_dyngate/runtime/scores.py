"""What an evaluation gathers, sample by sample: right images, or right pixels.

Of a segmentation only counts are kept, however many images there are: the confusion
matrix, whose entry (i, j) is the number (or weight) of pixels of class i labelled j.
"""

from typing import Any

import numpy as np

from keras_dyngate._labels import label_of
from keras_dyngate.runtime.labels import LabelSpec

Outputs = dict[str, np.ndarray]


class ImageScores:
    """Answers of a signature with an output `label` or `logits`.

    Args:
        labels: Of the images.
        decision: Which of the two tells the class.
    """

    def __init__(self, labels: LabelSpec, decision: str) -> None:
        self.labels = labels
        self.decision = decision
        self.true: list[int] = []
        self.predicted: list[int] = []
        self.weights: list[float] = []
        self.exits: list[int] = []

    def add(self, label: Any, outputs: Outputs, weight: Any = 1.0) -> None:
        """Take in one image's label, what the file said, and how much that counts."""
        found = outputs[self.decision]
        found = label_of(found) if self.decision == "logits" else found
        self.true.append(int(label))
        self.predicted.append(int(np.ravel(found)[0]))
        self.weights.append(float(weight))
        if "exit" in outputs:
            self.exits.append(int(np.ravel(outputs["exit"])[0]))

    def result(self) -> dict[str, Any]:
        """Accuracy, the predicted labels, and the exits if there are any.

        Raises:
            ValueError: If no sample counted.
        """
        predicted, weights = np.array(self.predicted), np.array(self.weights)
        _some_weight(weights.sum())
        found = {
            "accuracy": float(weights[predicted == self.true].sum() / weights.sum()),
            "labels": predicted,
        }
        return {**found, "exit": np.array(self.exits)} if self.exits else found


def _some_weight(total: float) -> None:
    if not total:
        raise ValueError("`sample_weight` must not be 0 everywhere. Received: all 0")


class PixelScores:
    """Answers of a signature with an output `labels`, uint8 `[1, height, width]`.

    Args:
        labels: Of the images, maps of so many classes.
    """

    def __init__(self, labels: LabelSpec) -> None:
        assert labels.classes is not None
        self.labels = labels
        self.confusion = np.zeros((labels.classes, labels.classes))
        self.pixels = 0

    def add(self, label: np.ndarray, outputs: Outputs, weight: Any = 1.0) -> None:
        """Take in one image's label map, what the file said, and how much that counts.

        Args:
            label: Classes `[height, width]`, or `ignore_class`.
            outputs: Of the signature.
            weight: A number, or one per pixel.
        """
        classes = len(self.confusion)
        true, predicted = label.ravel(), outputs["labels"].ravel()
        weights = np.broadcast_to(weight, label.shape).ravel()
        counts = (
            np.ones(true.shape, bool)
            if self.labels.ignore_class is None
            else true != self.labels.ignore_class
        )
        pairs = true[counts].astype(np.int64) * classes + predicted[counts]
        self.pixels += len(pairs)
        self.confusion += np.bincount(
            pairs, weights=weights[counts], minlength=classes**2
        ).reshape(classes, classes)

    def result(self) -> dict[str, Any]:
        """Share of right pixels, and intersection over union.

        Raises:
            ValueError: If no pixel counted.
        """
        right, all_in = np.diag(self.confusion), self.confusion.sum()
        if not self.pixels:
            raise ValueError(
                "`x` must have labelled pixels. Received: label maps of nothing "
                f"but ignore_class={self.labels.ignore_class}"
            )
        _some_weight(all_in)
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        iou = np.full(len(right), np.nan)
        np.divide(right, union, out=iou, where=union > 0)
        return {
            "accuracy": float(right.sum() / all_in),
            "mean_iou": float(np.nanmean(iou)),
            "class_iou": iou,
            "pixels": self.pixels,
        }
