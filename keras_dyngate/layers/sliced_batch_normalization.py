"""Batch normalization whose channels can be normalized slice by slice."""

from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._checks import positive_int, whole_parts
from keras_dyngate._registration import serializable
from keras_dyngate.layers.batch_normalization import BatchNormalization
from keras_dyngate.layers.slices import slice_range


@serializable
class SlicedBatchNormalization(BatchNormalization):
    """Batch normalization over the last axis, also of some slices at inference.

    Slices are the same in every sub-network, so all of them share one set of statistics.

    Args:
        slices: K; divides the channels.
        momentum, epsilon, ...: As in `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: `[..., channels]`, the channels of slices `first..last`. The layer must
            be built, or called first, at full width.
        training: As in Keras; only on all slices.
        first, last: From 1. Default all.

    Raises:
        ValueError: If K does not divide the channels, for slices out of range, inputs of
            another width, another axis, or training on some of the slices.

    Example:
        ```python
        norm = kd.SlicedBatchNormalization(slices=2)
        x = np.ones((1, 4, 4, 8))
        whole, second = norm(x), norm(x[..., 4:], first=2)  # the slice alone
        ```
    """

    def __init__(self, *, slices: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.axis != -1:
            raise ValueError(f"`axis` must be -1. Received: axis={self.axis}")
        self.slices = positive_int("slices", slices)

    def build(self, input_shape: Any) -> None:
        self.part = whole_parts("channels", input_shape[-1], "slices", self.slices)
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))

    def _range(self, channels: int, first: int, last: int | None) -> tuple[int, int]:
        first, last = slice_range(first, last, self.slices)
        expected = self.part * (last - first + 1)
        if channels != expected:
            raise ValueError(
                f"`inputs` must have {expected} channels for first={first}, "
                f"last={last}. Received: {channels} channels"
            )
        return first, last

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
        first: int = 1,
        last: int | None = None,
    ) -> Any:
        first, last = self._range(inputs.shape[-1], first, last)
        if (first, last) == (1, self.slices):
            return super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            raise ValueError(
                "Some slices alone can be normalized at inference only. "
                f"Received: training=True, first={first}, last={last}"
            )
        return self.normalized(inputs, (first - 1) * self.part)

    def normalized(self, inputs: Any, first: int) -> Any:
        """`inputs` by the moving statistics of the channels from `first` on, from 0."""
        built = _hooks.normalized(self, inputs, first)
        if built is not None:
            return built
        dtype = keras.backend.result_type(inputs.dtype, "float32")  # as Keras does

        def part(values: Any) -> Any:
            return ops.cast(values[first : first + inputs.shape[-1]], dtype)

        outputs = ops.batch_normalization(
            ops.cast(inputs, dtype),
            mean=part(self.moving_mean),
            variance=part(self.moving_variance),
            axis=-1,
            offset=part(self.beta) if self.center else None,
            scale=part(self.gamma) if self.scale else None,
            epsilon=self.epsilon,
        )
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
        first: int = 1,
        last: int | None = None,
    ) -> Any:
        self._range(inputs.shape[-1], first, last)
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def used_parameters(
        self, input_shape: Any, first: int = 1, last: int | None = None
    ) -> int:
        """Trainable parameters of slices `first..last`."""
        self._range(input_shape[-1], first, last)
        return int(input_shape[-1]) * (self.scale + self.center)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slices": self.slices}
