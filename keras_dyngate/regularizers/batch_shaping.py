"""Batch-shaping: make a gate open for some inputs and not for others.

The loss is the Cramer-von Mises distance between a gate's probabilities over a batch and
a Beta prior. It works on logits: there the gradient is bounded and nothing is clipped.

    gate = BinaryGate(64, regularizers=BatchShaping())
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_dyngate._backend import gather_batch
from keras_dyngate._checks import one_of
from keras_dyngate._registration import serializable
from keras_dyngate.regularizers.regularizer import GateRegularizer, Schedule

MAX_SHAPE = 3.0  # beyond it the series below loses its accuracy in float32


def _series(a: float, b: float, tolerance: float = 1e-9) -> list[float]:
    """c_n of `I_x(a, b) = x**a * sum_n c_n x**n`, enough of them for x <= 1/2."""
    beta = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    terms: list[float] = []
    factor, n = 1.0, 0
    while n < 8 or (abs(factor) * 0.5**n > tolerance * beta * a and n < 200):
        terms.append(factor / ((a + n) * beta))
        factor *= (n + 1 - b) / (n + 1)
        n += 1
    return terms


def beta_cdf_of_logit(a: float = 0.6, b: float = 0.4) -> Callable[[Any], Any]:
    """The function `t -> F(sigmoid(t))`, F the CDF of Beta(a, b), with its gradient.

    The power series is used from the nearer end, so that both tails keep their relative
    accuracy where `sigmoid(t)` itself would round to 1. The gradient,
    `x**a (1 - x)**b / B(a, b)` at `x = sigmoid(t)`, is given in closed form.

    Args:
        a, b: Shape of the prior, above 0 and up to 3.

    Returns:
        A function of a float32 tensor of any shape, to about 1e-7.
    """
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, (int, float)) or not 0 < value <= MAX_SHAPE:
            raise ValueError(
                f"`{name}` must be above 0 and at most {MAX_SHAPE:g}. "
                f"Received: {name}={value!r}"
            )
    low, high = _series(a, b), _series(b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    def from_the_end(log_x: Any, power: float, terms: list[float]) -> Any:
        """The series for x <= 1/2: few operations, on all terms at once."""
        exponents = ops.arange(len(terms), dtype="float32") + power
        powers = ops.exp(ops.expand_dims(log_x, -1) * exponents)
        return ops.sum(powers * ops.convert_to_tensor(terms, "float32"), axis=-1)

    @ops.custom_gradient
    def cdf(t: Any) -> Any:
        log_x = ops.log_sigmoid(-ops.abs(t))  # of the probability nearer to its end
        value = ops.where(
            t <= 0, from_the_end(log_x, a, low), 1.0 - from_the_end(log_x, b, high)
        )
        slope = ops.exp(a * ops.log_sigmoid(t) + b * ops.log_sigmoid(-t) - log_beta)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            if upstream is None:  # TensorFlow and JAX pass it by position
                (upstream,) = args
            return ops.multiply(upstream, slope)

        return value, gradient

    return cdf


def batch_shaping_loss(
    logits: Any, cdf: Callable[[Any], Any], normalization: str = "mean"
) -> Any:
    """Cramer-von Mises distance of each column of `logits` to a prior, summed.

    Args:
        logits: `[batch, gates]`.
        cdf: The prior's CDF as a function of the logit.
        normalization: "mean" or "sum" over the batch.

    Returns: float32 scalar: the sum over gates.
    """
    # Sigmoid keeps the order; backends sort the last axis, others at a cost.
    t = ops.sort(ops.transpose(ops.cast(logits, "float32")), axis=-1)
    n = ops.shape(t)[-1]
    uniform = ops.arange(1, n + 1, dtype="float32") / ops.cast(n + 1, "float32")
    squares = ops.square(uniform - cdf(t))
    over_batch = ops.mean if normalization == "mean" else ops.sum
    return ops.sum(over_batch(squares, axis=-1))


@serializable
class BatchShaping(GateRegularizer):
    """Cramer-von Mises distance of a gate's probabilities to Beta(a, b).

    For each gate the batch's probabilities, without noise, are sorted and the empirical
    distribution `j / (N + 1)` is compared with the prior's CDF. Under data parallelism
    the sort runs over the global batch.

    Args:
        a, b: Shape of the prior, 0 < a, b <= 3. Default 0.6, 0.4.
        coefficient: Number or schedule. Default 0.75, the usual start; it is meant to
            fall to 0 in the first fifth of training, as
            `LinearSchedule(0.75, 0.0, end=0.2)` does.
        normalization: "mean" (default; design of this library) or "sum" over the batch.
            Gates and layers are always summed.
        name: Default "batch_shaping".

    References:
        Bejnordi, Blankevoort, Welling, ICLR 2020, arXiv 1907.06627.

    Example:
        ```python
        fading = kd.LinearSchedule(0.75, 0.0, end=0.2)
        gate = kd.BinaryGate(4, regularizers=[kd.BatchShaping(coefficient=fading)])
        ```
    """

    def __init__(
        self,
        a: float = 0.6,
        b: float = 0.4,
        coefficient: "float | Schedule" = 0.75,
        normalization: str = "mean",
        name: str = "batch_shaping",
    ) -> None:
        super().__init__(coefficient, name)
        self.a, self.b = a, b
        self.normalization = one_of("normalization", normalization, ("mean", "sum"))
        self._cdf = beta_cdf_of_logit(a, b)

    def __call__(self, output: Any, unit_macs: np.ndarray | None = None) -> Any:
        logits = gather_batch(output.logit)
        return batch_shaping_loss(logits, self._cdf, self.normalization)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "a": self.a,
            "b": self.b,
            "normalization": self.normalization,
        }
