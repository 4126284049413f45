"""A convolution whose narrower versions are prefixes of the widest.

conv = NestedConv2D(64, 1, subnetworks=4, nested="filters", use_bias=False)
conv(x)         # all 64 filters
conv(x, k=1)    # the first 16 of them
"""

import itertools
import math
from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._checks import (
    channels_last,
    member,
    one_of,
    positive_int,
    whole_parts,
)
from keras_dyngate._registration import serializable
from keras_dyngate.layers.grouped import grouped_convolution

NESTED = ("filters", "inputs", "both")


@serializable
class NestedConv2D(keras.layers.Conv2D):
    """A `Conv2D` of which sub-network k uses the first k / K of its channels.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate, groups,
            activation, use_bias, ...: As in `keras.layers.Conv2D`, of sub-network K.
        subnetworks: K; divides what is nested, and the groups unless there is one.
        nested: "filters": k takes the first k / K of the filters and the whole input;
            "inputs": the whole output from the first k / K of the input channels;
            "both" (default): of both, and of the groups.

    Call arguments:
        inputs: `[batch, height, width, channels]`, or the first `channels * k / K` of
            these channels if the inputs are nested. The layer must be built, or called
            first, at full width.
        k: The sub-network, 1 to K. Default K.

    Raises:
        ValueError: If K does not divide the filters, input channels or groups, for a k
            out of range, inputs of another width, or `channels_first`.

    Where an exporter cuts the kernel at some sub-networks, the convolution is made of
    several, of pieces that every k at or above a cut has in common. What is computed
    stays the same.

    References:
        The prefixes are those of I-ResNeXt; see `inclusive_resnext`.

    Example:
        ```python
        conv = kd.NestedConv2D(8, 3, subnetworks=4, nested="filters")
        x = np.ones((1, 8, 8, 3))
        print(conv(x).shape[-1], conv(x, k=1).shape[-1])  # 8 2
        ```
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        *,
        subnetworks: int,
        nested: str = "both",
        **kwargs: Any,
    ) -> None:
        kwargs["data_format"] = channels_last(kwargs.get("data_format"))
        super().__init__(filters, kernel_size, **kwargs)
        self.subnetworks = positive_int("subnetworks", subnetworks)
        self.nested = one_of("nested", nested, NESTED)
        if self.groups > 1 and nested != "both":
            raise ValueError(
                "`groups` above 1 need `nested='both'`. "
                f"Received: groups={self.groups}, nested={nested!r}"
            )
        if nested != "inputs":
            whole_parts("filters", filters, "subnetworks", subnetworks)
        if self.groups > 1:
            whole_parts("groups", self.groups, "subnetworks", subnetworks)

    def build(self, input_shape: Any) -> None:
        if self.nested != "filters" and input_shape[-1] is not None:
            whole_parts(
                "input channels", input_shape[-1], "subnetworks", self.subnetworks
            )
        self.in_channels = input_shape[-1]
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=4)  # narrower ones come as well

    def _sizes(self, channels: int, k: int | None) -> tuple[int, int]:
        """Rows and columns of the kernel that `k` uses on inputs of this width."""
        k = self.subnetworks if k is None else member("k", k, self.subnetworks)
        expected = self.in_channels
        if self.nested != "filters":
            expected = expected * k // self.subnetworks
        if channels != expected:
            raise ValueError(
                f"`inputs` must have {expected} channels for k={k}. "
                f"Received: {channels} channels"
            )
        columns = self.filters
        if self.nested != "inputs":
            columns = columns * k // self.subnetworks
        return (
            expected if self.groups == 1 else self.in_channels // self.groups,
            columns,
        )

    def call(self, inputs: Any, k: int | None = None) -> Any:
        rows, columns = self._sizes(inputs.shape[-1], k)
        kernel = self.kernel[:, :, :rows, :columns]
        if pieces := _hooks.pieces():
            outputs = self._in_pieces(inputs, kernel, pieces)
        else:
            outputs = grouped_convolution(self, inputs, kernel)
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias[:columns], outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def _in_pieces(self, inputs: Any, kernel: Any, pieces: tuple[int, ...]) -> Any:
        """The convolution of `inputs`, from one per piece of the kernel."""
        whole, unit = self.filters, self.filters // self.subnetworks
        used = kernel.shape[-1]
        if self.nested == "inputs":
            whole, unit = self.in_channels, self.in_channels // self.subnetworks
            used = kernel.shape[-2]
        cuts = sorted({0, *(p * unit for p in pieces if p * unit < used), used})
        found = []
        for start, stop in itertools.pairwise(cuts):
            if self.nested == "inputs":
                part = self.convolution_op(
                    inputs[..., start:stop], kernel[:, :, start:stop]
                )
            else:
                x = inputs
                if self.groups > 1:  # a group reads inputs of its own
                    width = self.in_channels
                    x = x[..., start * width // whole : stop * width // whole]
                part = grouped_convolution(self, x, kernel[..., start:stop])
            found.append(part)
        if self.nested == "inputs":
            return sum(found[1:], found[0])
        return found[0] if len(found) == 1 else ops.concatenate(found, axis=-1)

    def compute_output_shape(
        self, input_shape: Any, k: int | None = None
    ) -> tuple[int | None, ...]:
        *shape, _ = super().compute_output_shape((*input_shape[:-1], self.in_channels))
        return (*shape, self._sizes(input_shape[-1], k)[1])

    def compute_output_spec(self, inputs: Any, k: int | None = None) -> Any:
        shape = self.compute_output_shape(inputs.shape, k)
        return keras.KerasTensor(shape, self.compute_dtype)

    def kernel_macs(self, input_shape: Any, k: int | None = None) -> int:
        """MACs of sub-network `k` for one image."""
        rows, _ = self._sizes(input_shape[-1], k)
        shape = self.compute_output_shape(input_shape, k)
        sides: Any = shape[1:]
        return int(math.prod(self.kernel_size) * rows * math.prod(sides))

    def used_parameters(self, input_shape: Any, k: int | None = None) -> int:
        """Parameters that sub-network `k` reads."""
        rows, columns = self._sizes(input_shape[-1], k)
        return columns * (math.prod(self.kernel_size) * rows + self.use_bias)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "subnetworks": self.subnetworks,
            "nested": self.nested,
        }
