"""Early exits in a file: each later stage is a branch that an exit does not take.

    classify(image)                  thresholds baked in
    classify_at(image, thresholds)   the app trades accuracy for time
    explain(image), explain_at(image, thresholds)    every decision as well
    stage_1(image), stage_2(features), ...   for apps that decide on their own
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._logits import plain_logits
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.cost import count_macs
from keras_dyngate.export.graph import (
    Plan,
    View,
    executed_counts,
    in_float32,
    in_thousands,
    visible,
    weights_as_constants,
)
from keras_dyngate.export.lowering import Branch, Lowering
from keras_dyngate.models.early_exit import EarlyExitModel

FAR = 1e30  # a threshold that nobody, or with a minus everybody, reaches
ANSWER = ("logits", "label", "score", "exit", "executed_macs")


def _order_key(x: Any) -> Any:
    """int32 that orders as the float32 `x` does: the converter leaves integers alone.

    A comparison of floats would be done in int8 in a fully quantized file.
    """
    bits = tf.bitcast(x, tf.int32)
    return tf.where(bits < 0, tf.constant(-(2**31), tf.int32) - bits, bits)


class _Tracer:
    """Traces the functions of one model."""

    def __init__(self, model: EarlyExitModel, group_size: int | None, int8: bool):
        self.model, self.group_size, self.int8 = model, group_size, int8
        self.profile = count_macs(model)
        self.fixed = [0] * len(model.stages)
        for row in self.profile.layers:
            if not row.gatings:
                self.fixed[row.stage] += row.macs

    def run(self, index: int, x: Any, lowering: Lowering) -> dict[str, Any]:
        """One stage with constant weights: features, scores, confidence, counts."""
        stage = self.model.stages[index]
        layers = [stage.part] + ([] if stage.gate is None else [stage.gate])
        with weights_as_constants(layers), _hooks.lowering(lowering):
            features = stage.part(x, training=False)
            scores = features if stage.gate is None else stage.gate(features)
            confidence = (
                tf.reduce_max(scores, -1)
                if stage.gate is None
                else stage.gate.confidence_of(scores)
            )
        return {
            "features": features,
            "logits": scores,
            "label": tf.argmax(scores, axis=-1, output_type=tf.int32),
            "score": confidence,
            "counts": executed_counts(lowering, self.fixed[index]),
        }

    def stays(self, confidence: Any, threshold: Any) -> Any:
        """bool `[1]`: not `confidence >= threshold`, in float32 precision always."""
        if self.int8:
            confidence, threshold = _order_key(confidence), _order_key(threshold)
        return tf.logical_not(confidence >= threshold)

    def carried(self, x: Any) -> Any:
        """Floats that leave a branch: as bits in int8, so that each exit has a scale."""
        return tf.bitcast(x, tf.int32) if self.int8 else x

    def from_stage(
        self, index: int, x: Any, thresholds: Any, lowering: Lowering
    ) -> dict[str, Any]:
        """What is answered from a stage on; all later ones are a branch."""
        mine = lowering.child()
        found = self.run(index, x, mine)
        counts, decisions = found["counts"], mine.decisions
        features = found["features"]
        answer = {
            "logits": self.carried(found["logits"]),
            "label": found["label"],
            "score": self.carried(found["score"]),
            "exit": tf.constant([index], tf.int32),
        }
        if index == len(self.model.gates):
            return {**answer, "counts": counts, "decisions": decisions}
        nothing: dict[str, tuple[Any, Any]] = {}

        def go_on() -> dict[str, Any]:
            rest = self.from_stage(index + 1, features, thresholds, lowering)
            for name, score in rest["decisions"].items():
                nothing[name] = (score.shape, score.dtype)
            return rest

        def leave() -> dict[str, Any]:
            zeros = {name: tf.zeros(*kind) for name, kind in nothing.items()}
            here = {name: tf.identity(found) for name, found in answer.items()}
            return {**here, "counts": tf.zeros([2], tf.int32), "decisions": zeros}

        stays = self.stays(found["score"], thresholds[index : index + 1])
        start = len(lowering.branches)
        rest = tf.cond(tf.reshape(stays, []), go_on, leave)
        lowering.branches.insert(start, self.branch(index))
        return {
            **rest,
            "counts": counts + rest["counts"],
            "decisions": {**decisions, **rest["decisions"]},
        }

    def branch(self, index: int) -> Branch:
        """Everything after a gate, as the file's report tells it."""
        later = self.model.stages[index + 1 :]
        weights = [*(w for s in later for w in s.part.trainable_weights)]
        return Branch(
            f"{self.model.gates[index].name}/exit",
            self.model.stages[index].part.output_shape[-1],
            sum(row.macs for row in self.profile.layers if row.stage > index),
            sum(int(np.prod(w.shape)) for w in weights),
        )


