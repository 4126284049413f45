"""Inputs and outputs of a file's signatures, and arrays that suit them."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one input or output; -1 stands for a size left open."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape may be fed."""
        return len(shape) == len(self.shape) and all(
            mine in (-1, theirs) for mine, theirs in zip(self.shape, shape, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point of a file: its inputs and outputs by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def fit(name: str, value: Any, spec: TensorSpec) -> np.ndarray:
    """`value` with the shape and dtype of `spec`, or a `ValueError`."""
    array = np.asarray(value)
    if not spec.accepts(array.shape) and spec.accepts((1, *array.shape)):
        array = array[np.newaxis]
    if not spec.accepts(array.shape):
        raise ValueError(
            f"Input `{name}` must have the shape {spec.shape}, where the batch axis "
            f"may be left out. Received: shape={array.shape}"
        )
    if array.dtype == spec.dtype:
        return array
    if spec.dtype.kind == "f" and array.dtype.kind in "biuf":
        return array.astype(spec.dtype)
    if spec.dtype.kind in "iu" and array.dtype.kind in "biuf":
        limits = np.iinfo(spec.dtype)
        if array.size == 0 or limits.min <= array.min() <= array.max() <= limits.max:
            whole = array.astype(spec.dtype)
            if np.array_equal(whole, array):
                return whole
        raise ValueError(
            f"Input `{name}` must hold whole numbers from {limits.min} to {limits.max} "
            f"({spec.dtype}). Received: {array.dtype} values from {array.min()} to "
            f"{array.max()}"
        )
    raise ValueError(
        f"Input `{name}` must be convertible to {spec.dtype}. "
        f"Received: dtype={array.dtype}"
    )
