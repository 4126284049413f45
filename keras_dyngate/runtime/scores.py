"""What an evaluation gathers, sample by sample: right images, or right pixels.

Of a segmentation only counts are kept, however many images there are: the confusion
matrix, whose entry (i, j) is the number of pixels of class i that were labelled j.
"""

from typing import Any

import numpy as np

Outputs = dict[str, np.ndarray]


class ImageScores:
    """Answers of a signature with an output `label` or `logits`.

    Args:
        decision: Which of the two tells the class.
    """

    label_shape: tuple[int, ...] = ()

    def __init__(self, decision: str) -> None:
        self.decision = decision
        self.true: list[int] = []
        self.predicted: list[Any] = []
        self.exits: list[Any] = []

    def add(self, label: np.ndarray, outputs: Outputs) -> None:
        """Take in one image's label and what the file said."""
        found = outputs[self.decision]
        self.true.append(int(label))
        self.predicted.append(
            np.argmax(found) if self.decision == "logits" else np.ravel(found)[0]
        )
        if "exit" in outputs:
            self.exits.append(np.ravel(outputs["exit"])[0])

    def result(self) -> dict[str, Any]:
        """Accuracy, the predicted labels, and the exits if there are any."""
        predicted = np.array(self.predicted)
        found = {
            "accuracy": float(np.mean(predicted == np.array(self.true))),
            "labels": predicted,
        }
        return {**found, "exit": np.array(self.exits)} if self.exits else found


class PixelScores:
    """Answers of a signature with an output `labels`, uint8 `[1, height, width]`.

    Args:
        label_shape: (height, width) of a label map.
        classes: How many there are.
        ignore_class: Label of the pixels that do not count, or None.
    """

    def __init__(
        self, label_shape: tuple[int, ...], classes: int, ignore_class: int | None
    ) -> None:
        self.label_shape = label_shape
        self.ignore_class = ignore_class
        self.confusion = np.zeros((classes, classes), np.int64)

    def add(self, label: np.ndarray, outputs: Outputs) -> None:
        """Take in one image's label map and what the file said.

        Raises:
            ValueError: If a label that counts is no class of the file.
        """
        classes = len(self.confusion)
        true, predicted = label.ravel(), outputs["labels"].ravel()
        if self.ignore_class is not None:
            counts = true != self.ignore_class
            true, predicted = true[counts], predicted[counts]
        if true.size and not 0 <= true.min() <= true.max() < classes:
            raise ValueError(
                f"`dataset` must give label maps of classes from 0 to {classes - 1}, "
                "or `ignore_class` for pixels without one. Received: labels from "
                f"{true.min()} to {true.max()}, ignore_class={self.ignore_class}"
            )
        pairs = true.astype(np.int64) * classes + predicted
        self.confusion += np.bincount(pairs, minlength=classes**2).reshape(
            classes, classes
        )

    def result(self) -> dict[str, Any]:
        """Share of right pixels, and intersection over union.

        Raises:
            ValueError: If no pixel counted.
        """
        right, pixels = np.diag(self.confusion), int(self.confusion.sum())
        if not pixels:
            raise ValueError(
                "`dataset` must have labelled pixels. Received: label maps of nothing "
                f"but ignore_class={self.ignore_class}"
            )
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        iou = np.full(len(right), np.nan)
        np.divide(right, union, out=iou, where=union > 0)
        return {
            "accuracy": float(right.sum() / pixels),
            "mean_iou": float(np.nanmean(iou)),
            "class_iou": iou,
            "pixels": pixels,
        }
