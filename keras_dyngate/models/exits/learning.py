"""How the exits of a net learn: linear gates by a fit, heads and first nets taught."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._checks import positive_int
from keras_dyngate.layers import DecisionGate
from keras_dyngate.models.exits import fitting as exit_fitting
from keras_dyngate.models.exits import teaching as exit_teaching
from keras_dyngate.models.exits.prediction import DynamicPrediction
from keras_dyngate.models.exits.training import HEAD


class TaughtExits(DynamicPrediction):
    """Base of a net with exits: its `fit_gates`; `fit` is joint, see `JointTraining`."""

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
                .8 to 1.2 as bright; "strong", crops of .45 to 1, up to half as wide
                again, .65 to 1.35 as bright, other contrast and colors: for first nets
                that are taught long; a Keras layer, or a function of a batch of float32
                images; None; "auto" (default), "photos" for pictures of 64 pixels and
                more.
            validation_data: (images, labels) or such a dataset; heads are judged on it
                after every epoch.
            joint_epochs: Epochs in which then all weights learn together, at half the
                rate. The trunk is the net that was given, not a copy: its weights change
                too, and the statistics of its batch normalization unless that is frozen.
                Every exit and the head learn from the net as it was; linear gates and a
                first net are fitted after it. If the head loses on `validation_data`
                (on a tenth of `x` held out, without), the exits of the frozen trunk are
                kept, with a warning. Default 0.
            callbacks: Keras callbacks for the teaching of heads, such as
                `EarlyStopping("val_loss", restore_best_weights=True)`.
            checkpoint: Path: the teaching of heads is kept beside it, by phase, and gone
                on with when called again with the same pictures, net and settings.
            verbose: "auto" (default): a line per epoch, with the time left; else as in
                `keras.Model.fit`.
            seed: Of what is random in the pictures: order, variation, mixtures.

        Returns:
            By the exit's name a `GateFit`, of "head" too if it learned. Accuracies of
            heads are NaN where there were no labels, or a checkpoint was at its end.

        Warns:
            UserWarning: If the head lost by joint training, or an exit is right on
                `validation_data` no oftener than one label for all.

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
