"""Accuracy of one sub-network among the outputs of all.

AnytimeAccuracy(2)                                       # of sub-network 2
AnytimeAccuracy(3, "coarse", taxonomy, coarse_heads=2)   # its answers mapped up
"""

from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import member, one_of, positive_int
from keras_dyngate._registration import serializable
from keras_dyngate.losses.anytime_loss import check_levels, check_outputs
from keras_dyngate.taxonomy import HierarchicalTaxonomy

LEVELS = ("fine", "coarse", "agreement")


@serializable
class AnytimeAccuracy(keras.metrics.Mean):
    """Share of right answers of sub-network k, from outputs `[N, K, classes]`.

    Args:
        k: The sub-network, from 1.
        level: "fine" (default): the classes as they are; "coarse": coarse labels, a fine
            head's answer mapped up; "agreement": how often a fine head's answer, mapped
            up, is that of the last coarse head; labels do not matter then.
        taxonomy, coarse_heads: As in `AnytimeLoss`.
        name: Default: "accuracy_<k>", and with a taxonomy "<level>_accuracy_<k>" or
            "agreement_<k>".
        dtype: See `keras.metrics.Metric`.

    Raises:
        ValueError: For a level that the head or the arguments do not have.

    Example:
        ```python
        model = kd.sliced_resnet(blocks=1, width=16, subnetworks=2)
        model.compile("sgd", metrics=[kd.AnytimeAccuracy(1), kd.AnytimeAccuracy(2)])
        ```
    """

    def __init__(
        self,
        k: int,
        level: str = "fine",
        taxonomy: HierarchicalTaxonomy | None = None,
        coarse_heads: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.k = positive_int("k", k)
        self.level = one_of("level", level, LEVELS)
        self.taxonomy = check_levels(taxonomy, coarse_heads)
        self.coarse_heads = coarse_heads
        if name is None:
            name = f"accuracy_{k}"
            if self.taxonomy is not None:
                name = name if level == "agreement" else f"{level}_{name}"
                name = name.replace("accuracy", "agreement", level == "agreement")
        fine = k > coarse_heads
        if (level != "coarse" and not fine) or (
            level != "fine" and self.taxonomy is None
        ):
            raise ValueError(
                "`level` 'fine' and 'agreement' are of fine heads, 'coarse' and "
                f"'agreement' need a taxonomy. Received: level={level!r}, k={k}, "
                f"coarse_heads={coarse_heads}, taxonomy={self.taxonomy!r}"
            )
        if level == "agreement" and not coarse_heads:
            raise ValueError(
                "`level='agreement'` needs a coarse head. Received: coarse_heads=0"
            )
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        heads, _ = check_outputs(y_pred.shape, self.taxonomy, self.coarse_heads)
        member("k", self.k, heads)
        answer = ops.argmax(y_pred[:, self.k - 1], axis=-1)
        if self.level != "fine" and self.k > self.coarse_heads:
            answer = self._coarse(answer)
        if self.level == "agreement":
            truth = ops.argmax(y_pred[:, self.coarse_heads - 1], axis=-1)
        else:
            truth = self._truth(y_true, y_pred.shape[-1])
        right = ops.equal(ops.cast(answer, "int32"), ops.cast(truth, "int32"))
        return super().update_state(ops.cast(right, self.dtype), sample_weight)

    def _truth(self, y_true: Any, classes: int) -> Any:
        labels = ops.convert_to_tensor(y_true)
        if len(labels.shape) == 2 and labels.shape[-1] == classes and classes > 1:
            labels = ops.argmax(labels, axis=-1)
        labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        return self._coarse(labels) if self.level == "coarse" else labels

    def _coarse(self, labels: Any) -> Any:
        coarse_of_fine = self.taxonomy.coarse_of_fine  # type: ignore[union-attr]
        return ops.take(ops.convert_to_tensor(coarse_of_fine), labels)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "k": self.k,
            "level": self.level,
            "taxonomy": None if self.taxonomy is None else serialize(self.taxonomy),
            "coarse_heads": self.coarse_heads,
            "name": self.name,
            "dtype": self.dtype,
        }


def anytime_accuracies(
    subnetworks: int,
    taxonomy: HierarchicalTaxonomy | None = None,
    coarse_heads: int = 0,
) -> list[AnytimeAccuracy]:
    """A metric for each sub-network, and with a taxonomy for each level it answers."""
    found = []
    for k in range(1, subnetworks + 1):
        fine = k > coarse_heads
        levels = ["fine"] if fine else []
        if taxonomy is not None:
            levels.append("coarse")
        if fine and coarse_heads:
            levels.append("agreement")
        found += [AnytimeAccuracy(k, level, taxonomy, coarse_heads) for level in levels]
    return found
