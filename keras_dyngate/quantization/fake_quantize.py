"""The steps that an int8 file has for a tensor, taken while training.

Where a net that holds these layers is exported, each becomes a pair of constants that the
converter reads: such a file needs no representative data.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
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


HELD = 2.0  # `started` of a range that stays as it is; 1.0: of one that moves
_STEP = "_keras_dyngate_step"


def step_of(x: Any) -> Any:
    """What lies between two numbers that a `FakeQuantize` has just put out; else None.

    Known at inference, of the very tensor, as Keras keeps masks.
    """
    return getattr(x, _STEP, None)


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
        of_input: Whether it rounds what a net is given, scaled: then its range is all
            that was seen, and half a step more at either end if that begins below 0.
            Pixels scaled to -1 to 1 lie halfway between 255 steps, each of them: which
            way one is rounded would depend on the last bit.

    Input shape: Any. Output shape: The same.
    """

    def __init__(
        self,
        fixed: Any = None,
        behind_mask: bool = False,
        of_input: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fixed = None if fixed is None else (float(fixed[0]), float(fixed[1]))
        self.behind_mask, self.of_input = behind_mask, of_input
        self.tie: Tie | None = None
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
        """Take the mean range of the batches that it has watched, of inputs all of it.

        Batches of nothing but 0 do not count: behind a gate that was shut.
        """
        seen = [ends for ends in self.seen if any(ends)] or self.seen
        if seen and self.fixed is None:
            lows, highs = np.transpose(seen)
            ends = (lows.min(), highs.max()) if self.of_input else (lows, highs)
            self.set_range(*(float(np.mean(end)) for end in ends))
        self.seen = []

    def call(self, x: Any, training: bool | None = None) -> Any:
        if _hooks.exporting():
            return self.constant(x)
        if is_watching():
            if self.fixed is None and not isinstance(x, keras.KerasTensor):
                numbers = keras.ops.convert_to_numpy(x)
                self.seen.append((float(numbers.min()), float(numbers.max())))
            return x
        learning = bool(training) and self.fixed is None
        if learning:
            self.start(x)
        low, high = self.low.value, self.high.value
        if self.of_input:
            low, high = _wider(low, high, keras.ops.cast(low < 0, "float32"))
        weights = {"min_var": low, "max_var": high}
        y = self._round(x, learning and not self.of_input, weights)
        if not training and not isinstance(y, keras.KerasTensor):
            setattr(y, _STEP, (high - low) / 255)
        return y

    def _round(self, x: Any, moving: bool, weights: dict[str, Any]) -> Any:
        """Round; a range that moves does so first, unless it is held."""
        import tensorflow as tf

        quantizer = _tfmot.of_activations()
        if not moving:
            return quantizer(x, False, weights)
        return tf.cond(
            self.started.value >= HELD,
            lambda: quantizer(x, False, weights),
            lambda: quantizer(x, True, weights),
        )

    def start(self, x: Any) -> None:
        """Set the range to that of the first batch that is not 0 everywhere.

        That of inputs grows with every batch.
        """
        import tensorflow as tf

        low, high = self.low.value, self.high.value
        fresh = tf.logical_or(self.started.value < 0.5, high <= low)
        low, high = tf.where(fresh, 0.0, low), tf.where(fresh, 0.0, high)
        ends = tf.cond(
            tf.logical_or(fresh, self.of_input),
            lambda: (
                tf.minimum(tf.reduce_min(x), low),
                tf.maximum(tf.reduce_max(x), high),
            ),
            lambda: (low, high),
        )
        self.low.assign(ends[0])
        self.high.assign(ends[1])
        self.started.assign(tf.maximum(self.started.value, 1.0))

    def constant(self, x: Any) -> Any:
        """For a file: the range as two numbers."""
        import tensorflow as tf

        low, high = self.range()
        return tf.quantization.fake_quant_with_min_max_args(x, low, high, 8)

    def range(self) -> tuple[float, float]:
        """Least and greatest number that it puts out.

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
        if high <= low:
            return 0.0, 1e-3
        if self.of_input:
            low, high = _wider(low, high, low < 0.0)
        return _on_steps(low, high)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = {"fixed": self.fixed, "behind_mask": self.behind_mask}
        config |= {"of_input": self.of_input}
        return {**super().get_config(), **config}


class Tie:
    """Roundings that an int8 file has one range for: an `IF` hands one's numbers on.

    Args:
        members: Of one net.
    """

    def __init__(self, *members: FakeQuantize) -> None:
        self.members = members
        for each in members:
            each.tie = self


def tie(one: FakeQuantize, other: FakeQuantize) -> None:
    """Let two roundings, and all that are tied to them, have one range."""
    ties = [each.tie or Tie(each) for each in (one, other)]
    Tie(*dict.fromkeys((*ties[0].members, *ties[1].members)))


def settle_ties(roundings: Sequence[FakeQuantize]) -> None:
    """Give tied roundings the range that covers all of theirs, and let it stay."""
    for members in {each.tie.members for each in roundings if each.tie is not None}:
        low = min(float(each.low) for each in members)
        high = max(float(each.high) for each in members)
        for each in members:
            each.set_range(low, high)
            each.started.assign(HELD)


def _wider(low: Any, high: Any, below: Any) -> tuple[Any, Any]:
    """A range of inputs with half a step more at either end, if `low` is below 0."""
    more = below * (high - low) / 510
    return low - more, high + more


def _on_steps(low: float, high: float) -> tuple[float, float]:
    """The ends of a range moved so that 0 is a step, as TensorFlow moves them in float32.

    Where 0 lies halfway, as in -1 to 1, the converter may choose the other step.
    """
    ends = np.asarray([low, high], "float32")
    step = (ends[1] - ends[0]) / np.float32(255)
    below = np.clip(np.floor(-ends[0] / step + np.float32(0.5)), 0, 255)
    return float(-below * step), float((255 - below) * step)


register_macs(FakeQuantize)(free)


def check_ranges(model: Any) -> None:
    """Refuse a quantize-aware net that has seen no data, or such as are not finite.

    A net may hold roundings that nothing goes through: these stay as they are.
    """
    layers = [x for x in model._flatten_layers() if isinstance(x, FakeQuantize)]
    built = [layer for layer in layers if layer.built]
    for layer in [x for x in built if float(x.started)] or built:
        layer.range()


def is_quantize_aware(model: Any) -> bool:
    """Whether it is a model that has such layers."""
    return isinstance(model, keras.Model) and any(
        isinstance(layer, FakeQuantize) for layer in model._flatten_layers()
    )
