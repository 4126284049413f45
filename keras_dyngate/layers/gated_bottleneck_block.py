"""The three-convolution residual block with its inner activations gated per input."""

from typing import Any

from keras_dyngate._checks import one_of
from keras_dyngate._registration import serializable
from keras_dyngate.layers.gated_block import GatedBlock

ACTIVATIONS = {"both": (0, 1), "last": (1,)}


@serializable
class GatedBottleneckBlock(GatedBlock):
    """Residual block of 1x1, 3x3 and 1x1 convolutions with optional gates.

    By default the channel gate has two halves: the first masks the 1x1 reduction, the
    second the 3x3 convolution, each after BN and ReLU. With open shares p1 and p2 the
    three convolutions cost p1, p1 * p2 and p2 of their MACs. With
    `gated_activations="last"` only the 3x3 convolution's output is masked, and they cost
    1, p and p (both designs of this library). The stride is in the 3x3 convolution.
    Without gates this is the plain block.

    Args, shapes, errors: See `GatedBlock`; `channel_gate` has one unit per group and
        masked activation, and the block puts out `4 * filters` channels.
        gated_activations: "both" (default) or "last".

    Example:
        ```python
        block = kd.GatedBottleneckBlock(4, channel_gate=kd.BinaryGate(8))
        y = block(np.ones((1, 8, 8, 16)))  # 4 * 4 channels; four gates for each activation
        ```
    """

    masked = ACTIVATIONS["both"]
    expansion = 4

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        *,
        gated_activations: str = "both",
        **kwargs: Any,
    ) -> None:
        self.gated_activations = one_of(
            "gated_activations", gated_activations, tuple(ACTIVATIONS)
        )
        self.masked = ACTIVATIONS[gated_activations]
        super().__init__(filters, strides, **kwargs)

    def branch_specs(self) -> list[tuple[int, int, int]]:
        out = self.filters * self.expansion
        inner = self.inner_filters
        first = inner if 0 in self.masked else self.filters
        return [(first, 1, 1), (inner, 3, self.strides), (out, 1, 1)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gated_activations": self.gated_activations}
