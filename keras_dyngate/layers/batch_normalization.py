"""Keras' batch normalization, trained by the backend's one operation where it has one."""

from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._backend import fused_batch_norm
from keras_dyngate._registration import serializable
from keras_dyngate.cost.registry import free, register_macs


@serializable
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` in all it computes and stores, but faster.

    On TensorFlow, Keras composes a training step's normalization of a dozen operations
    that each read and write the whole feature map. There is one operation that does it
    all, and this layer uses it for `[batch, height, width, channels]` of 16 or 32 bits;
    everything else, inference included, is left to Keras. Design of this library.

    Args:
        **kwargs: As in `keras.layers.BatchNormalization`.

    Input shape: As in Keras.
    Output shape: That of the input.

    Example:
        ```python
        norm = kd.BatchNormalization(momentum=0.9)
        y = norm(np.random.default_rng(0).normal(size=(8, 4, 4, 3)), training=True)
        ```
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training and (built := _hooks.normalized(self, inputs)) is not None:
            return built
        renorm = getattr(self, "renorm", False)  # which older versions of Keras lack
        usual = mask is None and not (self.synchronized or renorm)
        if not (training and self.trainable and usual and self.axis in (-1, 3)):
            return super().call(inputs, training=training, mask=mask)
        found = fused_batch_norm(inputs, self.gamma, self.beta, self.epsilon)
        if found is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = found
        for moving, now in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            before = ops.cast(moving, "float32")
            moving.assign(before * self.momentum + now * (1.0 - self.momentum))
        return outputs


register_macs(BatchNormalization)(free)
