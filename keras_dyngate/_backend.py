"""What `keras.ops` cannot say: the few places where a backend needs its own code."""

import threading
from typing import Any

import keras
import numpy as np


def gather_batch(x: Any) -> Any:
    """The rows of `x` from all replicas of a data-parallel step; `x` itself outside one.

    JAX arrays are global already (`keras.distribution`). Under a TensorFlow
    distribution strategy the replicas' rows are gathered, differentiably: the gradient
    of a loss over the gathered rows, summed over replicas and divided by their number
    (as Keras does with added losses), is that of one process holding the global batch.
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_gather(x, axis=0)


def log_gamma(x: Any) -> Any:
    """The logarithm of the gamma function, differentiable."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.math.lgamma(x)
    if backend == "jax":
        import jax

        return jax.scipy.special.gammaln(x)
    if backend == "torch":
        import torch

        return torch.lgamma(x)
    raise NotImplementedError(
        f"There is no gamma function here. Received: the {backend} backend"
    )


class _LossesPerThread(list[Any]):
    """What `add_loss` gathers, kept apart by the thread that adds and asks."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def _mine(self) -> list[Any]:
        if not hasattr(self._local, "losses"):
            self._local.losses = []
        losses: list[Any] = self._local.losses
        return losses

    def extend(self, losses: Any) -> None:
        self._mine().extend(losses)

    def clear(self) -> None:
        self._mine().clear()

    def __getitem__(self, key: Any) -> Any:
        return self._mine()[key]

    def __iter__(self) -> Any:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def __reduce__(self) -> Any:  # a copy of a layer starts without losses
        return _LossesPerThread, ()


def keep_replicas_apart(layer: keras.Layer) -> None:
    """Let a layer that adds losses be shared by the replicas of a TensorFlow strategy.

    Each runs in a thread, and these take turns at every gathering. Keras keeps one list
    of losses per layer, so that a replica would count what others have added so far.
    """
    if keras.backend.backend() == "tensorflow":
        object.__setattr__(layer, "_losses", _LossesPerThread())


def own_rows(x: Any) -> Any:
    """Of a result over the rows of several JAX processes this one's; else `x` itself."""
    if getattr(x, "is_fully_addressable", True):
        return x
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([shard.data for shard in shards])


def slow_groups() -> bool:
    """Whether grouped convolutions are slow here: TensorFlow and JAX without a GPU."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return bool(jax.default_backend() == "cpu")
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_logical_devices("GPU")
    return False


def fused_batch_norm(
    x: Any, gamma: Any, beta: Any, epsilon: float
) -> tuple[Any, Any, Any] | None:
    """A batch normalized by its own statistics, in one operation of the backend.

    Args:
        x: `[batch, height, width, channels]`.
        gamma, beta: `[channels]`; None: ones, zeros.

    Returns:
        The normalized batch, its mean and its variance (that of all numbers, not an
        estimate from a sample), or None where the backend or `x` is not of the kind:
        only TensorFlow gains by it.
    """
    if keras.backend.backend() != "tensorflow" or len(x.shape) != 4:
        return None
    import tensorflow as tf

    if x.dtype not in (tf.float32, tf.bfloat16, tf.float16):
        return None
    channels = x.shape[-1]
    scale = tf.ones(channels) if gamma is None else tf.cast(gamma, tf.float32)
    offset = tf.zeros(channels) if beta is None else tf.cast(beta, tf.float32)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon
    )
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    return y, mean, variance * (tf.maximum(count - 1.0, 1.0) / count)


def copy_variable(target: Any, source: Any) -> None:
    """Give one variable the value of another, in memory of its own.

    `target.assign(source)` makes them share an array on JAX, where a compiled step of
    one net donates its arrays and so deletes the other's.
    """
    target.assign(np.array(keras.ops.convert_to_numpy(source)))


def before_assign(model: keras.Model) -> None:
    """Bring a model's variables up to date before a callback changes one of them.

    In `fit` on JAX the state lives outside the variables between steps; this writes it
    back, and `fit` reads it anew before the next step.
    """
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()
