"""The two-convolution residual block whose inner channels are gated per input.

y = ReLU(BN2(W2 * (G(x) . ReLU(BN1(W1 * x)))) + shortcut(x))
"""

from keras_dyngate._registration import serializable
from keras_dyngate.layers.gated_block import GatedBlock


@serializable
class GatedBasicBlock(GatedBlock):
    """Residual block of two 3x3 convolutions with optional gates.

    The channel gate masks the first convolution's output after BN and ReLU, so that a
    shut channel saves a filter of the first convolution and an input slice of the
    second. A layer gate of score 0 skips the branch: `ReLU(shortcut(x))` is left.
    Without gates this is the plain block.

    Args, shapes, errors: See `GatedBlock`; `channel_gate` has one unit per group.

    References:
        Bejnordi, Blankevoort, Welling, ICLR 2020, arXiv 1907.06627.

    Example:
        ```python
        block = kd.GatedBasicBlock(16, channel_gate=kd.BinaryGate(4), layer_gate="binary")
        y = block(np.ones((1, 8, 8, 16)))  # four groups of channels, and the whole block
        ```
    """

    def branch_specs(self) -> list[tuple[int, int, int]]:
        return [(self.inner_filters, 3, self.strides), (self.filters, 3, 1)]
