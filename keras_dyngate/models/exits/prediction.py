"""The dynamic form of a net with early exits: what is answered, where, at what cost."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate._checks import positive_int
from keras_dyngate._labels import label_of
from keras_dyngate.cost import CostTable
from keras_dyngate.models.exits.data import (
    Batch,
    as_keras_data,
    batches,
    class_indices,
    fitting,
)
from keras_dyngate.models.exits.stages import Left, Stage, run_stages
from keras_dyngate.models.exits.training import JointTraining


class DynamicPrediction(JointTraining):
    """Base of a model that drops the samples that leave early.

    A subclass has `gates`, `thresholds`, `raw_stages` (the last one in raw scores), their
    `stage_profiles`, and `answer`, by which exits may combine their scores.
    """

    thresholds: Any

    @property
    def raw_stages(self) -> Sequence[Stage]:
        raise NotImplementedError

    def answer(self, index: int, so_far: np.ndarray) -> np.ndarray:
        """The scores `[N, classes]` that an exit answers with.

        Args:
            index: Of the exit.
            so_far: Raw scores of it and those before, `[N, index + 1, classes]`.
        """
        raise NotImplementedError

    @property
    def stage_profiles(self) -> Sequence[CostTable]:
        raise NotImplementedError

    def checked_thresholds(self, thresholds: Any) -> np.ndarray:
        """As float32 `[gates]`, or a `ValueError`."""
        try:
            found = np.asarray(thresholds, "float32")
        except (TypeError, ValueError):  # no numbers
            found = np.empty(0)
        if found.shape != (len(self.gates),) or np.isnan(found).any():
            raise ValueError(
                f"`thresholds` must be {len(self.gates)} numbers, one per gate. "
                f"Received: thresholds={thresholds!r}"
            )
        return found

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        *,
        thresholds: Sequence[float] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the model; samples that leave early are not computed any further.

        Args:
            x: Images `[N, ...]`, or a dataset of batches of images, (images, labels) or
                (images, labels, weights).
            batch_size: Of every stage. Default 32.
            verbose: As in Keras.
            steps: As in Keras: how many batches of `x` to take. Default: all.
            callbacks: As in Keras; a batch is one of `x`, and has no logs: its samples
                may be answered later.
            thresholds: To use instead of the model's.

        Returns:
            A dict of arrays, in the order of `x`: `logits` `[N, classes]`, the raw scores
            of the exit that answered (a gate's scores are on a scale of their own; the
            head's are those before its softmax or sigmoid; exits that combine give
            weighted sums); `label` `[N]`, their largest, or with one output 1 for a score
            above 0; `score` `[N]`, the confidence that was compared with the threshold
            (at the head: the largest logit, or the size of the one); `exit` `[N]`, the
            gate's index or, for the head, their number; `macs` `[N]`, what was spent,
            gates and controllers included.
        """
        size = positive_int("batch_size", 32 if batch_size is None else batch_size)
        data = batches(x, batch_size=size, steps=steps)
        return self._answers(
            (batch.x for batch in data), size, thresholds, verbose, steps, callbacks
        )

    def _answers(
        self,
        images: Iterator[Any],
        size: int,
        thresholds: Any = None,
        verbose: Any = 0,
        steps: int | None = None,
        callbacks: Any = None,
    ) -> dict[str, np.ndarray]:
        given = self.thresholds if thresholds is None else thresholds
        limits = self.checked_thresholds(given)

        def leaves(index: int, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if index == len(self.gates):
                one = scores.shape[-1] == 1
                found = (np.abs(scores) if one else scores).max(-1)
                return np.ones(len(scores), bool), found
            confidence = self.gates[index].confidence_of(ops.convert_to_tensor(scores))
            found = ops.convert_to_numpy(confidence)
            return found >= limits[index], found

        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks,
                add_progbar=verbose != 0,
                verbose=verbose,
                epochs=1,
                steps=steps,
                model=self,
            )

        def told() -> Iterator[Any]:
            for step, batch in enumerate(images):
                callbacks.on_predict_batch_begin(step)
                yield fitting(batch, self.raw_stages[0].part.input_shape)
                callbacks.on_predict_batch_end(step)

        callbacks.on_predict_begin()
        groups = list(
            run_stages(
                self.raw_stages,
                self.stage_profiles,
                told(),
                size,
                self.answer,
                leaves,
            )
        )
        callbacks.on_predict_end()
        return _in_order(groups)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Judge the net as it is used: with its thresholds, each sample at its exit.

        A model that is compiled is judged by Keras too, every exit by its loss and
        metrics; those come first, from a pass of their own. (In `fit`, validation is
        Keras' alone: thresholds are chosen after it.)

        Args:
            x: Images, or a dataset of batches (images, labels) or (images, labels,
                weights).
            y: Class indices or one-hot; None with a dataset.
            batch_size: Default 32.
            verbose, callbacks: As in Keras, for its own pass.
            sample_weight: As in Keras. The three values below count every sample once.
            steps: How many batches to take. Default: all.
            return_dict: Whether to return a dict.

        Returns:
            What Keras returns for a compiled model, and `accuracy`, of the answers of
            `predict`; `macs`, their mean; `exit_shares`, how many left at each exit, a
            tuple of numbers from 0 to 1, the head last. As a dict, or a list.
        """
        if kwargs.get("_use_cached_eval_dataset"):
            x = as_keras_data(x, y)
            return super().evaluate(
                x,
                y,
                batch_size,
                verbose,
                sample_weight,
                steps,
                callbacks,
                return_dict,
                **kwargs,
            )
        size = positive_int("batch_size", 32 if batch_size is None else batch_size)
        # Twice through: but for what can be read anew, and holds its labels, it is kept.
        if not isinstance(x, keras.utils.PyDataset) and not hasattr(x, "cardinality"):
            data = batches(x, y, sample_weight, batch_size=size, steps=steps)
            x, steps = [_as_tuple(batch) for batch in data], None
        found: dict[str, Any] = {}
        if self.compiled:
            found = super().evaluate(
                as_keras_data(x),
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=True,
                **kwargs,
            )
        found |= self._judged(batches(x, steps=steps), size)
        return found if return_dict else list(found.values())

    def _judged(self, data: Iterator[Batch], size: int) -> dict[str, Any]:
        truth: list[np.ndarray] = []
        classes = self.raw_stages[-1].part.output_shape[-1]

        def images() -> Iterator[Any]:
            for batch in data:
                x, y = _as_tuple(batch)[:2]
                truth.append(class_indices(y, classes))
                yield x

        found = self._answers(images(), size)
        shares = np.bincount(found["exit"], minlength=len(self.gates) + 1)
        right = found["label"] == np.concatenate(truth)
        return {
            "accuracy": float(right.mean()),
            "macs": float(found["macs"].mean()),
            "exit_shares": tuple((shares / shares.sum()).tolist()),
        }


def _as_tuple(batch: Batch) -> tuple[Any, ...]:
    """A batch in the form that Keras takes."""
    if batch.y is None:
        raise ValueError("`y` must be given with images. Received: y=None")
    return tuple(batch) if batch.weight is not None else batch[:2]


def _in_order(groups: Sequence[tuple[int, Left]]) -> dict[str, np.ndarray]:
    """What `predict` returns, from what left at the exits."""
    if not groups:
        raise ValueError("`x` must hold at least one sample. Received: none")
    lefts = [left for _, left in groups]
    order = np.argsort(np.concatenate([left.rows for left in lefts]))
    exits = itertools.chain.from_iterable([i] * len(left.rows) for i, left in groups)
    logits = np.concatenate([left.scores for left in lefts])[order].astype("float32")
    return {
        "logits": logits,
        "label": label_of(logits),
        "score": np.concatenate([left.confidence for left in lefts])[order],
        "exit": np.fromiter(exits, "int32")[order],
        "macs": np.concatenate([left.macs for left in lefts])[order],
    }
