"""The calls that a functional model is made of.

Keras keeps them in private attributes; this is the one place that reads those.
"""

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
