"""The loss of all sub-networks together.

model.compile("sgd", loss=AnytimeLoss())
model.compile("sgd", loss=AnytimeLoss(weights=[0.5, 1, 1, 2]))
AnytimeLoss(taxonomy=taxonomy, coarse_heads=2)     # heads 1, 2 answer coarse labels
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._registration import serializable
from keras_dyngate.taxonomy import HierarchicalTaxonomy


def check_levels(
    taxonomy: Any, coarse_heads: int, subnetworks: int | None = None
) -> HierarchicalTaxonomy | None:
    """A taxonomy, or one from its config, if `coarse_heads` goes with it.

    Raises:
        ValueError: If one is given without the other, or the heads are too many.
    """
    if isinstance(taxonomy, dict):
        if "class_name" in taxonomy:
            taxonomy = keras.saving.deserialize_keras_object(taxonomy)
        else:
            taxonomy = HierarchicalTaxonomy.from_config(taxonomy)
    if taxonomy is not None and not isinstance(taxonomy, HierarchicalTaxonomy):
        raise ValueError(
            f"`taxonomy` must be a HierarchicalTaxonomy. Received: {taxonomy!r}"
        )
    limit = "K" if subnetworks is None else subnetworks
    if (
        isinstance(coarse_heads, bool)
        or not isinstance(coarse_heads, int)
        or coarse_heads < 0
        or (subnetworks is not None and coarse_heads > subnetworks)
    ):
        raise ValueError(
            f"`coarse_heads` must be an integer from 0 to {limit}. "
            f"Received: coarse_heads={coarse_heads!r}"
        )
    if coarse_heads and taxonomy is None:
        raise ValueError(
            "`coarse_heads` needs a `taxonomy`. "
            f"Received: coarse_heads={coarse_heads}, taxonomy=None"
        )
    return taxonomy


def check_outputs(
    shape: Any, taxonomy: HierarchicalTaxonomy | None, coarse_heads: int
) -> tuple[int, int]:
    """Sub-networks and classes of outputs of this shape.

    Raises:
        ValueError: If it is no `[N, K, classes]`, or not of this taxonomy.
    """
    if len(shape) != 3:
        raise ValueError(
            "`y_pred` must be [batch, sub-networks, classes]. "
            f"Received: shape={tuple(shape)}"
        )
    _, heads, classes = shape
    if taxonomy is not None and taxonomy.fine_classes != classes:
        raise ValueError(
            f"`taxonomy` must have the {classes} classes of the outputs. "
            f"Received: one of {taxonomy.fine_classes} fine classes"
        )
    check_levels(taxonomy, coarse_heads, heads)
    return heads, classes


def _checked_weights(weights: Any) -> list[float]:
    try:
        found = np.asarray(weights, "float64")
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if found.ndim != 1 or not found.size or not (found >= 0).all():
        raise ValueError(
            "`weights` must be one number, 0 or more, per sub-network. "
            f"Received: weights={weights!r}"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"`weights` must be finite. Received: weights={weights!r}")
    return [float(weight) for weight in found]


@serializable
class AnytimeLoss(keras.losses.Loss):
    """Weighted sum over the sub-networks of their cross-entropies.

    Args:
        weights: One number per sub-network, 0 or more. Default: 1 each, as in the paper.
        from_logits: Whether the outputs are raw scores. Default False: probabilities.
        taxonomy: A `HierarchicalTaxonomy`, if the first heads answer coarse labels.
        coarse_heads: How many heads do. Default 0.
        reduction, name, dtype: See `keras.losses.Loss`.

    Call arguments:
        y_true: Class indices `[N]` or `[N, 1]`, or one value per class `[N, classes]`
            (one-hot, smoothed or mixed); fine classes where there is a taxonomy.
        y_pred: `[N, K, classes]`; of coarse heads the first `coarse_classes` count.

    Raises:
        ValueError: For weights that are negative or not K, or a taxonomy that does not
            fit the outputs.

    Example:
        ```python
        loss = kd.AnytimeLoss(weights=[0.5, 1.0])
        outputs = np.array([[[0.9, 0.1], [0.2, 0.8]]])  # of two sub-networks, two classes
        print(loss(np.array([1]), outputs))  # 0.5 * -log(0.1) - log(0.8)
        ```
    """

    def __init__(
        self,
        weights: Sequence[float] | None = None,
        from_logits: bool = False,
        taxonomy: HierarchicalTaxonomy | None = None,
        coarse_heads: int = 0,
        reduction: str = "sum_over_batch_size",
        name: str = "anytime_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.weights = None if weights is None else _checked_weights(weights)
        self.from_logits = bool(from_logits)
        self.taxonomy = check_levels(taxonomy, coarse_heads)
        self.coarse_heads = coarse_heads

    def call(self, y_true: Any, y_pred: Any) -> Any:
        heads, classes = self._check(y_pred.shape)
        fine = _distribution(y_true, classes, y_pred.dtype)
        targets = ops.repeat(ops.expand_dims(fine, 1), heads - self.coarse_heads, 1)
        if self.coarse_heads:
            levels = np.zeros((classes, classes), "float32")
            matrix = self.taxonomy.matrix()  # type: ignore[union-attr]
            levels[:, : matrix.shape[1]] = matrix
            coarse = ops.matmul(fine, ops.cast(levels, fine.dtype))
            coarse = ops.repeat(ops.expand_dims(coarse, 1), self.coarse_heads, 1)
            targets = ops.concatenate([coarse, targets], axis=1)
        losses = ops.categorical_crossentropy(
            targets, y_pred, from_logits=self.from_logits
        )
        weights = [1.0] * heads if self.weights is None else self.weights
        return ops.sum(losses * ops.cast(np.array(weights), losses.dtype), axis=-1)

    def _check(self, shape: Any) -> tuple[int, int]:
        """Sub-networks and classes of outputs of this shape."""
        heads, classes = check_outputs(shape, self.taxonomy, self.coarse_heads)
        if self.weights is not None and len(self.weights) != heads:
            raise ValueError(
                f"`weights` must be {heads} numbers, one per sub-network. "
                f"Received: weights={self.weights}"
            )
        return heads, classes

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "weights": self.weights,
            "from_logits": self.from_logits,
            "taxonomy": None if self.taxonomy is None else serialize(self.taxonomy),
            "coarse_heads": self.coarse_heads,
        }


def _distribution(labels: Any, classes: int, dtype: Any) -> Any:
    """`[N, classes]` from class indices or from what is a distribution already."""
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 2 and labels.shape[-1] == classes and classes > 1:
        return ops.cast(labels, dtype)
    indices = ops.cast(ops.reshape(labels, (-1,)), "int32")
    return ops.one_hot(indices, classes, dtype=dtype)
