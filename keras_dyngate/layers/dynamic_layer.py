"""The protocol of a layer that decides, per input, what to compute.

A subclass says which decisions it takes (`decisions`), what they cost (`cost_rows`), and
computes twice: `dense`, everything and masked, for training; `lower`, in a file, where
skipped work is not done. All else reads those four: forcing, costs, regularizers,
statistics, budgets, export.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._saving import KeepsFrozen
from keras_dyngate.controllers import Controller
from keras_dyngate.cost.cost_row import CostRow


class Decision(NamedTuple):
    """One of a layer's decisions.

    Attributes:
        key: Its name within the layer: "channel", "channel_2", "layer".
        controller: What takes it.
        units: Which of the controller's units are this decision's.
        channels: How many channels these cover together; 1: the layer as a whole.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        y = block(np.ones((1, 8, 8, 4)))
        for decision in block.decisions():
            print(decision.key, decision.groups)  # channel 4
        ```
    """

    key: str
    controller: Controller
    units: slice
    channels: int

    @property
    def groups(self) -> int:
        """How many groups of channels it tells apart: one for each of its units."""
        return self.units.stop - self.units.start

    @property
    def whole(self) -> bool:
        """Whether it is about the layer as a whole."""
        return self.channels == 1


class DynamicLayer(KeepsFrozen, keras.layers.Layer):
    """Base of all layers that decide.

    Call arguments:
        x: What the layer's subclass takes.
        training: Passed on to the controllers and to `dense`.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        model = keras.Sequential([keras.Input((8, 8, 4)), block])
        for layer in model.layers:
            if isinstance(layer, kd.DynamicLayer):
                print(layer.name, [decision.key for decision in layer.decisions()])
        ```
    """

    def decisions(self) -> tuple[Decision, ...]:
        """The decisions, those about channels first, in the order of execution."""
        raise NotImplementedError

    def cost_rows(self, input_shape: Any) -> list[CostRow]:
        """MACs of every kernel and controller, and the decisions each is under."""
        raise NotImplementedError

    def dense(self, x: Any, scores: dict[str, Any], training: bool | None) -> Any:
        """Everything, multiplied by the scores; differentiable.

        Args:
            x: As in `call`.
            scores: By key, `[batch, units]`, float32.
            training: As in `call`.
        """
        raise NotImplementedError

    def lower(self, x: Any, tools: Any) -> Any:
        """The conditional form, for one input.

        Args:
            x: A TensorFlow tensor, `[1, ...]`.
            tools: A `keras_dyngate.export.lowering.Tools`: branches, scores, and what
                the file is to tell.
        """
        raise NotImplementedError(
            f"There is no conditional form of {type(self).__name__} yet. "
            f"Received: layer {self.name!r}"
        )

    def parts(self) -> list[Any]:
        """The layers that it holds, its controllers apart, in the order of execution."""
        gates = {id(item.controller) for item in self.decisions()}
        return [layer for layer in self._parts() if id(layer) not in gates]

    def call(self, x: Any, training: bool | None = None) -> Any:
        built_elsewhere = _hooks.lowered(self, x)
        if built_elsewhere is not None:
            return built_elsewhere
        scores = self.scores(x, training)
        _hooks.record(self, self.told(scores))
        return self.dense(x, scores, training)

    def scores(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        """What the controllers say of `x`, by key; each is called once."""
        said: dict[int, Any] = {}
        found = {}
        x = self.gate_input(x, training)
        for item in self.decisions():
            gate = item.controller
            if id(gate) not in said:
                said[id(gate)] = gate(x, training=training).score
            score = said[id(gate)]
            if item.groups != gate.units:
                score = score[:, item.units]
            found[item.key] = _hooks.masked(f"{self.name}/{item.key}", score)
        return found

    def gate_input(self, x: Any, training: bool | None = None) -> Any:
        """What the controllers are given of `x`: itself, or the means of its channels."""
        return x

    def told(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Scores as they are recorded: those of a skipped layer's channels read 0."""
        runs = [
            ops.cast(scores[item.key] > 0, "float32")
            for item in self.decisions()
            if item.whole
        ]
        if not runs:
            return scores
        return {
            item.key: scores[item.key] if item.whole else scores[item.key] * runs[0]
            for item in self.decisions()
        }

    def set_unit_macs(self, input_shape: Any) -> None:
        """Tell each controller what its units control, if the image size is known."""
        for item in self.decisions():
            item.controller.decision_names = tuple(
                (f"{self.name}/{other.key}", other.groups)
                for other in self.decisions()
                if other.controller is item.controller
            )
        if None in tuple(input_shape)[1:]:
            return
        rows = [row for row in self.cost_rows(input_shape) if not row.controller]
        found: dict[int, list[np.ndarray]] = {}
        for item in self.decisions():
            name = f"{self.name}/{item.key}"
            macs = sum(row.macs for row in rows if row.is_under(name))
            part = np.full(item.groups, macs // item.groups, np.int64)
            found.setdefault(id(item.controller), []).append(part)
        for item in self.decisions():
            item.controller.unit_macs = np.concatenate(
                found[id(item.controller)]
            ).tolist()
