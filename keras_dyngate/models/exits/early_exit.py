"""Early exits on any classifier: decision gates at some of its cut points.

    model = add_decision_gates(trunk, after=["stage1_block9", "stage2_block9"])
    model.fit_gates(x_train, y_train)
    print(model.calibrate(x_val, y_val, accuracy_drop=0.01))
    model.predict(x)["label"]

A sample leaves at the first gate whose confidence reaches its threshold; the trunk's own
head answers for the others.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._backend import before_assign
from keras_dyngate._checks import boolean
from keras_dyngate._graph import Part, flat_graph
from keras_dyngate._logits import raw_operation, squashing_call
from keras_dyngate._registration import serializable
from keras_dyngate._saving import refuse_legacy_file
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.cost import CostTable
from keras_dyngate.layers import ExitGate
from keras_dyngate.models.exits.cut_points import check_trunk
from keras_dyngate.models.exits.cutting import resolve_cuts, split
from keras_dyngate.models.exits.data import fitting
from keras_dyngate.models.exits.learning import TaughtExits
from keras_dyngate.models.exits.stages import Stage
from keras_dyngate.models.exits.thresholds import CalibratedExits
from keras_dyngate.models.exits.training import HEAD


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The stages, kept from Keras: their layers are tracked as the trunk's."""

    stages: tuple[Stage, ...]
    raw_head: Stage
    profiles: tuple[CostTable, ...]


