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
from keras_dyngate._graph import Part, flat_graph
from keras_dyngate._logits import raw_operation, squashing_call
from keras_dyngate._registration import serializable
from keras_dyngate._saving import refuse_legacy_file
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.calibration.exit_table import ExitOutcome, ExitTable
from keras_dyngate.calibration.wish import Wish, sweep
from keras_dyngate.cost import MacProfile
from keras_dyngate.layers import DecisionGate
from keras_dyngate.models import exit_fitting
from keras_dyngate.models.cut_points import check_trunk
from keras_dyngate.models.cutting import resolve_cuts, split
from keras_dyngate.models.exit_data import fitting
from keras_dyngate.models.exit_prediction import DynamicPrediction
from keras_dyngate.models.exit_stages import Stage
from keras_dyngate.models.exit_training import HEAD


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The stages, kept from Keras: their layers are tracked as the trunk's."""

    stages: tuple[Stage, ...]
    raw_head: Stage
    profiles: tuple[MacProfile, ...]


@serializable
class EarlyExitModel(DynamicPrediction):
    """A trunk with decision gates; use `add_decision_gates` to make one.

    Called, it is the dense, differentiable form: every exit of every sample, a dict of
    `[batch, classes]` with the gates' raw scores by name and the trunk's own output as
    "head". `fit` trains all of it jointly, each exit by its own loss; labels are given
    once. `predict` is the dynamic form, see there, and `evaluate` judges that.

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
        parts = split(trunk, self.after)
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
        _refuse_shared_blocks(parts)
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
    def stage_profiles(self) -> tuple[MacProfile, ...]:
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
    def calibrated(self) -> bool:
        """Whether thresholds were set: not all are still infinite."""
        return not np.isposinf(self.thresholds).all()

    # The dense form

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        stays: Any = 1.0  # per sample: 1 until it leaves
        exits: Any = 0.0
        (x,) = (fitting(image, self.input_shape) for image in keras.tree.flatten(x))
        for index, stage in enumerate(self.stages):
            with _hooks.recording() as found:
                x = stage.part(x, training=training)
            _hooks.relay(found if not index else _masked(found, stays))
            if stage.gate is None:
                outputs[HEAD] = x
                break
            scores = outputs[stage.gate.name] = stage.gate(x)
            # Not `logical_not`: TensorFlow makes that of >= a <, false for NaN too.
            leaves = stage.gate.confidence_of(scores) >= self._thresholds[index]
            stays = stays * (1.0 - ops.cast(leaves, "float32"))
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
        sample_weight: Any = None,
        epochs: int = 30,
        batch_size: int = 256,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
    ) -> dict[str, exit_fitting.GateFit]:
        """Train the gates on a frozen trunk: its weights and statistics stay as they are.

        The pooled features are computed once; then each gate is a linear model of its
        own. Features are standardized for the fit, and the gate takes the scaling over.

        Args:
            x: Images `[N, ...]`, or a dataset of batches (images, labels) or (images,
                labels, weights).
            y: Class indices `[N]` or one-hot `[N, classes]`, of one output 0 or 1; None
                with a dataset.
            sample_weight: How much each sample counts, `[N]`, 0 or more; only their
                ratios matter. None with a dataset.
            epochs: Of each gate. Default 30.
            batch_size: Of the pass through the trunk, and of the gates' training, where
                it is smaller if the data are few: an epoch has 20 steps or more.
            learning_rate: Of Adam at the start; it falls along a cosine.
            weight_decay: L2 penalty on the weights for standardized features.

        Returns:
            By the gate's name a `GateFit`: loss and accuracy on the data, seconds.

        Raises:
            ValueError: For labels that are no classes of the net, images of another
                shape, or a bad argument.
        """
        batch_size = positive_int("batch_size", batch_size)
        epochs = positive_int("epochs", epochs)
        features, labels, weights = exit_fitting.pooled_features(
            self, x, y, sample_weight, batch_size
        )
        return {
            gate.name: exit_fitting.fit_gate(
                gate,
                features[gate.name],
                labels,
                weights,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
            )
            for gate in self.gates
        }

    def exit_table(
        self, x: Any, y: Any = None, batch_size: int | None = None
    ) -> ExitTable:
        """What every exit would say of every sample, for `calibrate` and `curve`.

        A dataset may have weights; here every sample counts once.
        """
        return exit_fitting.exit_table(self, x, y, batch_size)

    def calibrate(
        self,
        x: Any,
        y: Any = None,
        *,
        macs: float | None = None,
        accuracy_drop: float | None = None,
        agreement: float | None = None,
        exit_shares: Sequence[float] | None = None,
        latency: float | None = None,
        path_ms: Sequence[float] | None = None,
        confidence: float | None = None,
        batch_size: int | None = None,
    ) -> ExitOutcome:
        """Choose and set the thresholds, on data that is not the test set.

        Give one of `macs`, `accuracy_drop`, `agreement`, `exit_shares` and `latency`.

        Args:
            x: Images, an array or a dataset of batches; weights that it may have do not
                count here.
            y: Labels; None with a dataset, and where only `exit_shares` or `agreement`
                is given.
            macs: Highest mean MACs per sample; thresholds of the best accuracy.
            accuracy_drop: Accuracy that may be lost against the head, -1 to 1 (below 0:
                that has to be won); thresholds of the fewest MACs, or of the least time
                where `path_ms` is given. The wish is kept on this data; on other data
                more may be lost, the more so the fewer samples these are: see
                `confidence`.
            agreement: Share of samples, 0 to 1, whose answer is to be the head's; needs
                no labels, else as `accuracy_drop`.
            exit_shares: Share of samples to leave at each gate.
            latency: Highest mean time, ms; thresholds of the best accuracy.
            path_ms: Measured time of a sample that leaves at each exit, the head last;
                needed with `latency`. `ExportReport.exit_ms` has them for a file.
            confidence: Of a promise: with at least this probability, above 0 and at most
                0.999, the thresholds keep to `accuracy_drop` or `agreement` on fresh
                data. They are tested on four fifths of the data, which takes 288 samples
                for a drop of .01 at .9, and more to save much; `ExitOutcome.promise`
                says how many. Default None: nothing is promised.
            batch_size: Of the pass over the data.

        Returns:
            An `ExitOutcome` on this data.

        Raises:
            ValueError: If no thresholds keep to the wish, for too few samples to promise
                it, or for a bad argument.
        """
        wish = Wish(
            len(self.gates),
            macs=macs,
            accuracy_drop=accuracy_drop,
            agreement=agreement,
            exit_shares=exit_shares,
            latency=latency,
            path_ms=path_ms,
            confidence=confidence,
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
        return sweep(*tables, points=points, path_ms=path_ms)

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