def plan_exits(
    model: EarlyExitModel, *, group_size: int | None, input_type: str, with_force: bool
) -> Plan:
    """Trace all signatures of a net with early exits, at batch 1.

    Args:
        model: With thresholds set.
        group_size, input_type: See `plan_classifier`.
        with_force: Whether this is for int8, where blocks must be forced open.

    Raises:
        ValueError: If no threshold was ever set.
    """
    if not model.calibrated:
        raise ValueError(
            "`model` must have thresholds to be exported: call `calibrate`, or set "
            f"`model.thresholds`. Received: thresholds={model.thresholds.tolist()}"
        )
    tracer = _Tracer(model, group_size, int8=with_force)
    blocks = [sum(1 for _ in dynamic_layers(s.part)) for s in model.stages]
    image = tf.TensorSpec([1, *model.input_shape[1:]], input_type, "image")
    found: list[Lowering] = []

    def force_spec(count: int) -> dict[str, tf.TensorSpec]:
        if not with_force or not count:
            return {}
        return {"force": tf.TensorSpec([count], tf.int32, "force")}

    def explain_at(image: Any, thresholds: Any, force: Any = None) -> dict[str, Any]:
        lowering = Lowering(group_size, force)
        found.append(lowering)
        x = tf.cast(image, tf.float32)
        answer = tracer.from_stage(0, x, thresholds, lowering)
        counts, decisions = answer.pop("counts"), answer.pop("decisions")
        for name in ("logits", "score"):
            if answer[name].dtype != tf.float32:
                answer[name] = tf.bitcast(answer[name], tf.float32)
        return {**answer, "executed_macs": in_thousands(counts), **visible(decisions)}

    def stage_function(index: int) -> Callable[..., dict[str, Any]]:
        def stage(force: Any = None, **inputs: Any) -> dict[str, Any]:
            lowering = Lowering(group_size, force)
            (x,) = inputs.values()
            answer = tracer.run(index, tf.cast(x, tf.float32), lowering)
            answer["executed_macs"] = in_thousands(answer.pop("counts"))
            if index == len(model.gates):
                del answer["features"]
            return answer

        return stage

    with plain_logits(model.trunk), in_float32(model):
        functions = {
            "explain_at": tf.function(explain_at, autograph=False).get_concrete_function(
                image=image,
                thresholds=tf.TensorSpec([len(model.gates)], tf.float32, "thresholds"),
                **force_spec(sum(blocks)),
            )
        }
        for index, stage in enumerate(model.stages):
            spec = {"image": image}
            if index:
                shape = [1, *stage.part.input_shape[1:]]
                spec = {"features": tf.TensorSpec(shape, tf.float32, "features")}
            functions[f"stage_{index + 1}"] = tf.function(
                stage_function(index), autograph=False
            ).get_concrete_function(**spec, **force_spec(blocks[index]))
    forced = {"explain_at": sum(blocks)}
    forced |= {f"stage_{index}": count for index, count in enumerate(blocks, 1)}
    fixed = {"thresholds": model.thresholds}
    return Plan(
        functions=functions,
        views=(
            View("explain_at", "classify", ANSWER, fixed),
            View("explain_at", "explain", None, fixed),
            View("explain_at", "classify_at", ANSWER),
        ),
        feed=lambda images: _feed(model, images, blocks, input_type),
        lowering=found[-1],
        profile=tracer.profile,
        forced={name: count for name, count in forced.items() if with_force and count},
        metadata={
            "thresholds": model.thresholds.tolist(),
            "confidence": [gate.confidence for gate in model.gates],
            "macs_per_exit": list(tracer.profile.per_exit),
        },
    )


def _feed(
    model: EarlyExitModel, images: np.ndarray, blocks: list[int], input_type: str
) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Calibration inputs that reach every branch of every signature.

    Of the images, one in n + 2 runs as the net decides, one through all stages, and one
    to each gate, in turn; blocks are forced open in turn as for a plain classifier.
    """
    gates = len(model.gates)
    natural = np.clip(model.thresholds, -FAR, FAR).astype("float32")
    to_head = np.full(gates, FAR, "float32")
    modes = [natural, to_head]
    for gate in range(gates):
        modes.append(to_head.copy())
        modes[-1][gate] = -FAR

    def forces(count: int, index: int) -> list[dict[str, np.ndarray]]:
        if not count:
            return [{}]
        one = np.zeros(count, np.int32)
        one[index % count] = 1
        return [{"force": np.zeros(count, np.int32)}, {"force": one}]

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index in range(max(len(images), 2 * len(modes), *blocks)):
            picture = images[index % len(images)][None].astype(input_type)
            for force in forces(sum(blocks), index // len(modes)):
                thresholds = modes[index % len(modes)]
                yield (
                    "explain_at",
                    {"image": picture, "thresholds": thresholds, **force},
                )
                if force:  # the forced block must be reached
                    inputs = {"image": picture, "thresholds": to_head, **force}
                    yield "explain_at", inputs
            x = picture
            for stage, model_stage in enumerate(model.stages):
                for force in forces(blocks[stage], index):
                    yield (
                        f"stage_{stage + 1}",
                        {"features" if stage else "image": x, **force},
                    )
                x = keras.ops.convert_to_numpy(
                    model_stage.predict_on_batch(x)["features"]
                )

    return feed
