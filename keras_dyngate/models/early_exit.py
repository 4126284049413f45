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
from keras_dyngate._checks import boolean, positive_int
from keras_dyngate._graph import Part, flat_graph
from keras_dyngate._logits import raw_operation, squashing_call
from keras_dyngate._registration import serializable
from keras_dyngate._saving import refuse_legacy_file
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.calibration.exit_table import ExitOutcome, ExitTable
from keras_dyngate.calibration.mixing import fit_mixing
from keras_dyngate.calibration.promise import path_rows
from keras_dyngate.calibration.wish import Wish, sweep
from keras_dyngate.cost import MacProfile
from keras_dyngate.layers import DecisionGate, ExitGate
from keras_dyngate.models import exit_fitting, exit_teaching
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
        after: Layers of the trunk, a gate after each; see `add_decision_gates`. The
            trunk's input may come first: the gate there is a net of its own.
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
        if not fits or np.triu(found, 1).any():
            raise ValueError(
                f"`mixing` must be a lower triangular matrix of {exits} rows, one per "
                f"exit. Received: mixing={mixing!r}"
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
            _hooks.relay(found if not index else _masked(found, stays))
            if stage.gate is None:
                outputs[HEAD] = x
                break
            scores = outputs[stage.gate.name] = stage.gate(x, training=training)
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
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        teacher: Any = "trunk",
        temperature: float = 2.0,
        label_share: float = 0.5,
        mixtures: float | None = None,
        augmentation: Any = "auto",
        validation_data: Any = None,
        joint_epochs: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        checkpoint: Any = None,
        verbose: Any = "auto",
        seed: int = 0,
    ) -> dict[str, exit_fitting.GateFit]:
        """Train the exits on a frozen trunk, and then, if wished, all together.

        Linear gates: the pooled features are computed once; then each gate is a linear
        model of its own, fitted to the labels, or to the trunk's where there are none.
        Features are standardized for the fit, and the gate takes the scaling over.

        Heads and a first net: pictures stream through the trunk once per epoch for all
        of them, varied anew, every other batch mixtures of two pictures; they learn the
        trunk's own answers and the labels. Adam, a rate that rises over one epoch and
        falls along a cosine; a first net has half of it. Trunk weights and statistics
        stay as they are.

        Args:
            x: Images `[N, ...]`, or a dataset of batches of images, (images, labels) or
                (images, labels, weights).
            y: Class indices `[N]` or one-hot `[N, classes]`, of one output 0 or 1; None
                with a dataset, and for images that only the teacher knows.
            sample_weight: How much each sample counts, `[N]`, 0 or more; only their
                ratios matter. None with a dataset.
            epochs: Default 30 of each linear gate, 24 of heads and first nets.
            batch_size: Default 256 for linear gates, where it is smaller if the data are
                few: an epoch has 20 steps or more; 32 for heads. A dataset has its own.
            learning_rate: Of Adam: default .01 for linear gates, 2e-3 for heads.
            weight_decay: Of linear gates an L2 penalty on the weights for standardized
                features, default 1e-4; of heads decoupled, default 1e-3, of a first net
                1e-4.
            teacher: Of heads: "trunk" (default), None, or another Keras classifier of
                the same images and classes.
            temperature: Of teacher and students (Hinton et al. 2015). Default 2.
            label_share: Weight of the labels in a head's loss; the teacher has the rest.
                Default .5.
            mixtures: Share of batches that are mixtures of two images, which the teacher
                alone answers. Default .5, without a teacher 0.
            augmentation: Of heads: "photos", crops of .7 to 1 of the sides, mirrored,
                .8 to 1.2 as bright; a Keras layer, or a function of a batch of float32
                images; None; "auto" (default), "photos" for pictures of 64 pixels and
                more.
            validation_data: (images, labels) or such a dataset; heads are judged on it
                after every epoch.
            joint_epochs: Epochs in which then all weights learn together, at a lower
                rate (the trunk's is 1e-4): every exit and the head by the net as it was,
                batch normalization of the trunk frozen; linear gates and a first net are
                fitted after it. If the head loses on `validation_data` (on a tenth of
                `x` held out, without), the exits of the frozen trunk are kept, with a
                warning. Default 0.
            callbacks: Keras callbacks for the teaching of heads, such as
                `EarlyStopping("val_loss", restore_best_weights=True)`.
            checkpoint: Path: the teaching of heads is kept beside it, by phase, and gone
                on with when called again.
            verbose: "auto" (default): a line per epoch, with the time left; else as in
                `keras.Model.fit`.
            seed: Of what is random in the pictures: order, variation, mixtures.

        Returns:
            By the exit's name a `GateFit`, of "head" too if it learned.

        Raises:
            ValueError: For labels that are no classes of the net, images of another
                shape, or a bad argument.

        References:
            Exits taught by the net's own last answer: Zhang et al., Be your own teacher,
            ICCV 2019; Phuong and Lampert, Distillation-based training for multi-exit
            architectures, ICCV 2019. Sizes, mixtures and rates are designs of this
            library.
        """
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value is not None:
                positive_int(name, value)
        if hasattr(x, "__next__"):
            x = list(x)  # read more than once
        linear = [gate for gate in self.gates if isinstance(gate, DecisionGate)]
        found: dict[str, exit_fitting.GateFit] = {}
        if len(linear) < len(self.gates):
            recipe = exit_teaching.Recipe(
                epochs=24 if epochs is None else epochs,
                batch_size=32 if batch_size is None else batch_size,
                learning_rate=2e-3 if learning_rate is None else learning_rate,
                weight_decay=1e-3 if weight_decay is None else weight_decay,
                teacher=teacher,
                temperature=temperature,
                label_share=label_share,
                mixtures=mixtures,
                augmentation=augmentation,
                joint_epochs=joint_epochs,
                callbacks=callbacks,
                checkpoint=checkpoint,
                verbose=verbose,
                seed=seed,
            )
            found = exit_teaching.teach(
                self, recipe, x, y, sample_weight, validation_data
            )
        elif joint_epochs:
            raise ValueError(
                "`joint_epochs` teaches heads; train linear gates and the trunk together "
                f"with `compile` and `fit`. Received: joint_epochs={joint_epochs!r}"
            )
        if linear:
            size = 256 if batch_size is None else batch_size
            features, labels, weights = exit_fitting.pooled_features(
                self, x, y, sample_weight, size, taught=teacher is not None
            )
            for gate in linear:
                found[gate.name] = exit_fitting.fit_gate(
                    gate,
                    features[gate.name],
                    labels,
                    weights,
                    epochs=30 if epochs is None else epochs,
                    batch_size=size,
                    learning_rate=0.01 if learning_rate is None else learning_rate,
                    weight_decay=1e-4 if weight_decay is None else weight_decay,
                )
        names = [*(gate.name for gate in self.gates), HEAD]
        return {name: found[name] for name in names if name in found}

    def exit_table(
        self, x: Any, y: Any = None, batch_size: int | None = None
    ) -> ExitTable:
        """What every exit would say of every sample, for `calibrate` and `curve`.

        A dataset may have weights; here every sample counts once.
        """
        return exit_fitting.exit_scores(self, x, y, batch_size).table(self)

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
        found = exit_fitting.exit_scores(self, x, y, batch_size)
        before = self.mixing
        self._fit_mixing(
            found if confidence is None else found.take(path_rows(len(found.scores)))
        )
        try:
            chosen = wish.choose(found.table(self))
        except ValueError:
            self.mixing = before
            raise
        self.thresholds = chosen.thresholds
        return chosen

    def fit_mixing(
        self, x: Any, y: Any = None, *, batch_size: int | None = None
    ) -> np.ndarray:
        """Fit and set how much each exit's scores count, on data that is not the test set.

        With `combine` the weights of all exits up to each; else temperatures alone, and
        these only if a confidence is "probability" or "entropy". `calibrate` does it too;
        where it promises something, on other samples than it tests.

        Args:
            x, y: As in `calibrate`, with labels.
            batch_size: Of the pass over the data.

        Returns:
            The new `mixing`, `[gates + 1, gates + 1]`.

        Raises:
            ValueError: For data without labels.
        """
        found = exit_fitting.exit_scores(self, x, y, batch_size)
        if found.truth is None:
            raise ValueError("`y` must be given with images. Received: y=None")
        self._fit_mixing(found)
        return self.mixing

    def _fit_mixing(self, found: exit_fitting.ExitScores) -> None:
        scaled = any(g.confidence in ("probability", "entropy") for g in self.gates)
        if found.truth is not None and (self.combine or scaled):
            self.mixing = fit_mixing(found.scores, found.truth, combine=self.combine)

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
            "combine": self.combine,
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
