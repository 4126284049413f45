"""A residual branch that is computed only for the inputs that need it.

    y = x + s(x) * f(x)

Where the salience or gate s(x) is 0, all of f is skipped, with whatever is gated inside.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks, controllers
from keras_dyngate._checks import boolean
from keras_dyngate._graph import flat_graph
from keras_dyngate._registration import serializable
from keras_dyngate._saving import revived
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.cost.cost_row import CostRow, Gating
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.counter import part_profile
from keras_dyngate.layers.dynamic_layer import Decision, DynamicLayer


@serializable
class GatedResidual(DynamicLayer):
    """A branch of any layers beside an identity, under one decision.

    Args:
        body: The branch: a functional or Sequential model, built, from a tensor to one of
            the same shape. It may hold gated layers.
        layer_gate: A `Controller` with one unit, or an identifier for `controllers.get`.
        quantized: Whether it computes as an int8 file will; `quantize_aware` sets it.

    Input shape: That of `body`.
    Output shape: The same.

    Raises:
        ValueError: For a body of another kind or shape, or a gate of several units.

    Example:
        ```python
        body = keras.Sequential(
            [keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3, padding="same")]
        )
        y = kd.GatedResidual(body)(np.ones((1, 8, 8, 4)))  # x, or x + body(x)
        ```
    """

    def __init__(
        self,
        body: Any,
        layer_gate: Any = "binary",
        quantized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.quantized = boolean("quantized", quantized)
        self.dress: Any = None  # the roundings of a quantized residual
        self.body = body = revived(body)
        graph = flat_graph(body) if isinstance(body, keras.Model) else None
        if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError(
                "`body` must be a functional or Sequential model of one input and one "
                f"output, built. Received: body={body!r}"
            )
        given, made = tuple(graph.inputs[0].shape), tuple(graph.outputs[0].shape)
        if given != made:
            raise ValueError(
                f"`body` must put out what it takes, {given}. "
                f"Received: body={body.name!r} with an output of shape {made}"
            )
        gate = controllers.get(layer_gate, 1)
        if gate is None or gate.units != 1:
            raise ValueError(
                "`layer_gate` must be a controller with one unit. "
                f"Received: layer_gate={layer_gate!r}"
            )
        self.layer_gate: controllers.Controller = gate

    def build(self, input_shape: Any) -> None:
        if not self.layer_gate.built:
            self.layer_gate.build(input_shape)
        self.set_unit_macs(input_shape)
        if self.quantized:
            from keras_dyngate.quantization.dress import SumDress  # it needs TensorFlow

            self.dress = SumDress(not self.layer_gate.binary, name="dress")
            self.dress.build(input_shape)
        self.freeze_again()

    def decisions(self) -> tuple[Decision, ...]:
        return (Decision("layer", self.layer_gate, slice(0, 1), 1),)

    def dense(self, x: Any, scores: dict[str, Any], training: bool | None) -> Any:
        score = scores["layer"]
        with _hooks.recorded_under(ops.cast(score > 0, "float32")):
            y = self.body(x, training=bool(training))
        shape = (-1, *[1] * (len(y.shape) - 1))
        y = y * ops.cast(ops.reshape(score, shape), y.dtype)
        if self.dress is not None:
            return self.dress.sum(x, y, training)
        return x + ops.cast(y, x.dtype)

    def gate_input(self, x: Any, training: bool | None = None) -> Any:
        return x if self.dress is None else self.dress.means(x, training)

    def lower(self, x: Any, tools: Any) -> Any:
        return tools.residual(self, x)

    def cost_rows(self, input_shape: Any) -> list[CostRow]:
        macs = self.layer_gate.count_macs(input_shape[-1])
        rows = [CostRow(self.name, "layer_gate", macs, controller=True)]
        above = Gating("layer", layer=self.name)
        held = {layer.name for layer in dynamic_layers(self.body)}
        for row in self._profile(input_shape).layers:
            inner = row.layer.partition(":")[0] in held
            rows.append(
                dataclasses.replace(
                    row,
                    layer=row.layer if inner else self.name,
                    kernel=row.kernel if inner else row.name,
                    gatings=(*row.gatings, above),
                )
            )
        return rows

    def _profile(self, input_shape: Any) -> CostTable:
        """MACs of the body alone."""
        graph = flat_graph(self.body, [(1, *tuple(input_shape)[1:])])
        assert graph is not None
        return part_profile(graph.calls)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "body": serialize(self.body),
            "layer_gate": serialize(self.layer_gate),
            "quantized": self.quantized,
        }