@serializable
class EarlyExitModel(TaughtExits, CalibratedExits):
    """A trunk with decision gates; use `add_decision_gates` to make one.

    Called, it is the dense, differentiable form: every exit of every sample, a dict of
    `[batch, classes]` with the gates' raw scores by name and the trunk's own output as
    "head". `fit` trains all of it jointly, each exit by its own loss; labels are given
    once. `predict` is the dynamic form, see there, and `evaluate` judges that.

    Args:
        trunk: A functional or Sequential classifier.
        after: Layers of the trunk, a gate after each; see `add_decision_gates`. The
            trunk's input may come first, "input": the gate there is a net of its own. More
            such nets stand after layers without MACs, as `keras.layers.Identity`.
        gates: One `DecisionGate` or `ExitHead` per place.
        combine: Whether an exit answers with a weighted geometric mean of its own and
            all earlier exits' probabilities; `calibrate` fits the weights. After Wolczyk
            et al., Zero Time Waste, NeurIPS 2021, arXiv 2106.05409.

    Attributes:
        trunk: The trunk.
        gates: The gates, in the order of the trunk.
        thresholds: `[gates]`, float32; infinity at first: nobody leaves. Set it, or let
            `calibrate` do so. It is saved with the model.
        mixing: `[gates + 1, gates + 1]`, float32: exit k answers with the sum over j of
            `mixing[k, j]` times the raw scores of exit j, whose softmax is that mean.
            The unit matrix at first: each answers alone. A diagonal one is temperature
            scaling (Guo et al., ICML 2017). Saved with the model.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        x = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3))
        model = kd.add_decision_gates(net, after=["early"])  # an `EarlyExitModel`
        model.fit_gates(x, np.arange(8) % 4)
        print(model.calibrate(x, np.arange(8) % 4, accuracy_drop=0.0))
        found = model.predict(x, verbose=0)  # logits, label, score, exit (from 0), macs
        ```
    """

    def __init__(
        self,
        trunk: keras.Model,
        after: Sequence[Any],
        gates: Sequence[ExitGate],
        combine: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_trunk(trunk)
        # Images are not cast here: the trunk does so, by its own policy.
        super().__init__(name=name or f"{trunk.name}_exits", autocast=False, **kwargs)
        self.trunk = trunk
        self.after = tuple(resolve_cuts(trunk, after, at_input=True))
        self.gates = list(gates)
        parts = split(trunk, self.after, at_input=True)
        classes = parts[-1].output_shape[-1]
        if len(self.gates) != len(self.after) or any(
            gate.classes != classes for gate in self.gates
        ):
            raise ValueError(
                f"`gates` must be {len(self.after)} gates of {classes} classes. "
                f"Received: {[gate.classes for gate in self.gates]}"
            )
        names = [*(gate.name for gate in self.gates), HEAD]
        if len(set(names)) < len(names):
            raise ValueError(
                f"`gates` must have names of their own, none of them {HEAD!r}. "
                f"Received: {names[:-1]}"
            )
        self.combine = boolean("combine", combine)
        if combine and any(gate.confidence == "distance" for gate in self.gates):
            raise ValueError(
                "`combine` goes with confidences of scores, not with 'distance'. "
                f"Received: combine={combine!r}"
            )
        _refuse_shared_blocks(parts, self.gates)
        for part, gate in zip(parts, self.gates, strict=False):
            if not gate.built:
                gate.build(part.output_shape)
        stages = tuple(
            Stage(part, gate, name=part.name)
            for part, gate in zip(parts, [*self.gates, None], strict=True)
        )
        last = flat_graph(parts[-1])
        assert last is not None
        self._probabilities = squashing_call(last) is not None
        raw = Part(parts[-1].stretch, raw_operation(last), name=f"{parts[-1].name}_raw")
        self._parts = _Parts(
            stages,
            Stage(raw, None, name=raw.name),
            tuple(stage.profile() for stage in stages),
        )
        self._thresholds = self.add_weight(
            name="thresholds",
            shape=(len(self.gates),),
            initializer=keras.initializers.Constant(np.inf),
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        exits = len(self.gates) + 1
        self._mixing = self.add_weight(
            name="mixing",
            shape=(exits, exits),
            initializer=keras.initializers.Identity(),
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        self.built = True

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages: one more than there are gates."""
        return self._parts.stages

    @property
    def raw_stages(self) -> tuple[Stage, ...]:
        """The stages; the last gives raw scores, whatever the trunk ends in."""
        return (*self._parts.stages[:-1], self._parts.raw_head)

    @property
    def stage_profiles(self) -> tuple[CostTable, ...]:
        """MACs of each stage."""
        return self._parts.profiles

    @property
    def ends_in_probabilities(self) -> bool:
        """Whether the trunk ends in a softmax or sigmoid."""
        return self._probabilities

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return tuple(self.stages[0].part.input_shape)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return tuple(self.stages[-1].part.output_shape)

    @property
    def thresholds(self) -> np.ndarray:
        return ops.convert_to_numpy(self._thresholds)

    @thresholds.setter
    def thresholds(self, thresholds: Sequence[float]) -> None:
        before_assign(self)
        self._thresholds.assign(self.checked_thresholds(thresholds))

    @property
    def mixing(self) -> np.ndarray:
        return ops.convert_to_numpy(self._mixing)

    @mixing.setter
    def mixing(self, mixing: Any) -> None:
        exits = len(self.gates) + 1
        try:
            found = np.asarray(mixing, "float32")
        except (TypeError, ValueError):  # no numbers
            found = np.empty(0)
        fits = found.shape == (exits, exits) and np.isfinite(found).all()
        if not fits or np.triu(found, 1).any() or not (np.diag(found) > 0).all():
            raise ValueError(
                f"`mixing` must be a lower triangular matrix of {exits} rows, one per "
                f"exit, with a diagonal above 0. Received: mixing={mixing!r}"
            )
        before_assign(self)
        self._mixing.assign(found)

    @property
    def mixes(self) -> bool:
        """Whether an exit answers with more than its own raw scores."""
        return not np.array_equal(self.mixing, np.eye(len(self.gates) + 1))

    def answer(self, index: int, so_far: np.ndarray) -> np.ndarray:
        weights = self.mixing[index, : index + 1]
        return np.einsum("k,nkc->nc", weights, so_far)

    @property
    def calibrated(self) -> bool:
        """Whether thresholds were set: not all are still infinite."""
        return not np.isposinf(self.thresholds).all()

    # The dense form

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        stays: Any = 1.0  # per sample: 1 until it leaves
        exits: Any = 0.0
        so_far: list[Any] = []
        (x,) = (fitting(image, self.input_shape) for image in keras.tree.flatten(x))
        for index, stage in enumerate(self.stages):
            with _hooks.recording() as found:
                x = stage.part(x, training=training)
                if stage.gate is not None:
                    scores = stage.gate(x, training=training)
            _hooks.relay(found if not index else _masked(found, stays))
            if stage.gate is None:
                outputs[HEAD] = x
                break
            outputs[stage.gate.name] = scores
            so_far.append(scores)
            weights = ops.reshape(self._mixing[index, : index + 1], (-1, 1, 1))
            scores = ops.sum(weights * ops.stack(so_far), axis=0)
            # Not `logical_not`: TensorFlow makes that of >= a <, false for NaN too.
            leaves = stage.gate.confidence_of(scores) >= self._thresholds[index]
            stays = stays * (1.0 - ops.cast(leaves, "float32"))
            exits = exits + stays
        _hooks.relay({"exit": ops.cast(ops.expand_dims(exits, -1), "int32")})
        return outputs

    def compute_output_shape(self, input_shape: Any) -> dict[str, tuple[Any, ...]]:
        shape = (input_shape[0], self.output_shape[-1])
        return {name: shape for name in [*(g.name for g in self.gates), HEAD]}

    def mac_profile(self) -> CostTable:
        """MACs of every row, with the stage that spends them; `count_macs` asks it."""
        profiles = self._parts.profiles
        rows = tuple(
            dataclasses.replace(row, stage=index)
            for index, profile in enumerate(profiles)
            for row in profile.layers
        )
        return CostTable(rows, unknown=tuple(x for p in profiles for x in p.unknown))

    # Saving

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; only `.keras` files can hold it."""
        refuse_legacy_file(filepath)
        super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "trainable": self.trainable,
            "trunk": serialize(self.trunk),
            "after": list(self.after),
            "gates": [serialize(gate) for gate in self.gates],
            "combine": self.combine,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        read = keras.saving.deserialize_keras_object
        config = dict(config)
        config["trunk"] = read(config["trunk"], custom_objects=custom_objects)
        config["gates"] = [read(gate) for gate in config["gates"]]
        return cls(**config)


def _refuse_shared_blocks(parts: Sequence[Any], gates: Sequence[Any]) -> None:
    """A block that decides in two stages would do so under one name."""

    def shared(nets: Sequence[Any]) -> list[str]:
        every = (
            name
            for net in nets
            for name in {b.name for b in dynamic_layers(net) if list(b.decisions())}
        )
        return sorted(name for name, count in Counter(every).items() if count > 1)

    if names := shared(parts):
        raise ValueError(
            "`after` must not part two calls of one block that decides. "
            f"Received: a gate between the calls of {names}"
        )
    if names := shared([*parts, *gates]):
        raise ValueError(
            "`gates` must hold blocks that decide with names of their own. "
            f"Received: {names} in several of trunk and gates"
        )


def _masked(decisions: dict[str, Any], stays: Any) -> dict[str, Any]:
    """Decisions of a later stage: 0 for the samples that left before it."""
    return {
        name: scores * ops.cast(ops.expand_dims(stays, -1), scores.dtype)
        for name, scores in decisions.items()
    }
