"""Salience: how much a unit matters for this input, 0 to 1; at 0 it is skipped.

    block = GatedBasicBlock(64, channel_gate="salience", layer_gate="salience")

The score both decides and scales: what runs is multiplied by it. Nothing is sampled.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate._checks import fraction
from keras_dyngate._registration import serializable
from keras_dyngate.controllers.controller import Controller


def relu1(t: Any, leak: float = 0.0) -> Any:
    """`min(max(t, 0), 1)`, with a gradient of 1 on [0, 1], both ends included.

    Args:
        t: Any shape.
        leak: Gradient outside; 0 is that of the clip itself. A unit that is stuck
            outside comes back only with a leak above 0. The value is never changed.
    """
    inside = ops.logical_and(t >= 0, t <= 1)
    slope = ops.where(inside, 1.0, leak)  # backends differ in clip's gradient at ends
    sloped = t * ops.cast(ops.stop_gradient(slope), t.dtype)
    return ops.stop_gradient(ops.clip(t, 0.0, 1.0)) + (
        sloped - ops.stop_gradient(sloped)
    )


@serializable
class SalienceController(Controller):
    """Global average pooling, one dense layer, a clip to [0, 1].

    `score = ReLU1(W GAP(x) + b)`. A score of exactly 0 skips the unit, any other scales
    what it computes. As a `layer_gate` this is L-Net, as a `channel_gate` C-Net. With
    the default initializers every score is 1: a block with such controllers starts as
    the block without. Penalize the scores with `GateSparsity(norm="l1")`.

    Args:
        units: Number of saliences.
        leak: Gradient of the clip outside [0, 1], 0 (default) to 1; in training only
            (design of this library).
        kernel_initializer: Default zeros.
        bias_initializer: A number or an initializer. Default 1 (design of this library).
        regularizers, seed, **kwargs: See `Controller`.

    Input shape: `[batch, height, width, channels]`.
    Output shape: `ControllerOutput` of two `[batch, units]` tensors.

    Raises:
        ValueError: If `units` is not positive or `leak` is outside 0 to 1.

    References:
        Xia, Yin, Dai, Jha: Fully dynamic inference with deep neural networks,
        IEEE TETC 2022, arXiv 2007.15151.

    Example:
        ```python
        salience = kd.SalienceController(4)
        output = salience(np.random.default_rng(0).normal(size=(2, 8, 8, 16)))
        print(output.score)  # from 0, skipped, to 1: [2, 4]
        ```
    """

    def __init__(
        self,
        units: int,
        leak: float = 0.0,
        kernel_initializer: Any = "zeros",
        bias_initializer: Any = 1.0,
        regularizers: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, regularizers=regularizers, seed=seed, **kwargs)
        self.leak = fraction("leak", leak)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        if isinstance(bias_initializer, (int, float)):
            bias_initializer = keras.initializers.Constant(bias_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.dense = keras.layers.Dense(
            self.units,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype="float32",
            name="dense",
        )

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.dense.build((None, input_shape[-1]))

    def compute_logits(self, pooled: Any, training: bool) -> Any:
        return self.dense(pooled)

    def compute_scores(self, logits: Any, training: bool) -> Any:
        return relu1(logits, self.leak) if training else ops.clip(logits, 0.0, 1.0)

    def count_macs(self, channels: int) -> int:
        return channels * self.units

    def take_units(
        self, source: Any, units: Sequence[int], held_open: Sequence[int] = ()
    ) -> None:
        """See `Controller`; a salience cannot be held open without changing the net."""
        if len(held_open):
            raise NotImplementedError(
                "A salience scales what it lets through, so it has no value to be held "
                f"open at. Received: held_open={list(held_open)}"
            )
        self._take_state(source)
        kernel = ops.convert_to_numpy(source.dense.kernel)
        self.dense.kernel.assign(kernel[:, list(units)])
        bias = ops.convert_to_numpy(source.dense.bias)
        self.dense.bias.assign(bias[list(units)])

    def get_config(self) -> dict[str, Any]:
        serialize = keras.initializers.serialize
        return {
            **super().get_config(),
            "leak": self.leak,
            "kernel_initializer": serialize(self.kernel_initializer),
            "bias_initializer": serialize(self.bias_initializer),
        }
