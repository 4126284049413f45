"""The functions of a net with early exits, traced: all later stages are a branch."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._graph import Stretch
from keras_dyngate.cost import count_macs
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.lowering import (
    Branch,
    Lowering,
    stored_parameters,
    weights_as_constants,
)
from keras_dyngate.export.plan.answers import executed_counts, label_of
from keras_dyngate.export.plan.exit_parts import ExitParts
from keras_dyngate.models.exits.early_exit import EarlyExitModel

INFINITY = 0x7F800000  # its bits as a float32; a NaN's are above
NAN = 0x7FC00000  # those of one
# Operations that become a kernel in a file.
KERNELS = (
    "BatchMatMulV2",
    "Conv2D",
    "Conv2DBackpropInput",
    "DepthwiseConv2dNative",
    "Einsum",
    "MatMul",
)


def head_confidence(scores: Any) -> Any:
    """How sure the head is, `[batch]`: its largest score; of one, how far from 0."""
    if scores.shape[-1] == 1:
        return tf.abs(tf.reshape(scores, [-1]))
    return tf.reduce_max(scores, -1)


def _order_key(bits: Any) -> Any:
    """int32 that orders as the float32 of these bits does."""
    return tf.where(bits < 0, tf.constant(-(2**31), tf.int32) - bits, bits)


def _kernels() -> int:
    """Kernels of the function that is traced, and of the branches in it."""
    graph = tf.compat.v1.get_default_graph()

    def count(nodes: Iterable[Any]) -> int:
        found = 0
        for node in nodes:
            found += node.op in KERNELS
            if node.op in ("If", "StatelessIf"):
                for side in ("then_branch", "else_branch"):
                    inside = graph._get_function(node.attr[side].func.name)
                    found += count(inside.cached_definition.node_def)
        return found

    return count(operation.node_def for operation in graph.get_operations())


class ExitTracer:
    """Traces the functions of one model.

    In a fully quantized file the gates, the last linear layers of heads and all that
    combines exits stay in float32: eight bits are too coarse for a threshold. What
    calibration never runs the converter leaves alone, so these are a branch that is taken
    at any time but then; and what comes out of it, or crosses branches on its way out,
    does so as the bits of int32, which it leaves alone too. A first net is such a branch
    as a whole, see `eight_bit_weights`, unless `GateOptions.first_net` is "int8".

    Attributes:
        parts: What is run.
        mixing: Rows of `EarlyExitModel.mixing`.
        float_kernels: How many kernels such branches have, of what was traced so far.
    """

    def __init__(
        self,
        model: EarlyExitModel,
        int8: bool,
        images: np.ndarray | None = None,
        first_net: str = "dynamic",
    ) -> None:
        self.model, self.int8 = model, int8
        self.parts, self.mixing = ExitParts(model, first_net), model.mixing
        self.float_kernels = 0
        if images is not None:  # the features of 8-bit kernels keep their means
            self.parts.keep_means(images, int8)
        self.profile = count_macs(model)

    def run(self, index: int, x: Any, lowering: Lowering) -> Any:
        """One stage with constant weights, up to its exit: its features."""
        entered = self.parts.entered(index, x)
        return self._run(self.parts.stretches[index], entered, lowering, self.int8)

    def counts(self, index: int, lowering: Lowering) -> Any:
        """The MACs that a stage took, its exit included, once both were run."""
        rows = [row for row in self.profile.layers if row.stage == index]
        return executed_counts(rows, lowering.opened)

    def _run(self, stretch: Stretch, x: Any, lowering: Lowering, int8: bool) -> Any:
        """A stretch with constant weights."""
        prepared = self.parts.prepared
        layers = prepared.layers_of(stretch.calls)
        constant = weights_as_constants(layers, prepared.shifts)
        with constant, _hooks.lowering(lowering), exact_norms(int8):
            return prepared.run(stretch, x)

    def takes_image(self, index: int) -> bool:
        """Whether a stage begins with the image."""
        return index == 0 or (index == 1 and self.parts.first)

    def is_float(self, index: int) -> bool:
        """Whether an exit answers from a branch that calibration does not run."""
        return self.int8 and (index < len(self.model.gates) or self.mixes(index))

    def mixes(self, index: int) -> bool:
        """Whether an exit answers with more than its own raw scores."""
        return not np.array_equal(self.mixing[index], np.eye(len(self.mixing))[index])

    def handed(self, index: int) -> list[int]:
        """Exits up to one whose raw scores later ones want."""
        return np.flatnonzero(self.mixing[index + 1 :, : index + 1].any(0)).tolist()

    def is_broken(self, image: Any, route: Any) -> Any:
        """bool `[1]`: whether a number of the image is a NaN, which kernels may drop."""
        if not image.dtype.is_floating:
            return tf.zeros([1], tf.bool)
        bits = self.carried(image)

        def check() -> Any:
            x = tf.bitcast(bits, tf.float32) if self.int8 else image
            total = tf.reshape(tf.reduce_sum(x), [1])
            return tf.not_equal(total, total)

        if not self.int8:
            return check()
        return tf.cond(tf.equal(route[0], 0), check, lambda: tf.zeros([1], tf.bool))

    def mixed(self, index: int, raw: Any, earlier: Mapping[int, Any]) -> Any:
        """The scores that an exit answers with, from its own and the earlier ones' raw.

        What does not count is not computed, nor is a product with 1.
        """
        total = None
        for j, weight in enumerate(self.mixing[index, : index + 1]):
            if weight:
                found = raw if j == index else self.floats(earlier[j])
                found = found if weight == 1 else found * weight
                total = found if total is None else total + found
        return tf.zeros_like(raw) if total is None else total

    def answer(
        self,
        index: int,
        features: Any,
        lowering: Lowering,
        route: Any,
        broken: Any = None,
        earlier: Mapping[int, Any] | None = None,
    ) -> dict[str, Any]:
        """What is said after a stage, by its gate or by the net's own head.

        `logits`, `score` and, for later exits, `raw` are as `carried`, and so are the raw
        scores of exits before it, `earlier`. `lowering` is told what a head decides.
        `route` is 0 but in calibration. The score of a gate is NaN, which reaches no
        threshold, where the image is `broken`.
        """
        gate, head = self.model.stages[index].gate, self.parts.heads[index]
        whole = self.int8 and self.parts.first_in_float and index == 0
        apart = self.mixes(index) and index in self.handed(index)
        given = features
        inside = dataclasses.replace(lowering.child(), forced=None)
        if whole:
            given = self.carried(features)
        elif head is not None:
            given = self._run(head.front, features, lowering, self.int8)

        kinds: list[Any] = []

        def raw_scores() -> Any:
            x = self.floats(given) if whole else given
            if head is not None:
                x = self._run(head.front, x, inside, False) if whole else x
                return self._run(head.last, x, inside, False)
            if gate is None:
                return x
            with weights_as_constants([gate]):
                return gate(x)

        def ask() -> tuple[Any, ...]:
            raw = raw_scores()
            scores = self.mixed(index, raw, earlier or {})
            if gate is None:
                confidence = head_confidence(scores)
            else:
                with weights_as_constants([gate]):
                    confidence = gate.confidence_of(scores)
            said = [self.carried(scores), label_of(scores), self.carried(confidence)]
            told = self._told(inside.decisions), dict(inside.opened)
            return [*said, *([self.carried(raw)] if apart else [])], *told

        def ask_in_float() -> tuple[Any, ...]:
            found = ask()
            self.float_kernels += _kernels()
            kinds.append(tf.nest.map_structure(tf.TensorSpec.from_tensor, found))
            return found

        def nothing() -> tuple[Any, ...]:
            return tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), kinds[0])

        if self.is_float(index):
            found, decisions, opened = tf.cond(
                tf.equal(route, 0), ask_in_float, nothing
            )
        else:
            found, decisions, opened = ask()
        lowering.decisions |= self._told(decisions, back=True)
        lowering.opened |= opened
        logits, label, score = found[:3]
        if gate is not None and broken is not None:
            nan = tf.constant([NAN if self.int8 else np.nan], score.dtype)
            score = tf.where(broken, nan, score)
        raw = found[3] if apart else logits
        return {"logits": logits, "label": label, "score": score, "raw": raw}

    def stays(self, score: Any, threshold: Any, route: Any) -> Any:
        """bool `[]`: not `score >= threshold`, in float32 precision always.

        Both are as `carried`.
        """
        if not self.int8:
            # The converter would make `score < threshold` of it, and lose the NaN.
            is_nan = tf.not_equal(score, score)
            return tf.reshape(tf.logical_or(score < threshold, is_nan), [])
        key = _order_key(score)
        reached = tf.logical_and(key >= _order_key(threshold), key <= INFINITY)
        leaves = tf.where(route > 0, route > 1, reached)
        return tf.reshape(tf.logical_not(leaves), [])

    def carried(self, x: Any) -> Any:
        """Floats that leave a branch, as bits in int8."""
        return tf.bitcast(x, tf.int32) if self.int8 else x

    def _told(self, decisions: Mapping[str, Any], back: bool = False) -> dict[str, Any]:
        """Decisions that leave a branch, or `back` as they were: bools stay bools."""
        carry = self.floats if back else self.carried
        return {k: x if x.dtype == tf.bool else carry(x) for k, x in decisions.items()}

    def floats(self, x: Any) -> Any:
        """What was `carried` as floats again."""
        return tf.bitcast(x, tf.float32) if self.int8 else x

    def seen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer with its floats as such again."""
        return {
            name: self.floats(x) if name in ("logits", "score") else x
            for name, x in answer.items()
        }

    def put_together(self, index: int, raw: Mapping[int, Any]) -> dict[str, Any]:
        """The output `earlier` of a stage, `[1, exits, classes]`, if later ones want it."""
        rows = [tf.expand_dims(raw[j], 1) for j in self.handed(index)]
        if not rows:
            return {}
        return {
            "earlier": self.floats(rows[0] if len(rows) == 1 else tf.concat(rows, 1))
        }

    def taken_apart(self, index: int, earlier: Any) -> dict[int, Any]:
        """The raw scores by exit that a stage is given as `earlier`, as `carried`."""
        if earlier is None:
            return {}
        rows = tf.unstack(self.carried(earlier), axis=1)
        return dict(zip(self.handed(index - 1), rows, strict=True))

    def from_stage(
        self,
        index: int,
        x: Any,
        thresholds: Any,
        route: Any,
        broken: Any,
        lowering: Lowering,
        earlier: Mapping[int, Any] | None = None,
    ) -> dict[str, Any]:
        """What is answered from a stage on; all later ones are a branch."""
        mine = lowering.child()
        features = self.run(index, x, mine)
        gates = len(self.model.gates)
        at = min(index, gates - 1)
        chosen = None if route is None else route[at : at + 1]
        answer = self.answer(index, features, mine, chosen, broken, earlier)
        counts, decisions = self.counts(index, mine), mine.decisions
        so_far = {**(earlier or {}), index: answer.pop("raw")}
        answer["exit"] = tf.constant([index], tf.int32)
        if index == gates:
            return {**answer, "counts": counts, "decisions": decisions}
        nothing: dict[str, tuple[Any, Any]] = {}

        def go_on() -> dict[str, Any]:
            rest = self.from_stage(
                index + 1, features, thresholds, route, broken, lowering, so_far
            )
            for name, score in rest["decisions"].items():
                nothing[name] = (score.shape, score.dtype)
            return rest

        def leave() -> dict[str, Any]:
            zeros = {name: tf.zeros(*kind) for name, kind in nothing.items()}
            here = {name: tf.identity(found) for name, found in answer.items()}
            return {**here, "counts": tf.zeros([2], tf.int32), "decisions": zeros}

        limit = thresholds[index : index + 1]
        start = len(lowering.branches)
        rest = tf.cond(self.stays(answer["score"], limit, chosen), go_on, leave)
        lowering.branches.insert(start, self.branch(index))
        return {
            **rest,
            "counts": counts + rest["counts"],
            "decisions": {**decisions, **rest["decisions"]},
        }

    def gate_kernels(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Of each exit before the head its linear layer's kernel, also as it is scaled."""
        found = []
        for index in range(len(self.model.gates)):
            kernel = self.parts.kernel(index)
            if kernel is not None:
                scaled = kernel * self.mixing[index, index]
                found.append((kernel, scaled))
        return tuple(found)

    def branch(self, index: int) -> Branch:
        """Everything after a gate, as the file's report tells it."""
        later = self.model.stages[index + 1 :]
        layers = [x for s in later for x in (s.part, s.gate) if x is not None]
        return Branch(
            f"{self.model.gates[index].name}/exit",
            self.model.stages[index].part.output_shape[-1],
            sum(row.macs for row in self.profile.layers if row.stage > index),
            stored_parameters(layers),
        )
