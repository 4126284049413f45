"""The functions of a net with early exits, traced: all later stages are a branch."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._graph import flat_graph
from keras_dyngate.cost import count_macs
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.graph import executed_counts, label_of, weights_as_constants
from keras_dyngate.export.lowering import Branch, Lowering
from keras_dyngate.export.mean_correction import keep_means
from keras_dyngate.export.preparing import Prepared
from keras_dyngate.models.early_exit import EarlyExitModel

INFINITY = 0x7F800000  # its bits as a float32; a NaN's are above
NAN = 0x7FC00000  # those of one


def head_confidence(scores: Any) -> Any:
    """How sure the head is, `[batch]`: its largest score; of one, how far from 0."""
    if scores.shape[-1] == 1:
        return tf.abs(tf.reshape(scores, [-1]))
    return tf.reduce_max(scores, -1)


def _order_key(bits: Any) -> Any:
    """int32 that orders as the float32 of these bits does."""
    return tf.where(bits < 0, tf.constant(-(2**31), tf.int32) - bits, bits)


def prepared_stages(model: EarlyExitModel) -> Prepared:
    """The calls of all stages, ready to be run one stage after the other."""
    parts = [stage.part for stage in model.stages]
    last = flat_graph(parts[-1])
    assert last is not None
    return Prepared([call for part in parts for call in part.stretch.calls], last)


class ExitTracer:
    """Traces the functions of one model.

    In a fully quantized file the gates stay in float32: eight bits are too coarse for a
    threshold. What calibration never runs the converter leaves alone, so a gate is a
    branch that is taken at any time but then; and what comes out of it, or crosses
    branches on its way out, does so as the bits of int32, which it leaves alone too.
    """

    def __init__(
        self, model: EarlyExitModel, int8: bool, images: np.ndarray | None = None
    ) -> None:
        self.model, self.int8 = model, int8
        self.prepared = prepared_stages(model)
        if images is not None:  # the features of 8-bit kernels keep their means
            parts = [stage.part.stretch for stage in model.stages]
            calls = [call for part in parts for call in part.calls]
            keep_means(self.prepared, parts[0].inputs[0], calls, images, int8)
        self.profile = count_macs(model)
        self.fixed = [0] * len(model.stages)
        for row in self.profile.layers:
            if not row.gatings:
                self.fixed[row.stage] += row.macs

    def run(self, index: int, x: Any, lowering: Lowering) -> tuple[Any, Any]:
        """One stage with constant weights: its features, and the MACs it took."""
        constant = weights_as_constants(self.prepared.layers, self.prepared.shifts)
        with constant, _hooks.lowering(lowering), exact_norms(self.int8):
            features = self.prepared.run(self.model.stages[index].part.stretch, x)
        return features, executed_counts(lowering, self.fixed[index])

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

    def answer(
        self, index: int, features: Any, route: Any, broken: Any = None
    ) -> dict[str, Any]:
        """What is said after a stage, by its gate or by the net's own head.

        `logits` and `score` are as `carried`. `route` is 0 but in calibration. The score
        of a gate is NaN, which reaches no threshold, where the image is `broken`.
        """
        gate = self.model.stages[index].gate

        def ask() -> tuple[Any, ...]:
            if gate is None:
                scores, confidence = features, head_confidence(features)
            else:
                with weights_as_constants([gate]):
                    scores = gate(features)
                    confidence = gate.confidence_of(scores)
            return self.carried(scores), label_of(scores), self.carried(confidence)

        def nothing() -> tuple[Any, ...]:
            shapes = ([1, self.model.output_shape[-1]], [1], [1])
            return tuple(tf.zeros(shape, tf.int32) for shape in shapes)

        if gate is None or not self.int8:
            logits, label, score = ask()
        else:
            logits, label, score = tf.cond(tf.equal(route, 0), ask, nothing)
        if gate is not None and broken is not None:
            nan = tf.constant([NAN if self.int8 else np.nan], score.dtype)
            score = tf.where(broken, nan, score)
        return {"logits": logits, "label": label, "score": score}

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

    def seen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer with its floats as such again."""
        return {
            name: tf.bitcast(x, tf.float32)
            if self.int8 and name in ("logits", "score")
            else x
            for name, x in answer.items()
        }

    def from_stage(
        self,
        index: int,
        x: Any,
        thresholds: Any,
        route: Any,
        broken: Any,
        lowering: Lowering,
    ) -> dict[str, Any]:
        """What is answered from a stage on; all later ones are a branch."""
        mine = lowering.child()
        features, counts = self.run(index, x, mine)
        decisions = mine.decisions
        chosen = None if route is None else route[index : index + 1]
        answer = self.answer(index, features, chosen, broken)
        answer["exit"] = tf.constant([index], tf.int32)
        if index == len(self.model.gates):
            return {**answer, "counts": counts, "decisions": decisions}
        nothing: dict[str, tuple[Any, Any]] = {}

        def go_on() -> dict[str, Any]:
            rest = self.from_stage(
                index + 1, features, thresholds, route, broken, lowering
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

    def branch(self, index: int) -> Branch:
        """Everything after a gate, as the file's report tells it."""
        later = self.model.stages[index + 1 :]
        layers = [x for s in later for x in (s.part, s.gate) if x is not None]
        weights = [  # normalization folded: kernels and biases are left
            weight
            for layer in layers
            for weight in layer.weights
            if len(weight.shape) > 1 or weight.name in ("bias", "beta")
        ]
        return Branch(
            f"{self.model.gates[index].name}/exit",
            self.model.stages[index].part.output_shape[-1],
            sum(row.macs for row in self.profile.layers if row.stage > index),
            sum(int(np.prod(w.shape)) for w in weights),
        )
