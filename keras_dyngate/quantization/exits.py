"""A net with early exits whose trunk and heads are rounded; its first net is not."""

from collections.abc import Collection
from typing import Any

import keras

from keras_dyngate._graph import flat_graph
from keras_dyngate._logits import last_calls
from keras_dyngate.layers import ExitHead
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.gating.rebuilding import inputs_like
from keras_dyngate.quantization.copies import RoundedCopies
from keras_dyngate.quantization.rewriting import Rewriting


def rounded_exits(
    model: EarlyExitModel, copies: RoundedCopies, keep_float: Collection[str]
) -> EarlyExitModel:
    """A copy of a net with exits, rounded; see `quantize_aware`.

    The last linear layers of heads stay in float32, as in its file, and a first net as a
    whole: that has 8-bit weights alone there, which is its fastest form.

    Args:
        model: The net.
        copies: Makes the copies; it has their weights to fill in still.
        keep_float: Names of layers of the trunk that stay in float32.
    """
    graph = flat_graph(model.trunk)
    assert graph is not None
    inputs = inputs_like(graph)
    stops = [path for path in model.after if any(path == c.path for c in graph.calls)]
    rewriting = Rewriting(graph, copies, keep_float, stops)
    outputs = rewriting.run(inputs)
    trunk = keras.Model(inputs, outputs, name=model.trunk.name)
    after = [rewriting.ends.get(path, inputs[0].name) for path in model.after]
    gates = [
        _rounded_gate(gate, stage.at_input, copies)
        for gate, stage in zip(model.gates, model.stages, strict=False)
    ]
    made = EarlyExitModel(trunk, after, gates, combine=model.combine, name=model.name)
    made.thresholds, made.mixing = model.thresholds.tolist(), model.mixing
    return made


def _rounded_gate(gate: Any, at_input: bool, copies: RoundedCopies) -> Any:
    """A gate or head like another, rounded but for its last linear layer."""
    if at_input or not isinstance(gate, ExitHead):
        return copies.same(gate)
    ends = [call.operation for call in last_calls(gate.graph)]
    linear = [x.name for x in ends if isinstance(x, keras.layers.Dense)]
    return copies.head(gate, linear[-1:])
