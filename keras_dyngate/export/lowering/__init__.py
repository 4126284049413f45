"""The conditional form of dynamic layers: one input, and skipped work is not done.

A group of channels is a branch of a builtin `IF`. Its weights are constants made inside
the branch, so that each branch is an ordinary fused convolution; BN is folded by hand
into the slices, and the last shift is added after all groups, where it fuses with the
ReLU. TensorFlow only.
"""

from keras_dyngate.export.lowering.constants import (
    as_constants,
    stored_parameters,
    value,
    weights_as_constants,
)
from keras_dyngate.export.lowering.tools import Branch, Held, Lowering, Tools

__all__ = [
    "Branch",
    "Held",
    "Lowering",
    "Tools",
    "as_constants",
    "stored_parameters",
    "value",
    "weights_as_constants",
]
