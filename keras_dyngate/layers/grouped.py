"""Grouped convolutions where a backend's own are slow.

On CPUs, TensorFlow and JAX take 30 to 120 times as long for a training step of a grouped
convolution as for a dense one of the same channels. There, a few groups at a time become
one dense convolution with zeros in its kernel: the same function, more MACs, less time.
An exported file has true grouped convolutions.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._backend import slow_groups

DENSE_CHANNELS = 32  # input channels of a dense convolution that stands for some groups


def grouped_convolution(layer: Any, inputs: Any, kernel: Any) -> Any:
    """`layer.convolution_op(inputs, kernel)`, by the faster way.

    Args:
        layer: A Keras convolution, channels last.
        inputs: `[batch, height, width, groups * width]`.
        kernel: `[height, width, width, filters]`.
    """
    width, filters = kernel.shape[2:]
    groups = inputs.shape[-1] // width
    if groups == 1 or _hooks.exporting() or not slow_groups():
        return layer.convolution_op(inputs, kernel)
    bundle = max(
        size
        for size in range(1, groups + 1)
        if groups % size == 0 and (size == 1 or size * width <= DENSE_CHANNELS)
    )
    columns = filters // groups
    mask = np.kron(np.eye(bundle), np.ones((width, columns))).astype("float32")
    mask = ops.cast(mask, kernel.dtype)
    found = []
    for start in range(0, groups, bundle):
        part = kernel[..., start * columns : (start + bundle) * columns]
        x = inputs[..., start * width : (start + bundle) * width]
        dense = ops.tile(part, (1, 1, bundle, 1)) * mask
        found.append(layer.convolution_op(x, dense))
    return found[0] if len(found) == 1 else ops.concatenate(found, axis=-1)
