"""Batch normalization that stands on its own, in an int8 file.

After a convolution it is folded into that. Elsewhere (after a sum, a concatenation) it
would become a product and a sum with vectors that share one scale: where a channel's
factor is large, as 1 / sqrt(epsilon) for a channel that is always 0, all others are lost.
As a depthwise 1x1 convolution each channel has a scale of its own, and the shift is int32.
"""

import contextlib
from typing import Any

import tensorflow as tf

from keras_dyngate import _hooks

FOLDED = ("Conv2D", "DepthwiseConv2dNative", "BiasAdd", "MatMul")
XLA_CONVOLUTION = "_conv_xla"  # the function that Keras has for grouped ones


def _is_folded_into(operation: Any) -> bool:
    """Whether the converter takes a product and a sum into what an operation does."""
    if operation.type.endswith("PartitionedCall"):
        return XLA_CONVOLUTION in operation.get_attr("f").name
    return operation.type in FOLDED


def _convolved(norm: Any, x: Any, first: int) -> Any | None:
    """`x`, 4D, normalized by the channels from `first` on, as a convolution.

    None for an `x` that comes straight from what the converter folds into.
    """
    if norm.axis not in (-1, 3) or len(x.shape) != 4 or _is_folded_into(x.op):
        return None
    size = int(x.shape[-1])
    part = slice(first, first + size)
    scale = tf.math.rsqrt(norm.moving_variance[part] + norm.epsilon)
    if norm.scale:
        scale *= norm.gamma[part]
    shift = -norm.moving_mean[part] * scale
    if norm.center:
        shift += norm.beta[part]
    kernel = tf.reshape(scale, [1, 1, size, 1])
    product = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID")
    return tf.nn.bias_add(product, tf.reshape(shift, [size]))


def exact_norms(int8: bool) -> contextlib.AbstractContextManager[None]:
    """Trace batch normalizations on their own as depthwise convolutions inside.

    Args:
        int8: Whether to; in float they stay products and sums.
    """
    return _hooks.normalizing(_convolved) if int8 else contextlib.nullcontext()
