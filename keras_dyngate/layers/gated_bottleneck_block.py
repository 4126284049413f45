"""The three-convolution residual block with both inner activations gated per input."""

from keras_dyngate._registration import serializable
from keras_dyngate.layers.gated_block import GatedBlock


@serializable
class GatedBottleneckBlock(GatedBlock):
    """Residual block of 1x1, 3x3 and 1x1 convolutions with optional gates.

    The channel gate has two halves: the first masks the 1x1 reduction, the second the
    3x3 convolution, each after BN and ReLU (design of this library). With open shares
    p1 and p2 the three convolutions cost p1, p1 * p2 and p2 of their MACs. The stride is
    in the 3x3 convolution. Without gates this is the plain block.

    Args, shapes, errors: See `GatedBlock`; `channel_gate` has two units per group, and
    the block puts out `4 * filters` channels.
    """

    masks = 2
    expansion = 4

    def branch_specs(self) -> list[tuple[int, int, int]]:
        out = self.filters * self.expansion
        inner = self.inner_filters
        return [(inner, 1, 1), (inner, 3, self.strides), (out, 1, 1)]
