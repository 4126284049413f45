"""Early exits in a file: each later stage is a branch that an exit does not take.

classify(image)                  thresholds baked in
classify_at(image, thresholds)   the app trades accuracy for time
explain(image), explain_at(image, thresholds)    every decision as well
stage_1(image), stage_2(features), ...   for apps that decide on their own

A first net leaves no features: `stage_2` takes the image too. Where exits combine, stages
hand on the raw scores that later ones want as `earlier`, `[1, exits, classes]`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate.export.agreement import Ask
from keras_dyngate.export.arguments import check_model
from keras_dyngate.export.conversion import traced
from keras_dyngate.export.lowering import Lowering
from keras_dyngate.export.options import GateOptions
from keras_dyngate.export.plan import under
from keras_dyngate.export.plan.answers import in_thousands, visible
from keras_dyngate.export.plan.base import Plan, plan
from keras_dyngate.export.plan.classifier import ClassifierPlan
from keras_dyngate.export.plan.exit_tracer import ExitTracer
from keras_dyngate.export.plan.exit_witness import ExitsWitness
from keras_dyngate.export.plan.traced import Traced, View, call_traced
from keras_dyngate.flatfile.flatbuffer import schema
from keras_dyngate.layers import ExitHead
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.training import HEAD
from keras_dyngate.quantization.fake_quantize import is_quantize_aware
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.exit_calibration import adjustable
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.runtime.signature_table import Role, SignatureTable

ANSWER = ("logits", "label", "score", "exit", "executed_macs")
EXPLAIN, EXPLAIN_AT = "explain", "explain_at"
REPEATS = 5  # runs to each exit that are timed


def _stage(index: int) -> str:
    """The signature of a stage, from 0."""
    return f"stage_{index + 1}"


class ExitsPlan(Plan[GateOptions]):
    """Of a net with early exits whose thresholds are set."""

    takes = GateOptions
    model: EarlyExitModel

    def __init__(self, model: EarlyExitModel, options: Any = None) -> None:
        graph = check_model(model, exported=model.trunk)
        if not model.calibrated:
            raise ValueError(
                "`model` must have thresholds to be exported: call `calibrate`, or set "
                f"`model.thresholds`. Received: thresholds={model.thresholds.tolist()}"
            )
        heads = [gate.graph for gate in model.gates if isinstance(gate, ExitHead)]
        super().__init__(model, (graph, *heads), options)
        first_net = self.options.first_net
        if first_net != "dynamic" and is_quantize_aware(model):
            raise ValueError(
                "`first_net` must be 'dynamic' for a quantize-aware net, whose first net "
                f"stays in float32. Received: first_net={first_net!r}"
            )

    def trace(
        self, *, input_type: str, int8: bool, images: np.ndarray | None = None
    ) -> Traced:
        model, group_size = self.model, self.options.group_size
        first_net = self.options.first_net
        tracer = ExitTracer(model, int8=int8, images=images, first_net=first_net)
        gates, stages = len(model.gates), model.stages
        calls = [tracer.parts.calls_of(index) for index in range(len(stages))]
        blocks = [len(tracer.parts.prepared.dynamic_layers(found)) for found in calls]
        # How long `force` is, where there is one: a number per block, then one per gate.
        forced = {EXPLAIN_AT: sum(blocks) + gates}
        for index, count in enumerate(blocks):
            forced[_stage(index)] = count + tracer.is_float(index)
        forced = {name: count for name, count in forced.items() if int8 and count}
        image = tf.TensorSpec([1, *model.input_shape[1:]], input_type, "image")
        everything = [call for part in calls for call in part]
        layers = tracer.parts.prepared.dynamic_layers(everything)
        held = under.held_in(self.options, layers)
        found: list[Lowering] = []

        def concrete(name: str, function: Any, **spec: tf.TensorSpec) -> Any:
            if name in forced:
                spec["force"] = tf.TensorSpec([forced[name]], tf.int32, "force")
            return traced(function, **spec)

        def explain_at(
            image: Any, thresholds: Any, force: Any = None, decisions: Any = None
        ) -> dict[str, Any]:
            route = None if force is None else force[sum(blocks) :]
            lowering = Lowering(group_size, force, under.given(held, decisions))
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
                features = tracer.run(index, tf.cast(x, tf.float32), lowering)
                route = None if force is None else force[blocks[index] :]
                broken = None
                if index < gates and tracer.takes_image(index):
                    broken = tracer.is_broken(x, route)
                before = tracer.taken_apart(index, earlier)
                answer = tracer.answer(index, features, lowering, route, broken, before)
                counts = tracer.counts(index, lowering)
                together = tracer.put_together(
                    index, {**before, index: answer.pop("raw")}
                )
                answer = {**tracer.seen(answer), **together}
                if index < gates and not tracer.takes_image(index + 1):
                    answer["features"] = features
                return {**answer, "executed_macs": in_thousands(counts)}

            return stage

        limits = tf.TensorSpec([gates], tf.float32, "thresholds")
        functions = {
            EXPLAIN_AT: concrete(
                EXPLAIN_AT,
                explain_at,
                image=image,
                thresholds=limits,
                **under.spec(held),
            )
        }
        for index, stage in enumerate(stages):
            shape = [1, *stage.part.stretch.inputs[0].shape[1:]]
            features = tf.TensorSpec(shape, tf.float32, "features")
            spec = {"features": features}
            if tracer.takes_image(index):
                spec = {"image": image}
            if index and (handed := len(tracer.handed(index - 1))):
                shape = [1, handed, model.output_shape[-1]]
                spec["earlier"] = tf.TensorSpec(shape, tf.float32, "earlier")
            name = _stage(index)
            functions[name] = concrete(name, stage_function(index), **spec)
        nobody = under.nobody(held)
        fixed = {"thresholds": model.thresholds, **nobody}
        return Traced(
            functions=functions,
            views=(
                View(EXPLAIN_AT, "classify", ANSWER, fixed),
                View(EXPLAIN_AT, EXPLAIN, None, fixed),
                View(EXPLAIN_AT, "classify_at", ANSWER, nobody),
                *under.views(held, EXPLAIN_AT, ANSWER),
            ),
            table=_table(len(stages), under.roles(held)),
            feed=lambda images: _feed(
                functions, forced, images, blocks, input_type, nobody
            ),
            frozen={EXPLAIN_AT: nobody},
            lowering=found[-1],
            profile=tracer.profile,
            forced=forced,
            float_kernels=tracer.float_kernels,
            gate_kernels=tracer.gate_kernels(),
            metadata={**_noted(model, tracer), **under.noted(held)},
        )

    def witness(self) -> Ask:
        return ExitsWitness(self.model)

    def measure(
        self, litert: LiteRTModel, file: schema.ModelT, profile: Any, image: np.ndarray
    ) -> dict[str, Any]:
        """Median ms to each exit, the head last, if a file takes thresholds."""
        if litert.table.first("answer_at") is None:
            return {}
        name, gates = adjustable(litert)
        times = []
        for index in range(gates + 1):
            inputs = {"image": image, "thresholds": limits_to(index, gates)}
            found = litert.benchmark(name, inputs, repeats=REPEATS, warmup=1)
            times.append(found.median_ms)
        return {"exit_ms": tuple(times)}


@plan.register
def _(model: EarlyExitModel, options: Any = None) -> Plan:
    if getattr(options, "ungated", False):  # the net that the exits were added to
        return ClassifierPlan(
            model.trunk, (check_model(model, exported=model.trunk),), options
        )
    return ExitsPlan(model, options)


def _table(stages: int, others: Mapping[str, Role]) -> SignatureTable:
    """What the signatures of a net of so many stages are for."""
    table = SignatureTable(
        {
            "classify": Role("answer", explained_by=EXPLAIN),
            EXPLAIN: Role("witness", explained_by=EXPLAIN),
            "classify_at": Role("answer_at", explained_by=EXPLAIN_AT),
            EXPLAIN_AT: Role("witness_at", explained_by=EXPLAIN_AT),
            **others,
        }
    )
    for index in range(stages):
        follows = _stage(index - 1) if index else None
        table[_stage(index)] = Role("stage", index + 1, follows)
    return table


def _noted(model: EarlyExitModel, tracer: ExitTracer) -> dict[str, Any]:
    """What the file's metadata tell of the exits."""
    per_exit = tracer.profile.per_exit
    names = [*(gate.name for gate in model.gates), HEAD]
    rows = zip(names, [*model.after, None], per_exit, strict=True)
    return {
        "thresholds": np.nan_to_num(model.thresholds).tolist(),  # JSON: no infinity
        "confidence": [gate.confidence for gate in model.gates],
        "mixing": tracer.mixing.tolist(),
        "macs_per_exit": list(per_exit),
        "exits": [
            {
                "name": name,
                "after": after,
                "macs": macs,
                "macs_share": macs / per_exit[-1],
            }
            for name, after, macs in rows
        ],
    }


def _feed(
    functions: dict[str, Any],
    forced: dict[str, int],
    images: np.ndarray,
    blocks: list[int],
    input_type: str,
    nobody: Mapping[str, np.ndarray],
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
            inputs = {"image": picture, "thresholds": thresholds, **nobody}
            for force in forces(sum(blocks), index, [stay] * gates):
                yield EXPLAIN_AT, {**inputs, **force}
            if index % 2:
                route = [stay] * gates
                route[index // 2 % gates] = leave
                for force in forces(sum(blocks), index, route):
                    yield EXPLAIN_AT, {**inputs, **force}
            known: dict[str, Any] = {"image": picture}
            for number, count in enumerate(blocks):
                name = _stage(number)
                wanted = functions[name].structured_input_signature[1]
                takes = {key: x for key, x in known.items() if wanted.get(key)}
                route = [stay] * (forced.get(name, 0) - count)
                for force in forces(count, index, route):
                    yield name, {**takes, **force}
                if number < gates:
                    force = next(forces(count, index, route))
                    known |= call_traced(functions[name], {**takes, **force})

    return feed
