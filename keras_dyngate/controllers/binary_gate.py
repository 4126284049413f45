"""Hard binary gates by the binary concrete relaxation: open or shut, per input.

    gate = BinaryGate(64, regularizers=[BatchShaping(), GateSparsity(0.01)])
    block = GatedBasicBlock(64, channel_gate=gate)

The noise is logistic (the difference of two Gumbel variables), drawn in training only.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate._backend import copy_variable
from keras_dyngate._checks import positive_int
from keras_dyngate._registration import serializable
from keras_dyngate.controllers.controller import Controller

OPEN_LOGIT = 10.0  # of a unit held open: shut by training noise once in 20 000 draws


def binary_concrete(logits: Any, temperature: float, noise: Any = 0.0) -> Any:
    """Straight-through sample of a binary concrete variable.

    Args:
        logits: Log-odds of "open", any shape.
        temperature: Divides the noisy logits; smaller is steeper.
        noise: Logistic noise of the same shape, or 0.

    Returns:
        Exactly 1 where `logits + noise > 0`, else exactly 0; the gradient is that of
        `sigmoid((logits + noise) / temperature)`.
    """
    noisy = logits + noise
    soft = ops.sigmoid(noisy / temperature)
    hard = ops.cast(noisy > 0, soft.dtype)
    return hard + (soft - ops.stop_gradient(soft))


def logistic_noise(shape: Any, seed: Any, epsilon: float = 1e-6) -> Any:
    """Standard logistic noise, float32, cut at +-log(1 / epsilon)."""
    u = keras.random.uniform(shape, epsilon, 1.0 - epsilon, "float32", seed)
    return ops.log(u) - ops.log1p(-u)


@serializable
class BinaryGate(Controller):
    """Global average pooling, two dense layers, a hard decision per unit.

    `h = ReLU(BN(W1 GAP(x)))`, `logit = W2 h + bias`. In training the score is a
    straight-through binary concrete sample; at inference it is `logit > 0`, without
    noise. Leave the variables of this layer out of weight decay.

    Args:
        units: Number of gates.
        hidden: Units of the hidden layer, which has no bias. Default 16.
        temperature: Of the binary concrete distribution. Default 2/3.
        bias_initializer: Of the output layer. The default, 0.4, opens a gate with
            probability 0.6, the mean of the batch-shaping prior (design of this
            library).
        noise: Scale of the noise drawn in training. The default, 1, is the binary
            concrete distribution's; less suits the short fine-tuning of gates that
            `prime_gates` has set (design of this library).
        bn_momentum: Momentum of the batch normalization. Default 0.9.
        bn_epsilon: Added to its variance. Default 1e-5.
        regularizers, seed, **kwargs: See `Controller`.

    Input shape: `[batch, height, width, channels]`.
    Output shape: `ControllerOutput` of two `[batch, units]` tensors.

    Raises:
        ValueError: If `units`, `hidden` or `temperature` is not positive, or `noise` is
            negative.

    References:
        Bejnordi, Blankevoort, Welling: Batch-shaping for learning conditional channel
        gated networks, ICLR 2020, arXiv 1907.06627.

    Example:
        ```python
        gate = kd.BinaryGate(4)  # four decisions
        output = gate(np.random.default_rng(0).normal(size=(2, 8, 8, 16)))
        print(output.score)  # 0 or 1: [2, 4]
        ```
    """

    binary = True

    def __init__(
        self,
        units: int,
        hidden: int = 16,
        temperature: float = 2 / 3,
        bias_initializer: Any = 0.4,
        bn_momentum: float = 0.9,
        bn_epsilon: float = 1e-5,
        noise: float = 1.0,
        regularizers: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, regularizers=regularizers, seed=seed, **kwargs)
        self.hidden = positive_int("hidden", hidden)
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be positive. Received: temperature={temperature!r}"
            )
        self.temperature = float(temperature)
        if not noise >= 0:
            raise ValueError(f"`noise` must not be negative. Received: noise={noise!r}")
        self.noise = float(noise)
        if isinstance(bias_initializer, (int, float)):
            bias_initializer = keras.initializers.Constant(bias_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.bn_momentum = bn_momentum
        self.bn_epsilon = bn_epsilon
        self.reduce = keras.layers.Dense(
            self.hidden,
            use_bias=False,
            kernel_initializer="he_normal",
            dtype="float32",
            name="reduce",
        )
        self.norm = keras.layers.BatchNormalization(
            momentum=bn_momentum, epsilon=bn_epsilon, dtype="float32", name="norm"
        )
        self.expand = keras.layers.Dense(
            self.units,
            bias_initializer=self.bias_initializer,
            dtype="float32",
            name="expand",
        )

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.reduce.build((None, input_shape[-1]))
        self.norm.build((None, self.hidden))
        self.expand.build((None, self.hidden))

    def compute_logits(self, pooled: Any, training: bool) -> Any:
        hidden = self.norm(self.reduce(pooled), training=training)
        return self.expand(ops.relu(hidden))

    def compute_scores(self, logits: Any, training: bool) -> Any:
        if not training:
            return ops.cast(logits > 0, "float32")
        noise = logistic_noise(ops.shape(logits), self.seed_generator)
        return binary_concrete(logits, self.temperature, self.noise * noise)

    def count_macs(self, channels: int) -> int:
        return self.hidden * (channels + self.units)

    def take_units(
        self, source: Any, units: Sequence[int], held_open: Sequence[int] = ()
    ) -> None:
        """See `Controller`; a unit held open has a logit that ignores the input."""
        self._take_state(source)
        for layer, other in ((self.reduce, source.reduce), (self.norm, source.norm)):
            for ours, theirs in zip(layer.weights, other.weights, strict=True):
                copy_variable(ours, theirs)
        kernel = ops.convert_to_numpy(source.expand.kernel)[:, list(units)]
        bias = ops.convert_to_numpy(source.expand.bias)[list(units)]
        kernel[:, list(held_open)] = 0.0
        bias[list(held_open)] = OPEN_LOGIT
        self.expand.kernel.assign(kernel)
        self.expand.bias.assign(bias)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "temperature": self.temperature,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "bn_momentum": self.bn_momentum,
            "bn_epsilon": self.bn_epsilon,
            "noise": self.noise,
        }
