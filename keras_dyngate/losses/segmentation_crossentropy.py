"""Cross-entropy of every pixel that has a label.

loss = SegmentationCrossentropy(ignore_class=255)
loss(maps, logits)      # [N, height, width] and [N, height, width, classes]

It goes with `keras.metrics.MeanIoU(classes, ignore_class=255, sparse_y_pred=False)`.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate._registration import serializable


@serializable
class SegmentationCrossentropy(keras.losses.Loss):
    """Weighted mean of the cross-entropy over the labelled pixels of a batch.

    It is `sum(w * ce) / sum(w)`, where `w` is the weight of the true class, and 0 for
    `ignore_class`; 0 if no pixel is labelled. All pixels of a batch count alike,
    whichever image they are of.

    Args:
        ignore_class: Label of the pixels to leave out, or None. Default 255.
        class_weights: One number from 0 per class, or None: all 1.
        from_logits: Whether `y_pred` holds logits (default) or probabilities.
        reduction, name, dtype: See `keras.losses.Loss`. The values that are reduced,
            `[N, height, width]`, are scaled so that their mean, the default, is the
            weighted mean.

    Call arguments:
        y_true: Class indices `[N, height, width]` or `[N, height, width, 1]`.
        y_pred: `[N, height, width, classes]`.
        sample_weight: One number per pixel, `[N, height, width]`.

    Raises:
        ValueError: If a weight is negative, all are 0, or their number is not that of
            the classes.

    Example:
        ```python
        loss = kd.SegmentationCrossentropy(ignore_class=255)
        labels = np.array([[[0, 1], [255, 2]]])  # 255: this pixel does not count
        print(loss(labels, np.zeros((1, 2, 2, 3))))  # log(3)
        ```
    """

    def __init__(
        self,
        ignore_class: int | None = 255,
        class_weights: Sequence[float] | None = None,
        from_logits: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "segmentation_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.ignore_class = ignore_class
        self.from_logits = from_logits
        if class_weights is not None:
            class_weights = [float(weight) for weight in class_weights]
            if not any(class_weights) or not all(w >= 0 for w in class_weights):
                raise ValueError(
                    "`class_weights` must be None or numbers from 0, not all 0. "
                    f"Received: class_weights={class_weights}"
                )
        self.class_weights = class_weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        classes = y_pred.shape[-1]
        labels = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
        counts = ops.ones_like(labels, dtype="bool")
        if self.ignore_class is not None:
            counts = ops.not_equal(labels, self.ignore_class)
            labels = ops.where(counts, labels, 0)
        weights = ops.cast(counts, y_pred.dtype)
        if self.class_weights is not None:
            if len(self.class_weights) != classes:
                raise ValueError(
                    f"`class_weights` must be one for each of the {classes} classes. "
                    f"Received: {len(self.class_weights)}"
                )
            weights *= ops.take(ops.cast(self.class_weights, y_pred.dtype), labels)
        values = ops.sparse_categorical_crossentropy(labels, y_pred, self.from_logits)
        return weights * values / self._mean(weights)

    @staticmethod
    def _mean(weights: Any) -> Any:
        """The mean weight, or 1 where all weights are 0, and with them the values."""
        mean = ops.mean(weights)
        return ops.where(mean > 0, mean, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ignore_class": self.ignore_class,
            "class_weights": self.class_weights,
            "from_logits": self.from_logits,
        }
