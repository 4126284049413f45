"""An exit whose scores come from a net of its own, small or not so small.

head = ExitHead(10, keras.Sequential([...]))     # features to [batch, 10]
scores = head(features)
leave = head.confidence_of(scores) >= 0.8
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_dyngate._graph import FlatGraph, Part, flat_graph
from keras_dyngate._logits import raw_operation
from keras_dyngate._registration import serializable
from keras_dyngate._saving import revived
from keras_dyngate.cost import CostRow
from keras_dyngate.cost.counter import part_profile
from keras_dyngate.layers.exit_gate import ExitGate


@dataclasses.dataclass(frozen=True)
class _Raw:
    """The body in raw scores, kept from Keras: its layers are tracked as the body's."""

    graph: FlatGraph
    part: Part


@serializable
class ExitHead(ExitGate):
    """Any classifier of features as an exit; a softmax at its end is left out.

    At the very input of a net it is a first net, which spares easy pictures all of it. The
    body may have gates of its own: they decide, and what they shut is skipped, as in any
    net.

    Args:
        classes: Number of classes; 1: one score, above 0 for yes.
        body: A functional or Sequential model, built, from the features to
            `[batch, classes]`.
        objective: "cross_entropy" (default) or "hinge".
        confidence: "probability" (default), "score", "margin" or "entropy"; see
            `ExitGate`.

    Input shape: That of `body`.
    Output shape: `[batch, classes]`, float32.

    Raises:
        ValueError: For a body of another kind, or with other outputs.

    References:
        Heads with convolutions of their own: Huang et al., Multi-scale dense networks,
        ICLR 2018. Whole nets in a cascade: Streeter, ICML 2018; Wang et al., Wisdom of
        Committees, 2021, arXiv 2012.01988.

    Example:
        ```python
        body = keras.Sequential(
            [
                keras.Input((8, 8, 16)),
                keras.layers.SeparableConv2D(8, 3, activation="relu"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        scores = kd.ExitHead(4, body)(np.ones((2, 8, 8, 16)))  # [2, 4]
        ```
    """

    def __init__(
        self,
        classes: int,
        body: Any,
        objective: str = "cross_entropy",
        confidence: str = "probability",
        **kwargs: Any,
    ) -> None:
        super().__init__(classes, objective, confidence, **kwargs)
        self.body = body = revived(body)
        graph = flat_graph(body) if isinstance(body, keras.Model) else None
        if graph is None or len(graph.inputs) != 1:
            raise ValueError(
                "`body` must be a functional or Sequential model of one input, built. "
                f"Received: body={body!r}"
            )
        shapes = [tuple(x.shape) for x in graph.outputs]
        if len(shapes) != 1 or shapes[0][1:] != (self.classes,):
            raise ValueError(
                f"`body` must put out [batch, {self.classes}]. "
                f"Received: body={body.name!r} with outputs of shape {shapes}"
            )
        self._raw = _Raw(graph, Part(graph.whole, raw_operation(graph)))

    @property
    def graph(self) -> FlatGraph:
        """The calls of the body."""
        return self._raw.graph

    def build(self, input_shape: Any) -> None:
        wanted = tuple(self.graph.inputs[0].shape)
        given = tuple(input_shape)
        pairs = zip(given[1:], wanted[1:], strict=False)
        if len(given) != len(wanted) or any(b is not None and a != b for a, b in pairs):
            raise ValueError(
                f"`body` must take features of shape {given[1:]}. "
                f"Received: body={self.body.name!r} for {wanted[1:]}"
            )
        self.freeze_again()

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
            x = ops.cast(x, self.body.compute_dtype)
        # Not None: Keras' Resizing would take that as True, for all that comes after it.
        return ops.cast(self._raw.part(x, training=bool(training)), "float32")

    def kernel_macs(self, input_shape: Any) -> int:
        """MACs of the body for one image, all of it open."""
        return part_profile(self.graph.calls).total

    def exit_rows(self, input_shape: Any) -> tuple[CostRow, ...]:
        """As of any exit, and those of gates in the body one by one."""
        rows = part_profile(self.graph.calls).rows
        own = [r for r in rows if r.gatings or r.controller]
        rest = sum(r.macs for r in rows) - sum(r.macs for r in own)
        apart = (dataclasses.replace(row, controller=True) for row in own)
        return (CostRow(self.name, "", rest, controller=True), *apart)

    def get_config(self) -> dict[str, Any]:
        body = keras.saving.serialize_keras_object(self.body)
        return {**super().get_config(), "body": body}
