"""A classifier in a file, or a segmentation net, which classifies every pixel.

classify(image) or segment(image)   the answer, and what it took
explain(image)                      the same, and every decision by name
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate.cost import count_macs
from keras_dyngate.export.agreement import Witness
from keras_dyngate.export.arguments import check_model
from keras_dyngate.export.calibration import calibration_feed
from keras_dyngate.export.conversion import traced
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.lowering import Lowering, weights_as_constants
from keras_dyngate.export.mean_correction import keep_means
from keras_dyngate.export.options import GateOptions
from keras_dyngate.export.plan import under
from keras_dyngate.export.plan.answers import (
    answer,
    executed_counts,
    in_thousands,
    visible,
)
from keras_dyngate.export.plan.base import Plan, plan
from keras_dyngate.export.plan.traced import Traced, View
from keras_dyngate.export.preparing import Prepared
from keras_dyngate.runtime.signature_table import Role, SignatureTable

# The first signature of a classifier and of a segmentation net: name and outputs.
CLASSIFY = ("classify", ("logits", "label", "executed_macs"))
SEGMENT = ("segment", ("labels", "executed_macs"))
EXPLAIN = "explain"


class ClassifierPlan(Plan[GateOptions]):
    """Of a net with one input of known size, which puts out a score per class, or one
    per class and pixel; its blocks take their conditional form."""

    takes = GateOptions

    def trace(
        self, *, input_type: str, int8: bool, images: np.ndarray | None = None
    ) -> Traced:
        (graph,), whole = self.graphs, self.graphs[0].whole
        options, profile = self.options, count_macs(self.model)
        if options.ungated:
            profile = profile.without_gates()
        prepared = Prepared(graph.calls, graph)
        if images is not None:
            keep_means(prepared, graph.inputs[0], graph.calls, images, int8)
        pixels = len(whole.output.shape) == 4
        blocks = len(prepared.dynamic_layers(graph.calls))
        with_force = int8 and blocks > 0
        shape = [1, *graph.inputs[0].shape[1:]]
        spec = {"image": tf.TensorSpec(shape, input_type, "image")}
        if with_force:
            spec["force"] = tf.TensorSpec([blocks], tf.int32, "force")
        held = under.held_in(options, prepared.dynamic_layers(graph.calls))
        spec |= under.spec(held)
        found: list[Lowering] = []

        def explain(
            image: Any, force: Any = None, decisions: Any = None
        ) -> dict[str, Any]:
            lowering = Lowering(
                options.group_size, force, under.given(held, decisions), options.ungated
            )
            constant = weights_as_constants(prepared.layers, prepared.shifts)
            with constant, _hooks.lowering(lowering), exact_norms(int8):
                logits = prepared.run(whole, tf.cast(image, tf.float32))
            found.append(lowering)
            return {
                **answer(logits),
                "executed_macs": in_thousands(
                    executed_counts(profile.layers, lowering.opened)
                ),
                **visible(lowering.decisions),
            }

        function = traced(explain, **spec)
        name, outputs = SEGMENT if pixels else CLASSIFY
        return Traced(
            functions={EXPLAIN: function},
            views=(
                View(EXPLAIN, name, outputs, under.nobody(held)),
                *under.views(held, EXPLAIN, outputs),
            ),
            table=SignatureTable(
                {
                    name: Role("answer", explained_by=EXPLAIN),
                    EXPLAIN: Role("witness", explained_by=EXPLAIN),
                    **under.roles(held),
                }
            ),
            feed=lambda images: calibration_feed(
                images, blocks, input_type, under.nobody(held)
            ),
            frozen={EXPLAIN: under.nobody(held)},
            lowering=found[-1],
            profile=profile,
            forced={EXPLAIN: blocks} if with_force else {},
            metadata={
                **({"classes": whole.output.shape[-1]} if pixels else {}),
                **under.noted(held),
            },
        )

    def witness(self) -> "PlainWitness":
        return PlainWitness(self, opened=self.options.ungated)


class PlainWitness:
    """What Keras says of batches of images, computed in float32 as a file does.

    Args:
        plan: Of the net.
        opened: Whether all gates are held open, and decisions left out.
    """

    def __init__(self, plan: Plan, opened: bool = False) -> None:
        (graph,) = plan.graphs
        self.opened = opened
        self.prepared = Prepared(graph.calls, graph)
        self.whole = graph.whole

    def __call__(self, images: np.ndarray) -> Witness:
        with _hooks.recording() as found, self._held():
            logits = self.prepared.run(self.whole, keras.ops.convert_to_tensor(images))
        seen = {} if self.opened else found
        decisions = {k: keras.ops.convert_to_numpy(x) for k, x in seen.items()}
        return Witness(keras.ops.convert_to_numpy(logits), decisions)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """All gates open, where that is asked for."""
        layers = self.prepared.dynamic_layers(self.whole.calls) if self.opened else ()
        gates = [item.controller for layer in layers for item in layer.decisions()]
        before = [gate.forced for gate in gates]
        try:
            for gate in gates:
                gate.forced = np.ones(gate.units, bool)
            yield
        finally:
            for gate, forced in zip(gates, before, strict=True):
                gate.forced = forced


@plan.register
def _(model: keras.Model, options: Any = None) -> Plan:
    return ClassifierPlan(model, (check_model(model),), options)
