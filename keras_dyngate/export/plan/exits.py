"""Early exits in a file: each later stage is a branch that an exit does not take.

classify(image)                  thresholds baked in
classify_at(image, thresholds)   the app trades accuracy for time
explain(image), explain_at(image, thresholds)    every decision as well
stage_1(image), stage_2(features), ...   for apps that decide on their own

A first net leaves no features: `stage_2` takes the image too. Where exits combine, stages
hand on the raw scores that later ones want as `earlier`, `[1, exits, classes]`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate.export.conversion import traced
from keras_dyngate.export.exit_tracer import ExitTracer
from keras_dyngate.export.graph import Plan, View, call_traced, in_thousands, visible
from keras_dyngate.export.lowering import Lowering
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.training import HEAD

ANSWER = ("logits", "label", "score", "exit", "executed_macs")


def plan_exits(
    model: EarlyExitModel,
    *,
    group_size: int | None,
    input_type: str,
    with_force: bool,
    images: np.ndarray | None = None,
) -> Plan:
    """Trace all signatures of a net with early exits, at batch 1.

    Args:
        model: With thresholds set.
        group_size, input_type, images: See `plan_classifier`.
        with_force: Whether this is for int8, where blocks must be forced open.

    Raises:
        ValueError: If no threshold was ever set.
    """
    if not model.calibrated:
        raise ValueError(
            "`model` must have thresholds to be exported: call `calibrate`, or set "
            f"`model.thresholds`. Received: thresholds={model.thresholds.tolist()}"
        )
    tracer = ExitTracer(model, int8=with_force, images=images)
    gates, stages = len(model.gates), model.stages
    calls = [stage.part.stretch.calls for stage in stages]
    blocks = [len(tracer.parts.prepared.dynamic_layers(found)) for found in calls]
    # How long `force` is, where there is one: a number per block, then one per gate.
    forced = {"explain_at": sum(blocks) + gates}
    for index, count in enumerate(blocks):
        forced[f"stage_{index + 1}"] = count + tracer.is_float(index)
    forced = {name: count for name, count in forced.items() if with_force and count}
    image = tf.TensorSpec([1, *model.input_shape[1:]], input_type, "image")
    found: list[Lowering] = []

    def concrete(name: str, function: Any, **spec: tf.TensorSpec) -> Any:
        if name in forced:
            spec["force"] = tf.TensorSpec([forced[name]], tf.int32, "force")
        return traced(function, **spec)

    def explain_at(image: Any, thresholds: Any, force: Any = None) -> dict[str, Any]:
        route = None if force is None else force[sum(blocks) :]
        lowering = Lowering(group_size, force)
        found.append(lowering)
        x = tf.cast(image, tf.float32)
        limits, broken = tracer.carried(thresholds), tracer.is_broken(image, route)
        answer = tracer.from_stage(0, x, limits, route, broken, lowering)
        counts, decisions = answer.pop("counts"), answer.pop("decisions")
        return {
            **tracer.seen(answer),
            "executed_macs": in_thousands(counts),
            **visible(decisions),
        }

    def stage_function(index: int) -> Callable[..., dict[str, Any]]:
        def stage(
            *, force: Any = None, earlier: Any = None, **inputs: Any
        ) -> dict[str, Any]:
            (x,) = inputs.values()
            lowering = Lowering(group_size, force)
            features, counts = tracer.run(index, tf.cast(x, tf.float32), lowering)
            route = None if force is None else force[blocks[index] :]
            broken = None
            if index < gates and tracer.takes_image(index):
                broken = tracer.is_broken(x, route)
            before = tracer.taken_apart(index, earlier)
            answer = tracer.answer(index, features, route, broken, before)
            together = tracer.put_together(index, {**before, index: answer.pop("raw")})
            answer = {**tracer.seen(answer), **together}
            if index < gates and not tracer.takes_image(index + 1):
                answer["features"] = features
            return {**answer, "executed_macs": in_thousands(counts)}

        return stage

    limits = tf.TensorSpec([gates], tf.float32, "thresholds")
    functions = {
        "explain_at": concrete("explain_at", explain_at, image=image, thresholds=limits)
    }
    for index, stage in enumerate(stages):
        shape = [1, *stage.part.stretch.inputs[0].shape[1:]]
        features = tf.TensorSpec(shape, tf.float32, "features")
        spec = {"image": image} if tracer.takes_image(index) else {"features": features}
        if index and (handed := len(tracer.handed(index - 1))):
            shape = [1, handed, model.output_shape[-1]]
            spec["earlier"] = tf.TensorSpec(shape, tf.float32, "earlier")
        name = f"stage_{index + 1}"
        functions[name] = concrete(name, stage_function(index), **spec)
    fixed = {"thresholds": model.thresholds}
    per_exit = tracer.profile.per_exit
    total = per_exit[-1]
    names = [*(gate.name for gate in model.gates), HEAD]
    places = [*model.after, None]
    return Plan(
        functions=functions,
        views=(
            View("explain_at", "classify", ANSWER, fixed),
            View("explain_at", "explain", None, fixed),
            View("explain_at", "classify_at", ANSWER),
        ),
        feed=lambda images: _feed(functions, forced, images, blocks, input_type),
        lowering=found[-1],
        profile=tracer.profile,
        forced=forced,
        float_kernels=tracer.float_kernels,
        gate_kernels=tracer.gate_kernels(),
        metadata={
            "thresholds": np.nan_to_num(model.thresholds).tolist(),  # JSON: no infinity
            "confidence": [gate.confidence for gate in model.gates],
            "mixing": tracer.mixing.tolist(),
            "macs_per_exit": list(per_exit),
            "exits": [
                {"name": name, "after": after, "macs": macs, "macs_share": macs / total}
                for name, after, macs in zip(names, places, per_exit, strict=True)
            ],
        },
    )


def _feed(
    functions: dict[str, Any],
    forced: dict[str, int],
    images: np.ndarray,
    blocks: list[int],
    input_type: str,
) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Calibration inputs that reach every branch of every signature, but the gates.

    Each image goes through all stages; every other one also leaves at a gate, these
    taking turns. Blocks are forced open in turn, as for a plain classifier.
    """
    gates = len(blocks) - 1
    stay, leave = 1, 2
    thresholds = np.zeros(gates, "float32")

    def forces(count: int, index: int, route: list[int]) -> Iterator[dict[str, Any]]:
        if not count + len(route):
            yield {}
            return
        for block in (None, index % count) if count else (None,):
            force = np.array([0] * count + route, np.int32)
            if block is not None:
                force[block] = 1
            yield {"force": force}

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index in range(max(len(images), 2 * gates, sum(blocks))):
            picture = images[index % len(images)][None].astype(input_type)
            inputs = {"image": picture, "thresholds": thresholds}
            for force in forces(sum(blocks), index, [stay] * gates):
                yield "explain_at", {**inputs, **force}
            if index % 2:
                route = [stay] * gates
                route[index // 2 % gates] = leave
                for force in forces(sum(blocks), index, route):
                    yield "explain_at", {**inputs, **force}
            known: dict[str, Any] = {"image": picture}
            for number, count in enumerate(blocks):
                name = f"stage_{number + 1}"
                wanted = functions[name].structured_input_signature[1]
                takes = {key: x for key, x in known.items() if wanted.get(key)}
                route = [stay] * (forced.get(name, 0) - count)
                for force in forces(count, index, route):
                    yield name, {**takes, **force}
                if number < gates:
                    force = next(forces(count, index, route))
                    known |= call_traced(functions[name], {**takes, **force})

    return feed
