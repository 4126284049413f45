"""Zero channels where a net without projections widens."""

from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import positive_int, whole_parts
from keras_dyngate._registration import serializable


@serializable
class ChannelPadding(keras.layers.Layer):
    """Appends zero channels to each run of neighbouring channels.

    Args:
        width: Channels of a run: all of them, or those of one slice.
        padded: Channels that each run becomes.

    Input shape: `[batch, height, width, n * width]` for any n.
    Output shape: `[batch, height, width, n * padded]`.

    Raises:
        ValueError: For a bad argument, or channels that are no whole runs.

    Example:
        ```python
        y = kd.ChannelPadding(2, 3)(np.ones((1, 4, 4, 4)))  # two runs of 2 become 3
        print(y.shape[-1])  # 6
        ```
    """

    def __init__(self, width: int, padded: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = positive_int("width", width)
        self.padded = positive_int("padded", padded)
        if padded < width:
            raise ValueError(
                f"`padded` must be `width` or more. Received: width={width}, "
                f"padded={padded}"
            )

    def call(self, inputs: Any) -> Any:
        extra = self.padded - self.width
        runs = whole_parts("channels", inputs.shape[-1], "width", self.width)
        if runs == 1:
            return ops.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, extra]])
        sides = ops.shape(inputs)[1:-1]
        x = ops.reshape(inputs, (-1, *sides, runs, self.width))
        x = ops.pad(x, [*[[0, 0]] * 4, [0, extra]])
        return ops.reshape(x, (-1, *sides, runs * self.padded))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        runs = whole_parts("channels", input_shape[-1], "width", self.width)
        return (*input_shape[:-1], runs * self.padded)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "padded": self.padded}
