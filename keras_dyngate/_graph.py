"""The calls that a functional model is made of.

Keras keeps them in private attributes; this is the one place that reads those.
"""

import contextlib
from collections.abc import Iterator
from typing import Any


def graph_of(model: Any) -> Any | None:
    """The functional graph of a model, or None where there is none.

    Args:
        model: Functional, `keras.Sequential` (it holds its graph) or subclassed.

    Returns:
        What has `inputs`, `outputs` and `nodes`, or None: a subclassed model, or a
        Sequential that is not built.
    """
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


def nodes(graph: Any) -> list[Any]:
    """Every call of a graph (as `graph_of` returns it), in the order of execution.

    Each has an `operation`, mostly a layer, its `input_tensors` and its `outputs`.
    """
    by_depth = graph._nodes_by_depth
    return [
        node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
    ]


@contextlib.contextmanager
def float32_inputs(model: Any) -> Iterator[None]:
    """Let a functional model leave its float32 inputs as they are inside.

    One that was cut from a net with mixed precision casts them to what it was cut at.
    """
    inputs: list[Any] = getattr(graph_of(model), "inputs", [])
    dtypes = [tensor.dtype for tensor in inputs]
    try:
        for tensor in inputs:
            tensor._dtype = "float32"
        yield
    finally:
        for tensor, dtype in zip(inputs, dtypes, strict=True):
            tensor._dtype = dtype
