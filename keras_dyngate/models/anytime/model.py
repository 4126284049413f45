"""Anytime nets: K nested sub-networks in one model, thin ones first.

model = sliced_resnet(blocks=2, width=256, subnetworks=4)
model.compile("sgd", metrics=["accuracy"])      # the loss is an AnytimeLoss
model.fit(x_train, y_train)                     # logs accuracy_1 to accuracy_4
model.predict_at(2, x)                          # scores of sub-network 2
for k, logits in model.anytime(x):              # each step adds to the last
    ...
print(model.evaluate_anytime((x_test, y_test)))
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._checks import member
from keras_dyngate._registration import serializable
from keras_dyngate._saving import refuse_legacy_file
from keras_dyngate.cost import CostTable, used_parameters
from keras_dyngate.cost.counter import model_profile
from keras_dyngate.losses.anytime_loss import AnytimeLoss
from keras_dyngate.metrics.anytime_accuracy import anytime_accuracies
from keras_dyngate.models.anytime.config import AnytimeConfig
from keras_dyngate.models.anytime.curve import AnytimeCurve, anytime_curve
from keras_dyngate.models.anytime.inclusive_network import InclusiveNetwork
from keras_dyngate.models.anytime.network import Network
from keras_dyngate.models.anytime.sliced_network import SlicedNetwork
from keras_dyngate.taxonomy import HierarchicalTaxonomy

NEVER = -1e9  # score of a class that a coarse head does not have


def carried_name(name: str, j: int) -> str:
    """What step j left under a name, as inputs and outputs call it."""
    return f"{name}_{j}"


def _network(config: AnytimeConfig) -> Network:
    inclusive = config.family == "inclusive_resnext"
    return InclusiveNetwork(config) if inclusive else SlicedNetwork(config)


@dataclasses.dataclass
class _Views:
    """Models over the same layers, made when asked for; kept from Keras' tracking."""

    network: Network
    scores: dict[int, keras.Model] = dataclasses.field(default_factory=dict)
    subnetworks: dict[int, keras.Model] = dataclasses.field(default_factory=dict)
    steps: list[keras.Model] = dataclasses.field(default_factory=list)


