"""Joint training of all exits with ordinary `compile` and `fit`; labels are given once."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate.layers import ExitGate
from keras_dyngate.models.exits.data import as_keras_data

HEAD = "head"  # the trunk's own answer among the outputs


class JointTraining(keras.Model):
    """Base of a model whose call returns a dict: every gate's scores, and the head's.

    A subclass has `gates`, and says whether the head's outputs are probabilities.
    """

    gates: Sequence[ExitGate]

    @property
    def ends_in_probabilities(self) -> bool:
        raise NotImplementedError

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`; a list of batches (images, labels) will do too."""
        validation = as_keras_data(kwargs.pop("validation_data", None))
        kwargs["validation_data"] = validation
        return super().fit(as_keras_data(x, y), y, *args, **kwargs)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; each exit has a loss, and labels are given once.

        Args:
            optimizer: As in Keras.
            loss: Of the head, suiting the trunk's output. Default: sparse categorical
                cross-entropy, or binary cross-entropy for one output; of probabilities
                or raw scores, as the trunk gives them. The gates have the losses of
                their objectives. Or a dict with one loss per output.
            loss_weights: One number per exit, the head last, or a dict. Default 1 each.
            metrics: Names of metrics for every exit, or a dict.
            **kwargs: As in Keras.
        """
        names = [*(gate.name for gate in self.gates), HEAD]
        if not isinstance(loss, dict):
            head = self._head_loss() if loss is None else loss
            loss = {**{gate.name: gate.loss() for gate in self.gates}, HEAD: head}
        if isinstance(loss_weights, (list, tuple)):
            if len(loss_weights) != len(names):
                raise ValueError(
                    f"`loss_weights` must be {len(names)} numbers, the head's last. "
                    f"Received: loss_weights={loss_weights!r}"
                )
            loss_weights = dict(zip(names, loss_weights, strict=True))
        if isinstance(metrics, (list, tuple)):
            if not all(isinstance(metric, str) for metric in metrics):
                raise ValueError(
                    "`metrics` must be names, made anew for each exit, or a dict of "
                    f"lists by output. Received: metrics={metrics!r}"
                )
            metrics = {
                name: [self._metric(metric, name) for metric in metrics]
                for name in names
            }
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            **kwargs,
        )

    @property
    def _one_output(self) -> bool:
        return all(gate.classes == 1 for gate in self.gates)

    def _head_loss(self) -> keras.losses.Loss:
        losses = keras.losses
        found = (
            losses.BinaryCrossentropy
            if self._one_output
            else losses.SparseCategoricalCrossentropy
        )
        return found(from_logits=not self.ends_in_probabilities)

    def _metric(self, metric: str, name: str) -> Any:
        """A metric by name; of one output the accuracy depends on what yes is."""
        if metric not in ("accuracy", "acc") or not self._one_output:
            return metric
        half = name == HEAD and self.ends_in_probabilities
        return keras.metrics.BinaryAccuracy(metric, threshold=0.5 if half else 0.0)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does, which skips models that override `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        y, sample_weight = _for_each(y, y_pred), _for_each(sample_weight, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        y, sample_weight = _for_each(y, y_pred), _for_each(sample_weight, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)


def _for_each(value: Any, outputs: Any) -> Any:
    """The same labels or weights for every output."""
    if value is None or isinstance(value, dict):
        return value
    return {name: value for name in outputs}
