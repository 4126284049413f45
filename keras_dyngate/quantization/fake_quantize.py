"""The steps that an int8 file has for a tensor, taken while training.

Where a net that holds these layers is exported, each becomes a pair of constants that the
converter reads: such a file needs no representative data.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_dyngate import _hooks
from keras_dyngate._registration import serializable
from keras_dyngate.cost.registry import free, register_macs
from keras_dyngate.quantization import _tfmot

_watching: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_dyngate_watching", default=False
)


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Let all `FakeQuantize` called inside hand through, and note what they see."""
    token = _watching.set(True)
    try:
        yield
    finally:
        _watching.reset(token)


def is_watching() -> bool:
    """Whether ranges are being noted."""
    return _watching.get()


@serializable
class FakeQuantize(keras.layers.Layer):
    """Rounds to the 256 steps of an 8-bit number, whose range follows the data.

    tensorflow-model-optimization's `MovingAverageQuantizer` does the work: in training
    the range follows the batches' least and greatest number, .001 of the way in each
    step; gradients pass as if nothing was rounded, where nothing was cut off. The first
    batch sets it.

    Args:
        fixed: (least, greatest) number, where that is known; else it is learned.
        behind_mask: Whether it follows a mask of a chain's channels.

    Input shape: Any. Output shape: The same.
    """

    def __init__(
        self, fixed: Any = None, behind_mask: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fixed = None if fixed is None else (float(fixed[0]), float(fixed[1]))
        self.behind_mask = behind_mask
        self.supports_masking = True
        self.seen: list[tuple[float, float]] = []

    def build(self, input_shape: Any) -> None:
        found = _tfmot.of_activations().build(input_shape, "range", _tfmot.Owner(self))
        self.low, self.high = found["min_var"], found["max_var"]
        self.started = self.add_weight(
            name="started", shape=(), initializer="zeros", trainable=False
        )
        if self.fixed is not None:
            self.set_range(*self.fixed)

    def set_range(self, low: float, high: float) -> None:
        """Set what it rounds within; 0 is always in it."""
        self.low.assign(min(low, 0.0))
        self.high.assign(max(high, 0.0))
        self.started.assign(1.0)

    def settle(self) -> None:
        """Take the mean range of the batches that it has watched.

        Batches of nothing but 0 do not count: behind a gate that was shut.
        """
        seen = [ends for ends in self.seen if any(ends)] or self.seen
        if seen and self.fixed is None:
            self.set_range(*np.mean(seen, axis=0).tolist())
        self.seen = []

    def call(self, x: Any, training: bool | None = None) -> Any:
        if _hooks.exporting():
            return self.constant(x)
        if is_watching():
            if self.fixed is None and not isinstance(x, keras.KerasTensor):
                numbers = keras.ops.convert_to_numpy(x)
                self.seen.append((float(numbers.min()), float(numbers.max())))
            return x
        training = bool(training) and self.fixed is None
        if training:
            self.start(x)
        weights = {"min_var": self.low.value, "max_var": self.high.value}
        return _tfmot.of_activations()(x, training, weights)

    def start(self, x: Any) -> None:
        """Set the range to that of the first batch that is not 0 everywhere."""
        import tensorflow as tf

        empty = self.high.value <= self.low.value
        fresh = tf.logical_or(self.started.value < 0.5, empty)
        ends = tf.cond(
            fresh,
            lambda: (
                tf.minimum(tf.reduce_min(x), 0.0),
                tf.maximum(tf.reduce_max(x), 0.0),
            ),
            lambda: (tf.identity(self.low.value), tf.identity(self.high.value)),
        )
        self.low.assign(ends[0])
        self.high.assign(ends[1])
        self.started.assign(1.0)

    def constant(self, x: Any) -> Any:
        """For a file: the range as two numbers."""
        import tensorflow as tf

        low, high = self.range()
        return tf.quantization.fake_quant_with_min_max_args(x, low, high, 8)

    def range(self) -> tuple[float, float]:
        """Least and greatest number.

        Raises:
            ValueError: If it has seen no data yet, or such as are not finite.
        """
        import tensorflow as tf

        weights = self.low, self.high, self.started
        with (
            tf.init_scope(),
            keras.StatelessScope(),
        ):  # the numbers, while one is traced
            low, high, started = (float(x.value.numpy()) for x in weights)
        if not started or not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(
                "`model` must have been trained, or made with `representative_data`, so "
                f"that ranges are known. Received: {self.name!r} with "
                + (f"the range {low} to {high}" if started else "none yet")
            )
        return (low, high) if high > low else (0.0, 1e-3)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = {"fixed": self.fixed, "behind_mask": self.behind_mask}
        return {**super().get_config(), **config}


register_macs(FakeQuantize)(free)


def is_quantize_aware(model: Any) -> bool:
    """Whether a model has such layers."""
    return any(isinstance(layer, FakeQuantize) for layer in model._flatten_layers())
