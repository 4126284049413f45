"""A convolution in slices: slice j of its output reads slices 1..j of its input.

conv = SlicedConv2D(64, 3, slices=4, padding="same")
conv(x)                          # all slices
conv(x, first=2, last=2)         # slice 2 of the output, from slices 1..4 of x or 1..2
"""

import math
from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import channels_last, one_of, positive_int, whole_parts
from keras_dyngate._registration import serializable
from keras_dyngate.layers.grouped import grouped_convolution
from keras_dyngate.layers.slices import (
    quantized_kernel,
    slice_range,
    triangular_kernel,
    triangular_mask,
)

EXECUTIONS = ("masked", "sliced")


@serializable
class SlicedConv2D(keras.layers.Conv2D):
    """A `Conv2D` with a block lower-triangular kernel.

    Slice j of the output does not depend on later slices, so it is the same in every
    sub-network that has it, and can be computed after slices 1..j-1 and apart from them.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate, groups,
            activation, use_bias, ...: As in `keras.layers.Conv2D`. With groups, slice j
            reads slice j alone.
        slices: K; divides the filters, the input channels if they are sliced, and the
            groups unless there is one.
        sliced_inputs: False for the first layer of a net: every slice reads all of the
            input. Default True.
        execution: "masked" (default), one convolution with zeros in its kernel, the
            reference; or "sliced", one per slice on the inputs it reads, with fewer
            MACs. Both compute the same.

    Call arguments:
        inputs: `[batch, height, width, channels]`, slices 1..last of the input; with
            groups, slices first..last; all channels without sliced inputs. The layer
            must be built, or called first, at full width.
        first, last: Slices of the output to compute, from 1. Default all.

    Output shape: `[batch, height, width, filters * (last - first + 1) / K]`.

    Raises:
        ValueError: If K does not divide the filters, channels or groups, for slices out
            of range, inputs of another width, or `channels_first`.

    References:
        The sparsity is that of vertical slicing; the two executions are designs of this
        library.

    Example:
        ```python
        conv = kd.SlicedConv2D(8, 3, slices=2)
        x = np.random.default_rng(0).normal(size=(1, 8, 8, 4))
        whole = conv(x)
        first = conv(x[..., :2], last=1)  # equals whole[..., :4]
        ```
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        *,
        slices: int,
        sliced_inputs: bool = True,
        execution: str = "masked",
        **kwargs: Any,
    ) -> None:
        kwargs["data_format"] = channels_last(kwargs.get("data_format"))
        super().__init__(filters, kernel_size, **kwargs)
        self.slices = positive_int("slices", slices)
        self.sliced_inputs = bool(sliced_inputs)
        self.execution = one_of("execution", execution, EXECUTIONS)
        self.columns = whole_parts("filters", filters, "slices", slices)
        if self.groups > 1:
            whole_parts("groups", self.groups, "slices", slices)
            if not sliced_inputs:
                raise ValueError(
                    "`groups` above 1 need `sliced_inputs=True`. "
                    f"Received: groups={self.groups}"
                )

    @property
    def _triangular(self) -> bool:
        """Whether slices read earlier ones."""
        return self.sliced_inputs and self.groups == 1

    def build(self, input_shape: Any) -> None:
        self.in_channels = input_shape[-1]
        if not self.sliced_inputs:
            super().build(input_shape)
            return
        self.rows = whole_parts("channels", self.in_channels, "slices", self.slices)
        if self._triangular:
            sizes = [self.rows] * self.slices, [self.columns] * self.slices
            with triangular_kernel(self, *sizes):
                super().build(input_shape)
        else:
            super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=4)  # narrower ones come as well

    def _range(self, channels: int, first: int, last: int | None) -> tuple[int, int]:
        """Checked slices, and the inputs for them."""
        first, last = slice_range(first, last, self.slices)
        expected = self.in_channels
        if self.sliced_inputs:
            expected = self.rows * (last - (0 if self.groups == 1 else first - 1))
        if channels != expected:
            raise ValueError(
                f"`inputs` must have {expected} channels for first={first}, "
                f"last={last}. Received: {channels} channels"
            )
        return first, last

    def call(self, inputs: Any, first: int = 1, last: int | None = None) -> Any:
        first, last = self._range(inputs.shape[-1], first, last)
        if self.execution == "masked":
            outputs = self._masked(inputs, first, last)
        else:
            outputs = [self._slice(inputs, j, first) for j in range(first, last + 1)]
            outputs = outputs[0] if first == last else ops.concatenate(outputs, axis=-1)
        if self.use_bias:
            columns = slice((first - 1) * self.columns, last * self.columns)
            outputs = outputs + ops.cast(self.bias[columns], outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def _masked(self, inputs: Any, first: int, last: int) -> Any:
        kernel = self.kernel[..., (first - 1) * self.columns : last * self.columns]
        if self._triangular:
            kernel = kernel[:, :, : inputs.shape[-1]]
            if first < last:
                columns = [self.columns] * (last - first + 1)
                mask = triangular_mask([self.rows] * last, columns)
                kernel = kernel * ops.cast(mask, kernel.dtype)
        return grouped_convolution(self, inputs, quantized_kernel(self, kernel))

    def _slice(self, inputs: Any, j: int, first: int) -> Any:
        kernel = self.kernel[..., (j - 1) * self.columns : j * self.columns]
        if self._triangular:
            kernel = kernel[:, :, : self.rows * j]
            used = slice(0, self.rows * j)
        elif self.sliced_inputs:
            used = slice((j - first) * self.rows, (j - first + 1) * self.rows)
        else:
            used = slice(0, self.in_channels)
        if used != slice(0, inputs.shape[-1]):  # a file would copy all of it
            inputs = inputs[..., used]
        return grouped_convolution(self, inputs, quantized_kernel(self, kernel))

    def compute_output_shape(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> tuple[int | None, ...]:
        *shape, _ = super().compute_output_shape((*input_shape[:-1], self.in_channels))
        first, last = self._range(input_shape[-1], first, last)
        return (*shape, self.columns * (last - first + 1))

    def compute_output_spec(
        self, inputs: Any, first: int = 1, last: int | None = None
    ) -> Any:
        shape = self.compute_output_shape(inputs.shape, first, last)
        return keras.KerasTensor(shape, self.compute_dtype)

    def kernel_macs(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """MACs of slices `first..last` for one image; masked weights do not count."""
        shape: Any = self.compute_output_shape(input_shape, first, last)
        return int(shape[1] * shape[2]) * self._kernel_size_of(first, last)

    def _kernel_size_of(self, first: int, last: int | None) -> int:
        """Unmasked numbers in the kernel of slices `first..last`."""
        first, last = slice_range(first, last, self.slices)
        if self._triangular:
            rows = sum(self.rows * j for j in range(first, last + 1))
        else:
            rows = self.in_channels // self.groups * (last - first + 1)
        return int(math.prod(self.kernel_size) * rows * self.columns)

    def used_parameters(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """Parameters of slices `first..last`, without the masked ones."""
        first, last = self._range(input_shape[-1], first, last)
        bias = self.columns * (last - first + 1) * self.use_bias
        return self._kernel_size_of(first, last) + bias

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "slices": self.slices,
            "sliced_inputs": self.sliced_inputs,
            "execution": self.execution,
        }
