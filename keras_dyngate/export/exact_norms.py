"""Batch normalization that stands on its own, in an int8 file.

After a convolution it is folded into that. Elsewhere (after a sum, a concatenation) it
would become a product and a sum with vectors that share one scale: where a channel's
factor is large, as 1 / sqrt(epsilon) for a channel that is always 0, all others are lost.
As a depthwise 1x1 convolution each channel has a scale of its own, and the shift is int32.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dyngate.layers import SlicedBatchNormalization

FOLDED = ("Conv2D", "DepthwiseConv2dNative", "BiasAdd", "MatMul")


def _on_its_own(x: Any) -> bool:
    """Whether a 4D tensor does not come straight from what the converter folds into."""
    return len(x.shape) == 4 and x.op.type not in FOLDED


def _convolved(x: Any, norm: Any, first: int, size: int) -> Any:
    """`x` normalized by the channels from `first` on, as a depthwise convolution."""
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


@contextlib.contextmanager
def exact_norms(int8: bool) -> Iterator[None]:
    """Trace batch normalizations on their own as depthwise convolutions inside.

    Args:
        int8: Whether to; in float they stay products and sums.
    """
    if not int8:
        yield
        return
    plain, sliced = keras.layers.BatchNormalization, SlicedBatchNormalization
    call, normalized = plain.call, sliced.normalized

    def plain_call(
        self: Any, inputs: Any, training: Any = None, mask: Any = None
    ) -> Any:
        if training or self.axis not in (-1, 3) or not _on_its_own(inputs):
            return call(self, inputs, training=training, mask=mask)
        return _convolved(inputs, self, 0, int(inputs.shape[-1]))

    def sliced_normalized(self: Any, inputs: Any, first: int) -> Any:
        if not _on_its_own(inputs):
            return normalized(self, inputs, first)
        return _convolved(inputs, self, first, int(inputs.shape[-1]))

    try:
        plain.call, sliced.normalized = plain_call, sliced_normalized  # type: ignore[method-assign]
        yield
    finally:
        plain.call, sliced.normalized = call, normalized  # type: ignore[method-assign]
