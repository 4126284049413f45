"""Squeeze-and-excite as one layer: a small net weighs channels by their means.

y = x * body(mean of x over all pixels)
"""

from typing import Any

import keras
from keras import ops

from keras_dyngate._graph import flat_graph
from keras_dyngate._registration import serializable
from keras_dyngate._saving import revived
from keras_dyngate.layers.links import Sides, mixes, sides


@serializable
class SqueezeExcite(keras.layers.Layer):
    """Multiplies each channel by a number that a small net makes of all channels' means.

    Inside a gated chain, a shut channel's mean is 0.

    Args:
        body: A functional or Sequential model, built, from `[batch, channels]` or
            `[batch, 1, 1, channels]` to as many numbers.

    Input shape: `[batch, height, width, channels]`.
    Output shape: The same.

    References:
        Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018.

    Example:
        ```python
        dense = keras.layers.Dense
        body = keras.Sequential(
            [keras.Input((8,)), dense(2, activation="relu"), dense(8, activation="sigmoid")]
        )
        y = kd.SqueezeExcite(body)(np.ones((1, 4, 4, 8)))
        ```
    """

    def __init__(self, body: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = body = revived(body)
        if not isinstance(body, keras.Model) or flat_graph(body) is None:
            raise ValueError(
                "`body` must be a functional or Sequential keras.Model, built. "
                f"Received: body={body!r}"
            )

    def build(self, input_shape: Any) -> None:
        given, made = self.body.input_shape[-1], self.body.output_shape[-1]
        if not given == made == input_shape[-1]:
            raise ValueError(
                "`body` must make as many numbers as there are channels, of as many. "
                f"Received: {given} -> {made} for {input_shape[-1]} channels"
            )
        self.built = True

    def scale(self, means: Any, training: bool | None = False) -> Any:
        """`[batch, 1, 1, channels]` from means `[batch, channels]`."""
        channels = means.shape[-1]
        if len(self.body.input_shape) == 4:
            means = ops.reshape(means, (-1, 1, 1, channels))
        return ops.reshape(self.body(means, training=training), (-1, 1, 1, channels))

    def weigh(self, x: Any, training: bool | None = False) -> Any:
        """`x`, each channel times its factor."""
        factors = self.scale(ops.mean(x, axis=(1, 2)), training)
        return x * ops.cast(factors, x.dtype)

    def call(self, x: Any) -> Any:
        return self.weigh(x)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        body = keras.saving.serialize_keras_object(self.body)
        return {**super().get_config(), "body": body}


@sides.register(SqueezeExcite)
def _sides(link: Any) -> tuple[Sides, ...]:
    """What takes the means in, and what puts the factors out: both have the channels."""
    graph = flat_graph(link.body)
    assert graph is not None
    kernels = [call.operation for call in graph.calls if mixes(call.operation)]
    first = [
        Sides(w, None, axis) for w, axis, _ in sides(kernels[0]) if axis is not None
    ]
    last = [side for side in sides(kernels[-1]) if side.outer is not None]
    return *first, *(side._replace(inner=None) for side in last)
