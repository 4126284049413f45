"""A decision gate: one linear layer that says whether a net may stop here.

gate = DecisionGate(classes=10, pooling="avg")
scores = gate(features)                  # [batch, classes]
leave = gate.confidence_of(scores) >= threshold
"""

import math
from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import one_of
from keras_dyngate._registration import serializable
from keras_dyngate.layers.exit_gate import CONFIDENCES, ExitGate

POOLINGS = ("avg", "avg4x4", "flatten")


@serializable
class DecisionGate(ExitGate):
    """Pools a feature map and gives each class a score, `s = W x + b`, in float32.

    Trained with the one-vs-all hinge, a score is that of a linear support vector
    machine. A sample leaves the net here when its confidence reaches a threshold;
    whatever the confidence is, more is surer.

    Args:
        classes: Number of classes; 1: one score, above 0 for yes, as that of a sigmoid.
        pooling: Before the linear layer: "avg", global average pooling (default);
            "avg4x4", averages of 4x4 windows, all kept (what is left over at the right
            and lower edge is dropped); "flatten". Both options are designs of this
            library. Features without height and width are taken as they are.
        objective: What the gate is trained for: "hinge" (default) or "cross_entropy".
        confidence: "score" (default), "distance", "margin", "entropy" or
            "probability"; see `ExitGate`.

    Input shape: `[batch, height, width, channels]`, `[batch, steps, channels]` or
        `[batch, channels]`.
    Output shape: `[batch, classes]`, float32.

    Raises:
        ValueError: For a bad argument, or a feature map too small for "avg4x4".

    References:
        Shafiee, Shafiee, Wong: Dynamic representations toward efficient inference on
        deep neural networks by decision gates, CVPR workshops 2019, arXiv 1811.01476.
        "cross_entropy" with "entropy" is the exit of BranchyNet: Teerapittayanon,
        McDanel, Kung, ICPR 2016.

    Example:
        ```python
        gate = kd.DecisionGate(4)
        scores = gate(np.random.default_rng(0).normal(size=(2, 8, 8, 16)))
        print(gate.confidence_of(scores))  # who reaches the threshold leaves here
        ```
    """

    def __init__(
        self,
        classes: int,
        pooling: str = "avg",
        objective: str = "hinge",
        confidence: str = "score",
        **kwargs: Any,
    ) -> None:
        super().__init__(classes, objective, confidence, **kwargs)
        self.pooling = one_of("pooling", pooling, POOLINGS)
        # float32, whatever the policy
        self.dense = keras.layers.Dense(self.classes, dtype="float32", name="dense")

    @property
    def confidences(self) -> tuple[str, ...]:
        return CONFIDENCES

    def build(self, input_shape: Any) -> None:
        self.dense.build(self._pooled_shape(input_shape))
        self.freeze_again()

    def _pooled_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """`[batch, features]`; only "avg" does without a known image size."""
        batch, *sides, channels = input_shape
        if not sides or self.pooling == "avg":
            return batch, channels
        if self.pooling == "avg4x4" and len(sides) != 2:
            raise ValueError(
                "`pooling='avg4x4'` needs feature maps of height and width. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if None in sides or (self.pooling == "avg4x4" and min(sides) < 4):
            raise ValueError(
                f"`pooling={self.pooling!r}` needs feature maps of known size"
                + (", 4x4 or larger" if self.pooling == "avg4x4" else "")
                + f". Received: input_shape={tuple(input_shape)}"
            )
        window = 4 if self.pooling == "avg4x4" else 1
        for side in sides:
            channels *= side // window
        return batch, channels

    def pool(self, x: Any) -> Any:
        """The features `[batch, features]` that the linear layer reads, float32."""
        x = ops.cast(x, "float32")
        if len(x.shape) == 2:
            return x
        if self.pooling == "avg":
            return ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))
        if self.pooling == "avg4x4":
            x = ops.average_pool(x, 4, 4, "valid", data_format="channels_last")
        return ops.reshape(x, (-1, math.prod(x.shape[1:])))

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.dense(self.pool(x))

    def confidence_of(self, scores: Any) -> Any:
        if self.confidence != "distance":
            return super().confidence_of(scores)
        norms = ops.norm(ops.cast(self.dense.kernel, "float32"), axis=0)
        scores = ops.divide(scores, norms)
        return ops.max(ops.abs(scores) if self.classes == 1 else scores, axis=-1)

    def kernel_macs(self, input_shape: Any) -> int:
        """MACs of the linear layer for one image."""
        return self._pooled_shape(input_shape)[1] * self.classes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling}
