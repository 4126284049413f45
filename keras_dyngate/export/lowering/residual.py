"""A gated residual in a file: one branch around all of its body."""

from typing import Any

import tensorflow as tf

from keras_dyngate._graph import flat_graph
from keras_dyngate.export.lowering.constants import (
    stored_parameters,
    weights_as_constants,
)
from keras_dyngate.export.lowering.steps import again
from keras_dyngate.export.preparing import Prepared


def lower_residual(layer: Any, x: Any, tools: Any) -> Any:
    """The conditional form of a `GatedResidual`, for one input."""
    graph = flat_graph(layer.body)
    assert graph is not None
    prepared = Prepared(graph.calls)
    score = tools.score(layer.layer_gate, x)
    first = len(tools.owner.branches)

    def run(inside: Any) -> Any:
        whole = again(x)
        with weights_as_constants(prepared.layers):
            y = prepared.run(graph.whole, whole)
        if not (layer.layer_gate.binary or inside.owner.ungated):
            scale = tools.forced_open(score)
            y = y * tf.reshape(scale, [1] * len(y.shape))
        return whole + y if layer.dress is None else layer.dress.sum(whole, y)

    y = tools.skippable("layer", score, run, lambda: tf.identity(x))
    y = y if layer.dress is None else layer.dress.total.constant(y)
    rows, name = layer.cost_rows(tuple(x.shape)), f"{layer.name}/layer"
    macs = sum(row.macs for row in rows if row.is_under(name))
    size = stored_parameters([layer.body])
    tools.note("layer", int(x.shape[-1]), macs, size, before=first)
    return y
