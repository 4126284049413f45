"""Losses on raw class scores: the hinge of a support vector machine, cross-entropy.

loss = OneVsAllHinge()
loss(labels, gate(features))      # labels [N], or one-hot [N, classes]
"""

from typing import Any

import keras
from keras import ops

from keras_dyngate._registration import serializable


def as_one_hot(labels: Any, scores: Any) -> Any:
    """Labels as 0 or 1 for each class, `[N, classes]`, in the dtype of `scores`.

    Args:
        labels: Class indices `[N]` or `[N, 1]`, or one value per class `[N, classes]`,
            positive for the true one (so -1 and 1 will do as well as 0 and 1). With one
            score, `[N]` or `[N, 1]`, positive for yes.
        scores: `[N, classes]`.
    """
    labels, classes = ops.convert_to_tensor(labels), scores.shape[-1]
    if len(labels.shape) == 2 and labels.shape[-1] == classes and classes > 1:
        return ops.cast(labels > 0, scores.dtype)
    if classes == 1:
        return ops.cast(ops.reshape(labels, (-1, 1)) > 0, scores.dtype)
    indices = ops.cast(ops.reshape(labels, (-1,)), "int32")
    return ops.one_hot(indices, classes, dtype=scores.dtype)


@serializable
class OneVsAllHinge(keras.losses.Loss):
    """Mean over classes of `max(0, 1 - y s)`, y = 1 for the true class and -1 else.

    With one score, y is 1 for the label 1 and -1 for 0.

    `keras.losses.Hinge` is this loss for targets of -1 and 1; here labels are class
    indices or one-hot. `keras.losses.CategoricalHinge` is another one.

    Args:
        reduction, name, dtype: See `keras.losses.Loss`.

    Call arguments:
        y_true: Class indices `[N]` or `[N, 1]`, or one-hot `[N, classes]`.
        y_pred: Scores `[N, classes]`, not squashed.

    Example:
        ```python
        loss = kd.OneVsAllHinge()
        scores = np.array([[2.0, -1.5, 0.2]])
        print(loss(np.array([0]), scores))  # (0 + 0 + 1.2) / 3 = 0.4
        ```
    """

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str = "one_vs_all_hinge",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        sign = 2.0 * as_one_hot(y_true, y_pred) - 1.0
        return ops.mean(ops.relu(1.0 - sign * y_pred), axis=-1)


@serializable
class ScoreCrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy of raw scores; labels as for `OneVsAllHinge`.

    With one score: binary cross-entropy, the score being that of the sigmoid.

    Args:
        reduction, name, dtype: See `keras.losses.Loss`.
    """

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str = "score_cross_entropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth = as_one_hot(y_true, y_pred)
        if y_pred.shape[-1] == 1:
            return ops.sum(ops.softplus(y_pred) - truth * y_pred, axis=-1)
        return -ops.sum(truth * ops.log_softmax(y_pred), axis=-1)
