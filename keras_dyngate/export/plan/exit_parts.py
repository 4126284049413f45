"""What a net with early exits runs, prepared: its stages, and the heads of its exits.

A head is run in two stretches: all up to what its last linear layer reads, and that layer
with what follows. A threshold is compared with what the second makes, in float32 always.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import Call, FlatGraph, Stretch, flat_graph, on_tensor
from keras_dyngate._logits import last_calls
from keras_dyngate.export.lowering import value
from keras_dyngate.export.mean_correction import keep_means
from keras_dyngate.export.preparing import Prepared
from keras_dyngate.layers import DecisionGate, ExitHead
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.quantization.fake_quantize import FakeQuantize
from keras_dyngate.quantization.kinds import SAME, kind_name


@dataclasses.dataclass(frozen=True)
class Head:
    """An `ExitHead` on the features of its exit.

    Attributes:
        front: From the features to what the last linear layer reads, or to the scores
            where they do not come from one.
        last: That layer and what follows it; no calls without one.
        linear: The call of that layer.
    """

    front: Stretch
    last: Stretch
    linear: Call | None

    @classmethod
    def of(cls, graph: FlatGraph) -> "Head":
        """The two stretches of a head's calls."""
        output, ending = graph.outputs[0], list(last_calls(graph))
        linear = ending[-1] if ending else None
        if linear is None or not isinstance(linear.operation, keras.layers.Dense):
            none = Stretch((output,), (), output)
            return cls(Stretch(graph.inputs, graph.calls, output), none, None)
        (middle,) = linear.inputs
        before = tuple(call for call in graph.calls if call not in ending)
        after = Stretch((middle,), tuple(ending[::-1]), output)
        return cls(Stretch(graph.inputs, before, middle), after, linear)

    @property
    def calls(self) -> tuple[Call, ...]:
        return (*self.front.calls, *self.last.calls)


def _roundings(calls: Iterable[Call]) -> dict[int, FakeQuantize]:
    """What the tensors of a quantize-aware net were rounded by, by their ids."""
    found: dict[int, FakeQuantize] = {}
    for call in calls:
        if isinstance(call.operation, FakeQuantize):
            found |= {id(x): call.operation for x in call.outputs}
        elif kind_name(call.operation) in SAME and call.inputs:
            if (known := found.get(id(call.inputs[0]))) is not None:
                found |= {id(x): known for x in call.outputs}
    return found


class ExitParts:
    """The stages of a model, and the heads at their ends, in float32.

    Attributes:
        heads: Of each stage; None for a linear gate, and where the net itself ends.
        prepared: All of their calls.
        first: Whether the first exit stands at the input, a net of its own.
        first_in_float: Whether that net's features are float32 in an int8 file too.
    """

    def __init__(self, model: EarlyExitModel, first_net: str = "dynamic") -> None:
        self.model = model
        self.stretches = [stage.part.stretch for stage in model.stages]
        self.first = not self.stretches[0].calls
        self.first_in_float = self.first and first_net == "dynamic"
        end = flat_graph(model.stages[-1].part)
        assert end is not None
        graphs = {
            index: on_tensor(stage.gate.graph, stage.part.stretch.output)
            for index, stage in enumerate(model.stages)
            if isinstance(stage.gate, ExitHead)
        }
        self.heads = [
            Head.of(graphs[index]) if index in graphs else None
            for index in range(len(model.stages))
        ]
        self.prepared = Prepared(self._calls(), end, *graphs.values())
        self.roundings = _roundings(call for s in self.stretches for call in s.calls)

    def _calls(self) -> list[Call]:
        """All, in the order of execution."""
        return [
            call for index in range(len(self.heads)) for call in self.calls_of(index)
        ]

    def calls_of(self, index: int) -> list[Call]:
        """Of a stage and of the head at its end."""
        head = self.heads[index]
        return [*self.stretches[index].calls, *(head.calls if head else ())]

    def keep_means(self, images: np.ndarray, int8: bool) -> None:
        """See `mean_correction`; of a first net in float the weights alone are rounded."""
        entry, calls = self.stretches[0].inputs[0], self._calls()
        head = self.heads[0]
        own = head.calls if self.first_in_float and head else ()
        rest = [call for call in calls if call not in own]
        for some, whole in ((own, False), (rest, int8)):
            if some:
                keep_means(self.prepared, entry, some, images, whole)

    def entered(self, index: int, x: Any) -> Any:
        """What a stage is given, rounded as the stage before did in a quantized net."""
        steps = self.roundings.get(id(self.stretches[index].inputs[0]))
        return x if steps is None else steps.constant(x)

    def features(self, index: int, x: Any) -> Any:
        """What a stage makes of what the one before made; the last: raw scores."""
        return self.prepared.run(self.stretches[index], x)

    def scores(self, index: int, features: Any) -> Any:
        """Raw scores of an exit."""
        head, gate = self.heads[index], self.model.stages[index].gate
        if head is not None:
            front = self.prepared.run(head.front, features)
            return self.prepared.run(head.last, front)
        return features if gate is None else gate(features)

    def kernel(self, index: int) -> np.ndarray | None:
        """That of a gate's linear layer, `[features, classes]`, if it has one."""
        head, gate = self.heads[index], self.model.gates[index]
        if isinstance(gate, DecisionGate):
            return value(gate.dense.kernel)
        if head is None or head.linear is None:
            return None
        return value(self.prepared.form(head.linear).kernel)
