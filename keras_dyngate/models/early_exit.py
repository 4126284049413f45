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
from keras_dyngate._checks import positive_int
from keras_dyngate._logits import plain_logits
from keras_dyngate._registration import serializable
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.calibration.exit_table import ExitOutcome, ExitTable
from keras_dyngate.cost import MacProfile
from keras_dyngate.layers import DecisionGate
from keras_dyngate.models import exit_fitting
from keras_dyngate.models.cut_points import check_trunk, resolve_cuts, split
from keras_dyngate.models.exit_stages import Stage, run_stages
from keras_dyngate.models.exit_training import HEAD, JointTraining


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The stages, kept from Keras: their layers are tracked as the trunk's."""

    stages: tuple[Stage, ...]
    profiles: tuple[MacProfile, ...]


@serializable
class EarlyExitModel(JointTraining):
    """A trunk with decision gates; use `add_decision_gates` to make one.

    Called, it is the dense, differentiable form: every exit of every sample, a dict of
    `[batch, classes]` with the gates' raw scores by name and the trunk's own output as
    "head". `fit` trains all of it jointly, each exit by its own loss; labels are given
    once. `predict` is the dynamic form, see there.

    Args:
        trunk: A functional or Sequential classifier.
        after: Layers of the trunk, a gate after each; see `add_decision_gates`.
        gates: One `DecisionGate` per layer.

    Attributes:
        trunk: The trunk.
        gates: The gates, in the order of the trunk.
        thresholds: `[gates]`, float32; infinity at first: nobody leaves. Set it, or let
            `calibrate` do so. It is saved with the model.
    """

    def __init__(
        self,
        trunk: keras.Model,
        after: Sequence[Any],
        gates: Sequence[DecisionGate],
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_trunk(trunk)
        # Images are not cast here: the trunk does so, by its own policy.
        super().__init__(name=name or f"{trunk.name}_exits", autocast=False, **kwargs)
        self.trunk = trunk
        self.after = tuple(resolve_cuts(trunk, after))
        self.gates = list(gates)
        classes = trunk.output_shape[-1]
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
        parts = split(trunk, self.after)
        _refuse_shared_blocks(parts)
        for part, gate in zip(parts, self.gates, strict=False):
            if not gate.built:
                gate.build(part.output_shape)
        stages = tuple(
            Stage(part, gate, name=part.name)
            for part, gate in zip(parts, [*self.gates, None], strict=True)
        )
        self._parts = _Parts(stages, tuple(stage.profile() for stage in stages))
        self._thresholds = self.add_weight(
            name="thresholds",
            shape=(len(self.gates),),
            initializer=keras.initializers.Constant(np.inf),
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
    def input_shape(self) -> tuple[int | None, ...]:
        return self.trunk.input_shape

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return self.trunk.output_shape

    @property
    def thresholds(self) -> np.ndarray:
        return ops.convert_to_numpy(self._thresholds)

    @thresholds.setter
    def thresholds(self, thresholds: Sequence[float]) -> None:
        before_assign(self)
        self._thresholds.assign(self._checked(thresholds))

    def _checked(self, thresholds: Any) -> np.ndarray:
        found = np.asarray(thresholds, "float32")
        if found.shape != (len(self.gates),) or np.isnan(found).any():
            raise ValueError(
                f"`thresholds` must be {len(self.gates)} numbers, one per gate. "
                f"Received: thresholds={thresholds!r}"
            )
        return found

    @property
    def calibrated(self) -> bool:
        """Whether thresholds were set: not all are still infinite."""
        return not np.isposinf(self.thresholds).all()

    # The dense form

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        stays: Any = 1.0  # per sample: 1 until it leaves
        exits: Any = 0.0
        for index, stage in enumerate(self.stages):
            with _hooks.recording() as found:
                x = stage.part(x, training=training)
            _hooks.relay(found if not index else _masked(found, stays))
            if stage.gate is None:
                outputs[HEAD] = x
                break
            scores = outputs[stage.gate.name] = stage.gate(x)
            goes_on = ops.logical_not(
                stage.gate.confidence_of(scores) >= self._thresholds[index]
            )
            stays = stays * ops.cast(goes_on, "float32")
            exits = exits + stays
        _hooks.relay({"exit": ops.cast(ops.expand_dims(exits, -1), "int32")})
        return outputs

    def compute_output_shape(self, input_shape: Any) -> dict[str, tuple[Any, ...]]:
        shape = (input_shape[0], self.output_shape[-1])
        return {name: shape for name in [*(g.name for g in self.gates), HEAD]}

    def mac_profile(self) -> MacProfile:
        """MACs of every row, with the stage that spends them; `count_macs` asks it."""
        profiles = self._parts.profiles
        rows = tuple(
            dataclasses.replace(row, stage=index)
            for index, profile in enumerate(profiles)
            for row in profile.layers
        )
        return MacProfile(rows, unknown=tuple(x for p in profiles for x in p.unknown))

    # Training: `fit` is joint, see `JointTraining`

    def fit_gates(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 30,
        batch_size: int = 256,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
    ) -> dict[str, exit_fitting.GateFit]:
        """Train the gates on a frozen trunk: its weights and statistics stay as they are.

        The pooled features are computed once; then each gate is a linear model of its
        own. Features are standardized for the fit, and the gate takes the scaling over.

        Args:
            x: Images `[N, ...]`, or a dataset of batches (images, labels).
            y: Class indices `[N]` or one-hot `[N, classes]`; None with a dataset.
            epochs: Of each gate. Default 30.
            batch_size: Of the pass through the trunk, and of the gates' training, where
                it is smaller if the data are few: an epoch has 20 steps or more.
            learning_rate: Of Adam at the start; it falls along a cosine.
            weight_decay: L2 penalty on the weights for standardized features.

        Returns:
            By the gate's name a `GateFit`: loss and accuracy on the data, seconds.
        """
        batch_size = positive_int("batch_size", batch_size)
        features, labels = exit_fitting.pooled_features(self, x, y, batch_size)
        return {
            gate.name: exit_fitting.fit_gate(
                gate,
                features[gate.name],
                labels,
                epochs=positive_int("epochs", epochs),
                batch_size=batch_size,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
            )
            for gate in self.gates
        }

    # The dynamic form

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        *,
        thresholds: Sequence[float] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the model; samples that leave early are not computed any further.

        Args:
            x: Images `[N, ...]`, or a dataset of batches of images or (images, labels).
            batch_size: Of every stage. Default 32.
            verbose: Taken as Keras does, and ignored.
            thresholds: To use instead of the model's.

        Returns:
            A dict of arrays, in the order of `x`: `logits` `[N, classes]`, the raw scores
            of the exit that answered (a gate's scores are on a scale of their own; the
            head's are those before its softmax); `label` `[N]`, their largest; `score`
            `[N]`, the confidence that was compared with the threshold (at the head: the
            largest logit); `exit` `[N]`, the gate's index or, for the head, their
            number; `macs` `[N]`, what was spent, gates and controllers included.
        """
        limits = self.thresholds if thresholds is None else self._checked(thresholds)

        def leaves(index: int, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if index == len(self.gates):
                return np.ones(len(scores), bool), scores.max(-1)
            confidence = self.gates[index].confidence_of(ops.convert_to_tensor(scores))
            found = ops.convert_to_numpy(confidence)
            return found >= limits[index], found

        groups = []
        with plain_logits(self.trunk):
            size = positive_int("batch_size", 32 if batch_size is None else batch_size)
            groups = list(
                run_stages(self.stages, self._parts.profiles, x, size, leaves)
            )
        if not groups:
            raise ValueError("`x` must hold at least one sample. Received: none")
        order = np.argsort(np.concatenate([left.rows for _, left in groups]))

        def in_order(parts: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts)[order]

        logits = in_order([left.scores for _, left in groups])
        exits = [np.full(len(left.rows), index, "int32") for index, left in groups]
        return {
            "logits": logits,
            "label": logits.argmax(-1),
            "score": in_order([left.confidence for _, left in groups]),
            "exit": in_order(exits),
            "macs": in_order([left.macs for _, left in groups]),
        }

    def exit_table(
        self, x: Any, y: Any = None, batch_size: int | None = None
    ) -> ExitTable:
        """What every exit would say of every sample, for `calibrate` and `curve`."""
        return exit_fitting.exit_table(self, x, y, batch_size)

    def calibrate(
        self,
        x: Any,
        y: Any = None,
        *,
        macs: float | None = None,
        accuracy_drop: float | None = None,
        exit_shares: Sequence[float] | None = None,
        latency: float | None = None,
        path_ms: Sequence[float] | None = None,
        batch_size: int | None = None,
    ) -> ExitOutcome:
        """Choose and set the thresholds, on data that is not the test set.

        Give one of `macs`, `accuracy_drop`, `exit_shares` and `latency`.

        Args:
            x: Images, an array or a dataset of batches.
            y: Labels; None with a dataset, and where only `exit_shares` is given.
            macs: Highest mean MACs per sample; thresholds of the best accuracy.
            accuracy_drop: Accuracy that may be lost against the head, 0 to 1; thresholds
                of the fewest MACs.
            exit_shares: Share of samples to leave at each gate.
            latency: Highest mean time, ms; thresholds of the best accuracy.
            path_ms: Measured time of a sample that leaves at each exit, the head last;
                needed with `latency`. `ExportReport.exit_ms` has them for a file.
            batch_size: Of the pass over the data.

        Returns:
            An `ExitOutcome` on this data.

        Raises:
            ValueError: If no thresholds keep to the wish, or for a bad argument.
        """
        wish = exit_fitting.Wish(
            len(self.gates), macs, accuracy_drop, exit_shares, latency, path_ms
        )
        chosen = wish.choose(self.exit_table(x, y, batch_size))
        self.thresholds = chosen.thresholds
        return chosen

    def curve(
        self,
        calibration: Any,
        test: Any,
        *,
        points: int = 39,
        path_ms: Sequence[float] | None = None,
        batch_size: int | None = None,
    ) -> list[ExitOutcome]:
        """Accuracy against MACs, from almost all leaving early to almost none.

        Thresholds come from the confidences on `calibration` alone (its labels are not
        used), and are applied to `test`. The model's own thresholds stay as they are.

        Args:
            calibration: Images, or (images, labels), or an `ExitTable`.
            test: (images, labels), a dataset of such batches, or an `ExitTable`.
            points: Of the sweep over the wished shares; default 39.
            path_ms: As in `calibrate`.
            batch_size: Of the passes over the data.

        Returns:
            An `ExitOutcome` on `test` per point.
        """
        tables = []
        for data in (calibration, test):
            if not isinstance(data, ExitTable):
                x, y = data if isinstance(data, tuple) else (data, None)
                data = self.exit_table(x, y, batch_size)
            tables.append(data)
        return exit_fitting.sweep(*tables, points=points, path_ms=path_ms)

    # Saving

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "trunk": serialize(self.trunk),
            "after": list(self.after),
            "gates": [serialize(gate) for gate in self.gates],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        read = keras.saving.deserialize_keras_object
        config = dict(config)
        config["trunk"] = read(config["trunk"], custom_objects=custom_objects)
        config["gates"] = [read(gate) for gate in config["gates"]]
        return cls(**config)


def _refuse_shared_blocks(parts: Sequence[keras.Model]) -> None:
    """A block that decides in two stages would do so under one name."""
    calls = Counter(
        name for part in parts for name in {b.name for b in dynamic_layers(part)}
    )
    if shared := [name for name, count in calls.items() if count > 1]:
        raise ValueError(
            "`after` must not part two calls of one block that decides. "
            f"Received: a gate between the calls of {shared}"
        )


def _masked(decisions: dict[str, Any], stays: Any) -> dict[str, Any]:
    """Decisions of a later stage: 0 for the samples that left before it."""
    return {
        name: scores * ops.cast(ops.expand_dims(stays, -1), scores.dtype)
        for name, scores in decisions.items()
    }


def add_decision_gates(
    model: keras.Model,
    after: Sequence[Any],
    *,
    pooling: str | Sequence[str] = "avg",
    objective: str = "hinge",
    confidence: str = "score",
    name: str | None = None,
) -> EarlyExitModel:
    """Put decision gates on a classifier.

    Args:
        model: Any functional or Sequential classifier with one input and one output:
            this library's, gated ones included, or one of keras.applications. Its layers
            and weights are shared, not copied.
        after: Where: names of layers, indices into `model.layers`, or points of
            `cut_points(model)`, in the order of execution.
        pooling: Of the gates, or one per gate; see `DecisionGate`.
        objective: "hinge" (default) or "cross_entropy".
        confidence: "score" (default), "distance", "margin" or "entropy".
        name: Of the new model.

    Returns:
        An `EarlyExitModel` whose gates are untrained and whose thresholds are infinite.

    Raises:
        ValueError: If the model cannot carry exits, or cannot be cut after a layer (the
            message names the nearest cut points), or for a bad argument.
    """
    check_trunk(model)
    names = resolve_cuts(model, after)
    poolings = [pooling] * len(names) if isinstance(pooling, str) else list(pooling)
    if len(poolings) != len(names):
        raise ValueError(
            f"`pooling` must be one name, or one per gate ({len(names)}). "
            f"Received: pooling={pooling!r}"
        )
    gates = [
        DecisionGate(
            model.output_shape[-1],
            pooling=kind,
            objective=objective,
            confidence=confidence,
            name=f"gate_{index}",
        )
        for index, kind in enumerate(poolings, 1)
    ]
    return EarlyExitModel(model, names, gates, name=name)
