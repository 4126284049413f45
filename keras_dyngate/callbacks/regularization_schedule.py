"""Drive the coefficients of gate regularizers along their schedules while training.

    gate_regularizers = [BatchShaping(coefficient=LinearSchedule(0.75, 0.0, end=0.2))]
    model = kd.gated_resnet20(gate_regularizers=gate_regularizers)
    model.compile(...)
    model.fit(..., callbacks=[kd.RegularizationSchedule()])

Without this callback a coefficient stays at its schedule's first value.
"""

from typing import Any

import keras

from keras_dyngate._backend import before_assign
from keras_dyngate._checks import positive_int
from keras_dyngate._walk import controllers


class RegularizationSchedule(keras.callbacks.Callback):
    """Sets every controller's coefficients before each batch, by training progress.

    Progress is the share of steps done. With data of unknown length (a generator
    without `steps_per_epoch`) it is the share of epochs done, and coefficients move
    once per epoch; give `total_steps` to have them move per batch. A run resumed with
    `initial_epoch` goes on where it stopped.

    At the end of an epoch the coefficients of its last batch enter `logs` as
    `<regularizer's name>_coefficient`, for `History` and for every callback that stands
    after this one in the list: the mean over the controllers that have a regularizer of
    this name. After training the coefficients stay as they are.

    Args:
        total_steps: Batches of the whole training. None: epochs times steps.
        initial_step: Batches done before this `fit`, where the epochs do not tell: a
            run that goes on in the middle of an epoch. Needs `total_steps`;
            `TrainingCheckpoint.fit` sets both.

    Raises:
        ValueError: If `total_steps` is not positive, or missing beside `initial_step`.
            When training starts: if the model has no controllers, or if `total_steps`
            is given and the steps before `initial_epoch` cannot be known.
    """

    def __init__(
        self, total_steps: int | None = None, initial_step: int | None = None
    ) -> None:
        super().__init__()
        if total_steps is not None:
            total_steps = positive_int("total_steps", total_steps)
        elif initial_step is not None:
            raise ValueError(
                "`initial_step` needs `total_steps`. "
                f"Received: initial_step={initial_step!r}, total_steps=None"
            )
        self.total_steps, self.initial_step = total_steps, initial_step
        self._slots: list[tuple[Any, Any]] = []
        self._values: list[float | None] = []
        self._finished: list[float | None] = []
        self._first_epoch: int | None = None
        self._epoch = 0
        self._before_epoch = 0
        self._counted = 0

    def on_train_begin(self, logs: Any = None) -> None:
        gates = list(controllers(self.model))
        if not gates:
            raise ValueError(
                "`model` must hold controllers for their coefficients to be driven. "
                f"Received: {self.model.name!r} without any"
            )
        self._slots = [
            (item, variable)
            for gate in gates
            for item, variable in zip(gate.regularizers, gate.coefficients, strict=True)
        ]
        self._first_epoch = None
        self._counted = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._before_epoch = self._counted
        # Assigned anew: on JAX, what was assigned for a batch that never came is lost.
        self._values = [None] * len(self._slots)
        self._finished = self._values
        if self._first_epoch is None:
            self._first_epoch = epoch
            known = self.initial_step is not None or self.params.get("steps")
            if self.total_steps and epoch and not known:
                raise ValueError(
                    "Give `steps_per_epoch` to `fit` as well: how many of "
                    "`total_steps` were done before `initial_epoch` is unknown. "
                    f"Received: initial_epoch={epoch}, total_steps={self.total_steps}"
                )
        self._drive(0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._drive(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Counted when done: data of unknown length begin a batch that never comes.
        self._counted = self._before_epoch + batch + 1
        self._finished = self._values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is None:
            return
        found: dict[str, list[float]] = {}
        for (item, _), value in zip(self._slots, self._finished, strict=True):
            if value is not None:
                found.setdefault(f"{item.name}_coefficient", []).append(value)
        for name, values in found.items():
            logs[name] = sum(values) / len(values)

    def progress(self, batch: int = 0) -> float:
        """Share of the training done when `batch` of the running epoch begins."""
        steps = self.params.get("steps")
        if self.total_steps is None:
            epochs = self.params["epochs"]
            done, total = (
                (self._epoch * steps + batch, epochs * steps)
                if steps
                else (self._epoch, epochs)
            )
        else:
            total = self.total_steps
            if self.initial_step is not None:
                done = self.initial_step + self._before_epoch + batch
            else:
                done = self._epoch * steps + batch if steps else self._counted
        return min(done / total, 1.0)

    def _drive(self, batch: int) -> None:
        """Assign the coefficients that changed, and touch nothing if none did."""
        progress = self.progress(batch)
        wanted = [item.coefficient_at(progress) for item, _ in self._slots]
        if wanted == self._values:
            return
        before_assign(self.model)
        for (_, variable), old, new in zip(
            self._slots, self._values, wanted, strict=True
        ):
            if old != new:
                variable.assign(new)
        self._values = list(wanted)
