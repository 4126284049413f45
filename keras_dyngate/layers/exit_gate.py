"""What every exit of a net has: class scores, and how sure of them it is."""

from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import one_of, positive_int
from keras_dyngate._saving import KeepsFrozen
from keras_dyngate.cost import CostRow
from keras_dyngate.losses import OneVsAllHinge, ScoreCrossEntropy

CONFIDENCES = ("score", "distance", "margin", "entropy", "probability")
OBJECTIVES: dict[str, type[keras.losses.Loss]] = {
    "hinge": OneVsAllHinge,
    "cross_entropy": ScoreCrossEntropy,
}


class ExitGate(KeepsFrozen, keras.layers.Layer):
    """Base of layers that answer early: features to raw class scores in float32.

    A sample leaves the net where the confidence of its scores reaches a threshold;
    whatever the confidence is, more is surer.

    Args:
        classes: Number of classes; 1: one score, above 0 for yes, as that of a sigmoid.
        objective: What the exit is trained for: "hinge" or "cross_entropy".
        confidence: "score", the largest score; "margin", the largest score minus the
            second (design of this library); "entropy", minus the entropy of the softmax
            of the scores, in nats; "probability", the largest value of that softmax;
            "distance", the largest score over the norm of its weights, of a
            `DecisionGate` alone. One score s is as good as the two scores (0, s) of no
            and yes; its "score" is its size, its "distance" that over the norm.

    Output shape: `[batch, classes]`, float32.
    """

    def __init__(
        self, classes: int, objective: str, confidence: str, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.classes = positive_int("classes", classes)
        self.objective = one_of("objective", objective, tuple(OBJECTIVES))
        self.confidence = confidence

    @property
    def confidences(self) -> tuple[str, ...]:
        """What `confidence` may be."""
        return tuple(name for name in CONFIDENCES if name != "distance")

    @property
    def confidence(self) -> str:
        """Which function of the scores is compared with the threshold; may be set."""
        return self._confidence

    @confidence.setter
    def confidence(self, confidence: str) -> None:
        self._confidence = one_of("confidence", confidence, self.confidences)

    def loss(self) -> keras.losses.Loss:
        """A new loss of the exit's objective, on class indices or one-hot labels."""
        return OBJECTIVES[self.objective]()

    def confidence_of(self, scores: Any) -> Any:
        """How sure scores `[batch, classes]` are, `[batch]`."""
        one = scores.shape[-1] == 1
        if one and self.confidence in ("margin", "entropy", "probability"):
            scores = ops.concatenate([ops.zeros_like(scores), scores], axis=-1)
        if self.confidence == "entropy":
            log_p = ops.log_softmax(scores)
            return ops.sum(ops.exp(log_p) * log_p, axis=-1)
        if self.confidence == "probability":
            # No softmax: an int8 file would hold what comes of one in 8 bits.
            over = ops.subtract(scores, ops.max(scores, axis=-1, keepdims=True))
            return 1.0 / ops.sum(ops.exp(over), axis=-1)
        if self.confidence == "margin":
            top = ops.top_k(scores, 2)[0]
            return top[..., 0] - top[..., 1]
        return ops.max(ops.abs(scores) if one else scores, axis=-1)

    def kernel_macs(self, input_shape: Any) -> int:
        """MACs of the exit for one image."""
        raise NotImplementedError

    def exit_rows(self, input_shape: Any) -> tuple[CostRow, ...]:
        """What it costs; none of it is of the plain net."""
        return (CostRow(self.name, "", self.kernel_macs(input_shape), controller=True),)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        return input_shape[0], self.classes

    def compute_output_spec(self, x: Any, training: Any = None) -> keras.KerasTensor:
        return keras.KerasTensor((x.shape[0], self.classes), "float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "objective": self.objective,
            "confidence": self.confidence,
        }
