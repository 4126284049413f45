"""A linear layer in slices: slice j of its output reads slices 1..j of its input.

heads = SlicedDense([20, 100], slices=2)     # two heads, one on half of the features
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import one_of, positive_int, whole_parts
from keras_dyngate._registration import serializable
from keras_dyngate.layers.sliced_conv2d import EXECUTIONS
from keras_dyngate.layers.slices import (
    quantized_kernel,
    slice_range,
    triangular_kernel,
    triangular_mask,
)


@serializable
class SlicedDense(keras.layers.Dense):
    """A `Dense` with a block lower-triangular kernel.

    Args:
        units: All outputs, a multiple of `slices`; or a list, the outputs of each slice:
            so K classifiers, each on a longer prefix of the features, are one layer.
        slices: K; divides the input features.
        execution: "masked" (default), one product with zeros in its kernel; or "sliced",
            one per slice on the inputs it reads.
        activation, use_bias, ...: As in `keras.layers.Dense`.

    Call arguments:
        inputs: `[batch, features]`, slices 1..last. The layer must be built, or called
            first, at full width.
        first, last: Slices of the output to compute, from 1. Default all.

    Output shape: `[batch, units of the slices first..last]`.

    Raises:
        ValueError: For units or features that are no K slices, slices out of range, or
            inputs of another width.

    Example:
        ```python
        dense = kd.SlicedDense([3, 3], slices=2)  # two heads of three classes
        x = np.ones((1, 8))
        whole, second = dense(x), dense(x, first=2)  # of the second head alone
        ```
    """

    def __init__(
        self,
        units: int | Sequence[int],
        *,
        slices: int,
        execution: str = "masked",
        **kwargs: Any,
    ) -> None:
        slices = positive_int("slices", slices)
        if isinstance(units, int):
            columns = [whole_parts("units", units, "slices", slices)] * slices
        elif isinstance(units, (list, tuple)):
            columns = [positive_int("units", n) for n in units]
        else:
            columns = []
        if len(columns) != slices:
            raise ValueError(
                f"`units` must be a number, or one per slice ({slices}). "
                f"Received: units={units!r}"
            )
        super().__init__(sum(columns), **kwargs)
        self.slices, self.columns = slices, columns
        self.execution = one_of("execution", execution, EXECUTIONS)

    def build(self, input_shape: Any) -> None:
        self.rows = whole_parts("features", input_shape[-1], "slices", self.slices)
        with triangular_kernel(self, [self.rows] * self.slices, self.columns):
            super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=2)  # narrower ones come as well

    def _range(self, features: int, first: int, last: int | None) -> tuple[int, int]:
        first, last = slice_range(first, last, self.slices)
        if features != self.rows * last:
            raise ValueError(
                f"`inputs` must have {self.rows * last} features for last={last}. "
                f"Received: {features} features"
            )
        return first, last

    def call(self, inputs: Any, first: int = 1, last: int | None = None) -> Any:
        first, last = self._range(inputs.shape[-1], first, last)
        start, stop = sum(self.columns[: first - 1]), sum(self.columns[:last])
        kernel = self.kernel[: inputs.shape[-1], start:stop]
        columns = self.columns[first - 1 : last]
        if self.execution == "masked":
            if first < last:
                mask = triangular_mask([self.rows] * last, columns)
                kernel = kernel * ops.cast(mask, kernel.dtype)
            outputs = ops.matmul(inputs, quantized_kernel(self, kernel))
        else:
            parts, at = [], 0
            for j, width in enumerate(columns, first):
                rows = self.rows * j
                block = kernel[:rows, at : at + width]
                block = quantized_kernel(self, block)
                parts.append(ops.matmul(inputs[..., :rows], block))
                at += width
            outputs = parts[0] if first == last else ops.concatenate(parts, axis=-1)
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias[start:stop], outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> tuple[int | None, ...]:
        first, last = self._range(input_shape[-1], first, last)
        return (*input_shape[:-1], sum(self.columns[first - 1 : last]))

    def compute_output_spec(
        self, inputs: Any, first: int = 1, last: int | None = None
    ) -> Any:
        shape = self.compute_output_shape(inputs.shape, first, last)
        return keras.KerasTensor(shape, self.compute_dtype)

    def kernel_macs(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """MACs of slices `first..last` for one image; masked weights do not count."""
        first, last = self._range(input_shape[-1], first, last)
        return sum(self.rows * j * self.columns[j - 1] for j in range(first, last + 1))

    def used_parameters(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """Parameters of slices `first..last`, without the masked ones."""
        first, last = self._range(input_shape[-1], first, last)
        bias = sum(self.columns[first - 1 : last]) * self.use_bias
        return self.kernel_macs(input_shape, first, last) + bias

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": list(self.columns),
            "slices": self.slices,
            "execution": self.execution,
        }
