"""What of a net was traced: the functions of its file, and what else the file needs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate.cost import CostTable
from keras_dyngate.export.conversion import Feed
from keras_dyngate.export.lowering import Lowering
from keras_dyngate.runtime.signature_table import SignatureTable


@dataclasses.dataclass(frozen=True)
class View:
    """A signature that sees part of another: fewer outputs, some inputs fixed."""

    source: str
    name: str
    outputs: tuple[str, ...] | None = None
    frozen: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Traced:
    """What a file is made from.

    Attributes:
        functions: Concrete functions by signature.
        views: Signatures to make from those; the first is the file's default.
        table: What each signature, views included, is for.
        feed: From calibration images to what the converter is to run.
        lowering: What the conditional form consists of.
        profile: The model's MACs.
        forced: The length of the int32 input `force` of those that have it; it is for
            calibration alone and frozen at 0 in the file.
        frozen: Inputs that signatures have for their views only, and the values that
            they are frozen at once these are made.
        float_kernels: Kernels that are to stay float in an int8 file.
        gate_kernels: `[features, classes]` of exits, to stay float in 8-bit files; of
            each the forms that it may have.
        metadata: More entries for the file.
        rounds: Whether it is of a quantize-aware net, which has the ranges in it.
        float_layers: Kernels that are put back to float32 in an int8 file, by name.
    """

    functions: dict[str, Any]
    views: tuple[View, ...]
    table: SignatureTable
    feed: Callable[[np.ndarray], Feed]
    lowering: Lowering
    profile: CostTable
    forced: Mapping[str, int] = dataclasses.field(default_factory=dict)
    frozen: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(
        default_factory=dict
    )
    float_kernels: int = 0
    gate_kernels: tuple[tuple[np.ndarray, ...], ...] = ()
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    rounds: bool = False
    float_layers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def call_traced(
    function: Any, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a concrete function makes of arrays, as arrays."""
    found = function(**{name: tf.constant(x) for name, x in inputs.items()})
    return {name: x.numpy() for name, x in found.items()}
