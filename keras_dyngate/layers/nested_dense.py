"""One linear layer read by K heads, each on a prefix of its rows.

head = NestedDense(10, slices=4)
first = head(x1, first=1, last=1)                   # of slice 1
second = head(x2, first=2, last=2, carried=first)   # slice 2 adds to it
"""

from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import positive_int, whole_parts
from keras_dyngate._registration import serializable
from keras_dyngate.layers.slices import quantized_kernel, slice_range


@serializable
class NestedDense(keras.layers.Dense):
    """A `Dense` whose scores on slices 1..k of its inputs are a sum over the slices.

    Args:
        units, activation, use_bias, ...: As in `keras.layers.Dense`, but without an
            activation, which would end the sum.
        slices: K; divides the input features.

    Call arguments:
        inputs: `[batch, features]` of slices `first..last` alone. The layer must be
            built, or called first, at full width.
        first, last: From 1; default all.
        carried: `[batch, units]`, the layer's own output for slices before `first`.

    Output shape: `[batch, units]`.

    Raises:
        ValueError: For a bad argument, or inputs of another width.

    Example:
        ```python
        dense = kd.NestedDense(5, slices=2)
        x = np.ones((1, 8))
        whole = dense(x)
        first = dense(x[:, :4], last=1)
        again = dense(x[:, 4:], carried=first, first=2)  # equals `whole`
        ```
    """

    def __init__(self, units: int, *, slices: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if self.activation is not keras.activations.linear:
            raise ValueError(
                "`activation` must be None: scores of slices add up. "
                f"Received: activation={kwargs['activation']!r}"
            )
        self.slices = positive_int("slices", slices)
        self.share_range: Any = None  # in a quantized net: rounds what is added

    def build(self, input_shape: Any) -> None:
        self.part = whole_parts("features", input_shape[-1], "slices", self.slices)
        super().build(input_shape)
        if self.share_range is not None:
            self.share_range.build((None, self.units))
        self.input_spec = keras.layers.InputSpec(ndim=2)  # narrower ones come as well

    def call(
        self,
        inputs: Any,
        carried: Any = None,
        first: int = 1,
        last: int | None = None,
    ) -> Any:
        first, last = slice_range(first, last, self.slices)
        rows = self._rows(inputs.shape[-1], first, last)
        kernel = self.kernel[(first - 1) * self.part :][:rows]
        outputs = ops.matmul(inputs, quantized_kernel(self, kernel))
        if carried is not None:
            if self.share_range is not None:
                outputs = self.share_range(outputs)
            return outputs + carried
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return outputs

    def _rows(self, features: int, first: int, last: int) -> int:
        rows = (last - first + 1) * self.part
        if features != rows:
            raise ValueError(
                f"`inputs` must have {rows} features for first={first}, last={last}. "
                f"Received: {features} features"
            )
        return rows

    def compute_output_spec(
        self,
        inputs: Any,
        carried: Any = None,
        first: int = 1,
        last: int | None = None,
    ) -> Any:
        self._rows(inputs.shape[-1], *slice_range(first, last, self.slices))
        return keras.KerasTensor((inputs.shape[0], self.units), self.compute_dtype)

    def kernel_macs(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """MACs of slices `first..last` for one image."""
        rows = self._rows(input_shape[-1], *slice_range(first, last, self.slices))
        return int(rows * self.units)

    def used_parameters(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """Parameters that slices `first..last` read."""
        return self.kernel_macs(input_shape, first, last) + self.units * self.use_bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slices": self.slices}
