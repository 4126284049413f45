"""What sliced layers have in common: ranges of slices, triangular masks and kernels."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._checks import member


def slice_range(first: int, last: int | None, slices: int) -> tuple[int, int]:
    """Checked `first..last`, from 1, both included; `last` is all if None."""
    last = member("last", slices if last is None else last, slices)
    return member("first", first, last), last


def triangular_mask(rows: list[int], columns: list[int]) -> np.ndarray:
    """1 where output slice j reads input slice i <= j, else 0; float32.

    Args:
        rows: Sizes of the input slices 1..last.
        columns: Sizes of the output slices first..last.

    Returns:
        `[sum(rows), sum(columns)]`.
    """
    first = len(rows) - len(columns)
    source = np.repeat(np.arange(len(rows)), rows)
    target = np.repeat(np.arange(first, len(rows)), columns)
    return (source[:, None] <= target).astype("float32")


def quantized_kernel(layer: Any, kernel: Any) -> Any:
    """The part of a layer's kernel that is used, rounded where the layer's is to be.

    Args:
        layer: Whose `kernel_quantizer`, if it has one, takes such a part.
        kernel: Channels that are put out come last.
    """
    quantizer = getattr(layer, "kernel_quantizer", None)
    return kernel if quantizer is None else quantizer(kernel)


class TriangularInitializer(keras.initializers.Initializer):
    """Zero above the block diagonal; each output slice drawn as a layer of its own.

    Args:
        initializer: For the kernel of one output slice on all its inputs, so that its
            scale suits the inputs that there are.
        rows, columns: Sizes of the input and output slices.
    """

    def __init__(self, initializer: Any, rows: list[int], columns: list[int]) -> None:
        self.initializer, self.rows, self.columns = initializer, rows, columns

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        *window, inputs, _ = shape
        parts, height = [], 0
        for index, (row, column) in enumerate(
            zip(self.rows, self.columns, strict=True)
        ):
            height += row
            drawn = self._draw(index)((*window, height, column), dtype=dtype)
            padding = [[0, 0]] * len(window) + [[0, inputs - height], [0, 0]]
            parts.append(ops.pad(drawn, padding))
        return ops.concatenate(parts, axis=-1)

    def _draw(self, index: int) -> Any:
        """The initializer for one slice: a given seed counts on."""
        if not isinstance(self.initializer, keras.initializers.Initializer):
            return self.initializer
        config = self.initializer.get_config()
        if "seed" not in config:
            return self.initializer
        if isinstance(config["seed"], int):
            config["seed"] += index
        elif config["seed"] is not None:  # a SeedGenerator goes on by itself
            return self.initializer
        return type(self.initializer).from_config(config)


class _MaskedRegularizer(keras.regularizers.Regularizer):
    """A regularizer of the unmasked weights alone: it must not move the others."""

    def __init__(self, regularizer: Any, mask: np.ndarray) -> None:
        self.regularizer, self.mask = regularizer, mask

    def __call__(self, x: Any) -> Any:
        return self.regularizer(x * ops.cast(self.mask, x.dtype))


@contextlib.contextmanager
def triangular_kernel(
    layer: Any, rows: list[int], columns: list[int]
) -> Iterator[None]:
    """Let `layer` build a block lower-triangular kernel inside.

    Its initializer and regularizer, as the configuration names them, come back.
    """
    initializer, regularizer = layer.kernel_initializer, layer.kernel_regularizer
    layer.kernel_initializer = TriangularInitializer(initializer, rows, columns)
    if regularizer is not None:
        mask = triangular_mask(rows, columns)
        layer.kernel_regularizer = _MaskedRegularizer(regularizer, mask)
    try:
        yield
    finally:
        layer.kernel_initializer, layer.kernel_regularizer = initializer, regularizer
