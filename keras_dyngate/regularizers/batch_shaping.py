"""Batch-shaping: make a gate open for some inputs and not for others.

The loss is the Cramer-von Mises distance between a gate's probabilities over a batch and
a Beta prior. It works on logits: there the gradient is bounded and nothing is clipped.

    gate = BinaryGate(64, regularizers=BatchShaping())
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._backend import gather_batch, log_gamma
from keras_dyngate._checks import boolean, one_of
from keras_dyngate._registration import serializable
from keras_dyngate.regularizers.regularizer import GateRegularizer, Schedule

MAX_SHAPE = 20.0  # beyond it float32 is off by more than 5e-6
LEARNABLE = (0.05, 10.0)  # where learned shapes are kept
TERMS = 64  # of the series for those


def _series(a: float, b: float, tolerance: float = 1e-9) -> list[float]:
    """d_n of `I_x(a, b) = x**a (1 - x)**b / (a B(a, b)) * sum_n d_n x**n`, x <= 1/2.

    All are positive, so that nothing cancels; as many as are needed.
    """
    terms, total, n = [1.0], 1.0, 0
    while True:
        factor = (a + b + n) / (a + 1 + n)
        rest = terms[-1] * factor * 0.5 ** (n + 1) / max(1 - factor / 2, 0.1)
        if factor < 1.8 and rest < tolerance * total:
            return terms
        terms.append(terms[-1] * factor)
        n += 1
        total += terms[-1] * 0.5**n


def _from_both_ends(t: Any, low: tuple[Any, ...], high: tuple[Any, ...]) -> Any:
    """F(sigmoid(t)), from the nearer end.

    Few operations, on all terms at once; the power is in the exponents, so that an
    infinite logit makes no NaN. Each end is its own shape and the other's, the logarithm
    of the former times the beta function, and those of the series' terms.
    """
    log_x = ops.log_sigmoid(-ops.abs(t))  # of the probability nearer to its end
    log_rest = ops.log_sigmoid(ops.abs(t))

    def from_the_end(power: Any, other: Any, log_scale: Any, log_terms: Any) -> Any:
        exponents = ops.arange(log_terms.shape[0], dtype="float32") + power
        powers = ops.exp(ops.expand_dims(log_x, -1) * exponents + log_terms)
        return ops.exp(other * log_rest - log_scale) * ops.sum(powers, axis=-1)

    return ops.where(t <= 0, from_the_end(*low), 1.0 - from_the_end(*high))


def _slope(t: Any, a: Any, b: Any, log_beta: Any) -> Any:
    """The derivative of F(sigmoid(t)) by t."""
    return ops.exp(a * ops.log_sigmoid(t) + b * ops.log_sigmoid(-t) - log_beta)


def beta_cdf_of_logit(a: float = 0.6, b: float = 0.4) -> Callable[[Any], Any]:
    """The function `t -> F(sigmoid(t))`, F the CDF of Beta(a, b), with its gradient.

    The power series is used from the nearer end, so that both tails keep their relative
    accuracy where `sigmoid(t)` itself would round to 1. The gradient,
    `x**a (1 - x)**b / B(a, b)` at `x = sigmoid(t)`, is given in closed form.

    Args:
        a, b: Shape of the prior, above 0 and up to 20.

    Returns:
        A function of a float32 tensor of any shape, to about 2e-7 for shapes up to 1,
        and to 5e-6 at 20.
    """
    _check_shape(a, b, MAX_SHAPE)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    low, high = (
        np.log(_series(*shape)).astype("float32") for shape in ((a, b), (b, a))
    )

    @ops.custom_gradient
    def cdf(t: Any) -> Any:
        ends = (
            (*shape, log_beta + math.log(shape[0]), ops.convert_to_tensor(terms))
            for shape, terms in (((a, b), low), ((b, a), high))
        )
        value = _from_both_ends(t, *ends)
        slope = _slope(t, a, b, log_beta)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            if upstream is None:  # TensorFlow and JAX pass it by position
                (upstream,) = args
            return ops.multiply(upstream, slope)

        return value, gradient

    return cdf


def _check_shape(a: Any, b: Any, most: float) -> None:
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, (int, float)) or not 0 < value <= most:
            raise ValueError(
                f"`{name}` must be above 0 and at most {most:g}. "
                f"Received: {name}={value!r}"
            )


def learned_cdf_of_logit(a: Any, b: Any) -> Callable[[Any], Any]:
    """As `beta_cdf_of_logit`, also differentiable by the shape, two float32 scalars.

    They are kept from 0.05 to 10.
    """
    a, b = (ops.clip(ops.convert_to_tensor(x), *LEARNABLE) for x in (a, b))
    log_beta = log_gamma(a) + log_gamma(b) - log_gamma(a + b)
    n = ops.arange(TERMS - 1, dtype="float32")

    def end(power: Any, other: Any) -> tuple[Any, ...]:
        factors = ops.log((power + other + n) / (power + 1.0 + n))
        log_terms = ops.concatenate([ops.zeros((1,)), ops.cumsum(factors)])
        return power, other, log_beta + ops.log(power), log_terms

    low, high = end(a, b), end(b, a)

    def cdf(t: Any) -> Any:
        t = ops.clip(t, -80.0, 80.0)
        at = ops.stop_gradient(t)
        value = _from_both_ends(at, low, high)
        slope = ops.stop_gradient(_slope(at, a, b, log_beta))
        return value + slope * (t - at)

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
        a, b: Shape of the prior, 0 < a, b <= 20. Default 0.6, 0.4.
        coefficient: Number or schedule. Default 0.75, the usual start; it is meant to
            fall to 0 in the first fifth of training, as
            `LinearSchedule(0.75, 0.0, end=0.2)` does.
        normalization: "mean" (default; design of this library) or "sum" over the batch.
            Gates and layers are always summed.
        name: Default "batch_shaping".
        learnable: Whether a and b are where training starts, each controller learning
            its own from 0.05 to 10: the prior comes to meet the gates (design of this
            library). Default False.

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
        learnable: bool = False,
    ) -> None:
        super().__init__(coefficient, name)
        self.a, self.b = a, b
        self.normalization = one_of("normalization", normalization, ("mean", "sum"))
        self.learnable = boolean("learnable", learnable)
        self._cdf = beta_cdf_of_logit(a, b)
        if learnable:
            _check_shape(a, b, LEARNABLE[1])

    def variables(self, add_weight: Callable[..., Any]) -> dict[str, Any]:
        if not self.learnable:
            return {}
        return {
            f"log_{name}": add_weight(
                name=f"{self.name}_log_{name}",
                shape=(),
                initializer=keras.initializers.Constant(math.log(value)),
                dtype="float32",
            )
            for name, value in (("a", self.a), ("b", self.b))
        }

    def __call__(
        self,
        output: Any,
        unit_macs: np.ndarray | None = None,
        log_a: Any = None,
        log_b: Any = None,
    ) -> Any:
        logits = gather_batch(output.logit)
        cdf = self._cdf
        if log_a is not None:
            cdf = learned_cdf_of_logit(ops.exp(log_a), ops.exp(log_b))
        return batch_shaping_loss(logits, cdf, self.normalization)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "a": self.a,
            "b": self.b,
            "normalization": self.normalization,
            "learnable": self.learnable,
        }
