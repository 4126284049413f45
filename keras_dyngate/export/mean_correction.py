"""Features keep their means where kernels are rounded to 8 bits.

A rounded kernel adds the product of its errors with its inputs. After a ReLU these have
a mean, and so has the error: the same for every image, and so to be had back at no cost
at run time. What a convolution gains in the mean over some images goes into the batch
normalization behind it, or into its bias. (Known as bias correction: Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019.)
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import Call, run_calls
from keras_dyngate.export.float_kernels import is_thin
from keras_dyngate.export.lowering import value
from keras_dyngate.export.preparing import Prepared

IMAGES = 64  # more hardly move a mean
BATCH = 8
LEAST = 1024  # numbers of a kernel that is rounded in a "dynamic" file


def rounded(kernel: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    """A kernel as it comes back from 8 bits: a scale for each output channel.

    Args:
        kernel: Of a convolution.
        channels: Its axes of output channels.
    """
    others = tuple(axis for axis in range(kernel.ndim) if axis not in channels)
    scale = np.abs(kernel).max(axis=others, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale)
    return np.round(kernel / scale) * scale


class _Watched:
    """One convolution, and the variable that is to take its mean error."""

    def __init__(self, layer: Any, target: Any, sign: int, int8: bool) -> None:
        self.layer, self.target, self.sign = layer, target, sign
        self.total: Any = 0.0
        self.count = 0
        if isinstance(layer, keras.layers.SeparableConv2D):
            deep, wide = value(layer.depthwise_kernel), value(layer.pointwise_kernel)
            self.convolve = keras.ops.separable_conv
            self.kernels: list[Any] = [(deep, rounded(wide, (3,)) - wide)]
            if int8:  # its depthwise kernel is rounded too
                self.kernels.append((rounded(deep, (2, 3)) - deep, rounded(wide, (3,))))
            return
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        self.convolve = keras.ops.depthwise_conv if depthwise else keras.ops.conv
        kernel = value(layer.kernel)
        self.kernels = [(rounded(kernel, (2, 3) if depthwise else (3,)) - kernel,)]

    def look(self, x: Any) -> None:
        found = sum(
            self.convolve(
                x,
                *(kernel.astype("float32") for kernel in kernels),
                strides=self.layer.strides,
                padding=self.layer.padding,
                dilation_rate=self.layer.dilation_rate,
            )
            for kernels in self.kernels
        )
        sums = keras.ops.sum(keras.ops.mean(found, axis=(1, 2)), axis=0)
        self.total = self.total + sums.numpy().astype("float64")
        self.count += len(x)

    @property
    def shift(self) -> np.ndarray:
        return (self.sign * self.total / self.count).astype("float32")


def _is_rounded(layer: Any, int8: bool) -> bool:
    """Whether the file has an 8-bit kernel for a layer; those of others are small."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return int8 and layer.data_format == "channels_last"
    if isinstance(layer, keras.layers.SeparableConv2D):
        kernel = layer.pointwise_kernel
    elif isinstance(layer, keras.layers.Conv2D):
        kernel = layer.kernel
    else:
        return False
    macs = math.prod(kernel.shape)
    enough = int8 or (macs >= LEAST and not is_thin(macs, *kernel.shape[-2:]))
    return enough and layer.data_format == "channels_last"


def _watched(prepared: Prepared, calls: Sequence[Call], int8: bool) -> dict[int, Any]:
    """By the id of its call, each convolution whose error has a place to go."""
    times = Counter(id(call.operation) for call in calls)
    readers: dict[int, list[Call]] = {}
    for call in calls:
        for x in call.inputs:
            readers.setdefault(id(x), []).append(call)
    found = {}
    for call in calls:
        layer = prepared.form(call)
        if not _is_rounded(layer, int8) or times[id(call.operation)] > 1:
            continue
        target, sign = (layer.bias, -1) if layer.use_bias else (None, 1)
        after = readers.get(id(call.outputs[0]), [])
        norm = prepared.form(after[0]) if len(after) == 1 else None
        if (
            isinstance(norm, keras.layers.BatchNormalization)
            and layer.activation is keras.activations.linear
            and times[id(after[0].operation)] == 1
            and norm.axis in (-1, 3)
        ):
            target, sign = norm.moving_mean, 1
        if target is not None:
            found[id(call)] = _Watched(layer, target, sign, int8)
    return found


def keep_means(
    prepared: Prepared,
    entry: keras.KerasTensor,
    calls: Sequence[Call],
    images: np.ndarray,
    int8: bool,
) -> None:
    """Have a prepared net shift biases by what rounding its kernels adds in the mean.

    Blocks that decide are left as they are. Nothing is assigned: the shifts stand in
    `prepared.shifts`.

    Args:
        prepared: What is going to be traced.
        entry: The input.
        calls: All of its calls.
        images: Some that the net is made for, `[N, ...]`; the first 64 are used.
        int8: Whether for an int8 file, not for one with 8-bit weights.
    """
    watched = _watched(prepared, calls, int8)
    if not watched:
        return

    def operation(call: Call) -> Callable[..., Any]:
        run = prepared(call)
        if id(call) not in watched:
            return run

        def look_and_run(x: Any, *args: Any, **kwargs: Any) -> Any:
            watched[id(call)].look(x)
            return run(x, *args, **kwargs)

        return look_and_run

    for start in range(0, min(len(images), IMAGES), BATCH):
        batch = images[start : min(start + BATCH, IMAGES)].astype("float32")
        run_calls(calls, {id(entry): keras.ops.convert_to_tensor(batch)}, operation)
    prepared.shifts.update({id(w.target): w.shift for w in watched.values()})
