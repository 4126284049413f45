"""Put decision gates on a classifier."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate.layers import DecisionGate
from keras_dyngate.models.cut_points import check_trunk
from keras_dyngate.models.cutting import resolve_cuts
from keras_dyngate.models.early_exit import EarlyExitModel


def add_decision_gates(
    model: keras.Model,
    after: Sequence[Any],
    *,
    pooling: str | Sequence[str] = "avg",
    objective: str = "hinge",
    confidence: str = "score",
    name: str | None = None,
) -> EarlyExitModel:
    """Put decision gates on a classifier.

    Args:
        model: Any functional or Sequential classifier with one input and one output:
            this library's, gated ones included, or one of keras.applications. Its layers
            and weights are shared, not copied.
        after: Where, in the order of execution: points of `cut_points(model)`, names of
            layers or operators (inside a nested model by path,
            "mobilenetv2/block_6_expand_relu", or by the name alone where it is the only
            one), the layers themselves, their tensors, or indices into `model.layers`.
            A nested model stands for its last layer.
        pooling: Of the gates, or one per gate; see `DecisionGate`.
        objective: "hinge" (default) or "cross_entropy".
        confidence: "score" (default), "distance", "margin" or "entropy".
        name: Of the new model.

    Returns:
        An `EarlyExitModel` whose gates are untrained and whose thresholds are infinite.

    Raises:
        ValueError: If the model cannot carry exits, or cannot be cut after a layer (the
            message names the nearest cut points), or for a bad argument.
    """
    classes = check_trunk(model)
    names = resolve_cuts(model, after)
    poolings = [pooling] * len(names) if isinstance(pooling, str) else list(pooling)
    if len(poolings) != len(names):
        raise ValueError(
            f"`pooling` must be one name, or one per gate ({len(names)}). "
            f"Received: pooling={pooling!r}"
        )
    gates = [
        DecisionGate(
            classes,
            pooling=kind,
            objective=objective,
            confidence=confidence,
            name=f"gate_{index}",
        )
        for index, kind in enumerate(poolings, 1)
    ]
    return EarlyExitModel(model, names, gates, name=name)