@serializable
class AnytimeModel(keras.Model):
    """K sub-networks over shared weights; made by `inclusive_resnext` and its kin.

    Called, it gives the outputs of all sub-networks, `[batch, K, classes]`; a coarse
    head's classes are the first ones, the rest is probability 0 (score -1e9).

    Args:
        name: Of the model.
        **config: See `AnytimeConfig`.

    Attributes:
        subnetworks: K.
        taxonomy: A `HierarchicalTaxonomy`, or None.
        coarse_heads: How many of the first heads answer its coarse labels.

    Example:
        ```python
        model = kd.sliced_resnet(blocks=1, width=16, subnetworks=2)
        x = np.zeros((1, 32, 32, 3))
        for k, logits in model.anytime(x):  # each step computes its own slice only
            print(k, logits.shape)
        small = model.subnetwork(1)  # a net of its own, which shares the weights
        ```
    """

    def __init__(self, name: str | None = None, **config: Any) -> None:
        made = AnytimeConfig(**config)
        network = _network(made)
        image = keras.Input(made.input_shape, name="image")
        padded = [
            ops.pad(
                scores,
                [[0, 0], [0, made.classes - scores.shape[-1]]],
                constant_values=NEVER,
            )
            if scores.shape[-1] < made.classes
            else scores
            for scores in network.every(image)
        ]
        outputs = ops.stack(padded, axis=1)
        activation = keras.layers.Activation(
            made.classifier_activation, dtype="float32", name="predictions"
        )
        super().__init__(image, activation(outputs), name=name or made.family)
        self._made, self._views = made, _Views(network)
        self._head_activation = activation

    @property
    def family(self) -> str:
        """Which constructor made it: "inclusive_resnext", "sliced_resnext", ..."""
        return self._made.family

    @property
    def network(self) -> Network:
        """The layers, and how sub-networks run through them."""
        return self._views.network

    @property
    def subnetworks(self) -> int:
        return self._made.subnetworks

    @property
    def taxonomy(self) -> HierarchicalTaxonomy | None:
        return self._made.taxonomy

    @property
    def coarse_heads(self) -> int:
        return self._made.coarse_heads

    # Training

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`, for outputs `[batch, K, classes]`.

        Args:
            optimizer: As in Keras.
            loss: Default: an `AnytimeLoss` that suits the net.
            loss_weights: As in Keras; weights of sub-networks are the loss's.
            metrics, weighted_metrics: As in Keras; "accuracy" stands for an
                `AnytimeAccuracy` of every sub-network, and with a taxonomy of every
                level it answers.
            **kwargs: As in Keras.
        """
        if loss is None:
            softmax = self._head_activation.activation is keras.activations.softmax
            loss = AnytimeLoss(
                from_logits=not softmax,
                taxonomy=self.taxonomy,
                coarse_heads=self.coarse_heads,
            )
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=self._expanded(metrics),
            weighted_metrics=self._expanded(weighted_metrics),
            **kwargs,
        )

    def _expanded(self, metrics: Any) -> Any:
        """Metrics with one per sub-network and level instead of "accuracy"."""
        if not isinstance(metrics, (list, tuple)):
            return metrics
        found: list[Any] = []
        for metric in metrics:
            if metric in ("accuracy", "acc"):
                found += anytime_accuracies(
                    self.subnetworks, self.taxonomy, self.coarse_heads
                )
            else:
                found.append(metric)
        return found

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does, which skips models that override `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    # Use

    def subnetwork(self, k: int) -> keras.Model:
        """Sub-network k alone, a functional model over the same weights.

        It takes images and gives `[batch, classes]`: of the coarse classes, if its head
        is coarse. What it does not use of a layer it does not compute.
        """
        views = self._views
        if member("k", k, self.subnetworks) not in views.subnetworks:
            scores = self._scores(k)
            head = keras.layers.Activation(
                self._head_activation.activation, dtype="float32", name="predictions"
            )
            views.subnetworks[k] = keras.Model(
                scores.inputs[0], head(scores.outputs[0]), name=f"{self.name}_{k}"
            )
        return views.subnetworks[k]

    def _scores(self, k: int) -> keras.Model:
        """Sub-network k without the activation at its end."""
        views = self._views
        if member("k", k, self.subnetworks) not in views.scores:
            image = keras.Input(self.input_shape[1:], name="image")
            scores = views.network.at(k, image)
            views.scores[k] = keras.Model(image, scores, name=f"{self.name}_{k}_scores")
        return views.scores[k]

    def steps(self) -> list[keras.Model]:
        """The steps from one sub-network to the next; dicts in, dicts out."""
        steps: list[keras.Model] = self._views.steps
        kept: dict[str, Any] = {}
        for k in range(len(steps) + 1, self.subnetworks + 1):
            steps.append(self._step(k, kept))
            kept |= {key: x for key, x in steps[-1].output.items() if key != "logits"}
        return steps

    def _step(self, k: int, kept: dict[str, Any]) -> keras.Model:
        """The step to sub-network k, from what earlier steps have `kept`."""
        inputs = {"image": keras.Input(self.input_shape[1:], name="image")}

        def carried(name: str, j: int) -> Any:
            key = carried_name(name, j)
            if key not in inputs:
                like = kept[key]
                inputs[key] = keras.Input(like.shape[1:], name=key, dtype=like.dtype)
            return inputs[key]

        scores, new = self._views.network.step(k, inputs["image"], carried)
        outputs = {carried_name(name, k): value for name, value in new.items()}
        return keras.Model(inputs, {"logits": scores, **outputs}, name=f"step_{k}")

    def predict_at(
        self, k: int, x: Any, batch_size: int | None = None, verbose: Any = 0
    ) -> np.ndarray:
        """Raw scores of sub-network k, `[N, classes]`; nothing above it is computed.

        Args:
            k: From 1 to K.
            x: Images `[N, height, width, channels]`, or a dataset of batches.
            batch_size, verbose: As in `keras.Model.predict`.

        Raises:
            ValueError: For a k out of range.
        """
        return np.asarray(self._scores(k).predict(x, batch_size, verbose))

    def anytime(self, x: Any) -> Iterator[tuple[int, np.ndarray]]:
        """The answers of sub-networks 1 to K, each computed when it is asked for.

        A sliced net computes only the new slice at each step, an I-ResNeXt all but the
        stem.

        Args:
            x: Images `[N, height, width, channels]`; one batch.

        Yields:
            k, and its raw scores `[N, classes]`.
        """
        kept: dict[str, Any] = {"image": np.asarray(x)}
        for k, step in enumerate(self.steps(), 1):
            found = step.predict_on_batch({name: kept[name] for name in step.input})
            yield k, np.asarray(found.pop("logits"))
            kept |= found

    def evaluate_anytime(
        self,
        data: Any,
        batch_size: int = 128,
        file: str | os.PathLike[str] | None = None,
    ) -> AnytimeCurve:
        """Every sub-network's accuracy, MACs and time.

        Args:
            data: (images, labels), or a dataset of such batches; labels are class
                indices or one-hot, fine ones where there is a taxonomy.
            batch_size: Of the pass through the net. Default 128.
            file: A file exported from this net, to take the times from: the steps of a
                sliced net added up, or `classify_k<k>`. None: Keras on one image.

        Returns:
            An `AnytimeCurve`: prints as a table, has `points`, and is
                drawn by `visualization.anytime_curves`.

        Raises:
            ValueError: For data without labels, or the file of another net.
        """
        return anytime_curve(self, data, batch_size, file)

    def parameters_at(self, k: int) -> int:
        """Trainable parameters that sub-network k uses, masked ones left out."""
        return used_parameters(self._scores(k))

    def mac_profile(self) -> CostTable:
        """MACs of the largest sub-network by layer, and of all; `count_macs` asks it."""
        nets = [self._scores(k) for k in range(1, self.subnetworks + 1)]
        profiles = [model_profile(net) for net in nets]
        return CostTable(
            profiles[-1].layers,
            per_subnetwork=tuple(profile.total for profile in profiles),
            per_step=tuple(model_profile(step).total for step in self.steps()),
            unknown=profiles[-1].unknown,
        )

    # Saving

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; only `.keras` files can hold it."""
        refuse_legacy_file(filepath)
        super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = self._made.to_dict()
        activation = self._head_activation.activation
        config["classifier_activation"] = keras.activations.serialize(activation)
        return {
            "name": self.name,
            **config,
            "policy": self.network.conv1.dtype_policy.name,
            "frozen": [x.name for x in self.layers if x.weights and not x.trainable],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        policy, frozen = config.pop("policy", None), config.pop("frozen", ())
        before = keras.config.dtype_policy()
        try:
            keras.config.set_dtype_policy(policy or before)
            model = cls(**config)
        finally:
            keras.config.set_dtype_policy(before)
        for name in frozen:
            model.get_layer(name).trainable = False
        return model
