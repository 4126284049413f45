"""The biases of an int8 file: whole numbers of the step in which its sums are counted.

That is the step of what comes in times that of the channel's kernel. A batch
normalization behind a kernel is a part of both.
"""

from typing import Any

import keras
from keras import ops

_BN = keras.layers.BatchNormalization
_LEAST = 1e-12  # a step below is that of a channel that says nothing


def shift_of_bias(
    step: Any, kernel: Any, bias: Any, norm: keras.Layer | None = None
) -> Any:
    """What a kernel's sums have more in an int8 file, whose bias is rounded.

    Args:
        step: Between two numbers that come in, a scalar.
        kernel: `[..., channels]`.
        bias: `[channels]`, or None.
        norm: The batch normalization behind it.

    Returns:
        `[channels]`, what to add in front of `norm`, or None: it has no bias.
    """
    if bias is None and norm is None:
        return None
    most = ops.max(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 1)))
    factor, offset = ops.ones_like(most), ops.zeros_like(most)
    if bias is not None:
        offset = ops.convert_to_tensor(bias)
    if norm is not None:
        factor = ops.rsqrt(norm.moving_variance + norm.epsilon)
        factor = factor * norm.gamma if norm.scale else factor
        offset = (offset - norm.moving_mean) * factor
        offset = offset + norm.beta if norm.center else offset
    unit = step * most * ops.abs(factor) / 127
    known = unit > _LEAST
    unit = ops.where(known, unit, 1.0)
    moved = ops.round(offset / unit) * unit - offset
    return ops.where(known, moved / ops.where(known, factor, 1.0), 0.0)


def norm_behind(layer: keras.Layer) -> keras.Layer | None:
    """The batch normalization that alone reads a layer in its functional nets."""
    readers = {id(n.operation): n.operation for n in layer._outbound_nodes}
    norms = [reader for reader in readers.values() if isinstance(reader, _BN)]
    return norms[0] if len(readers) == len(norms) == 1 else None
