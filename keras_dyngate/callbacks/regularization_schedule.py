"""Drive the coefficients of gate regularizers along their schedules while training.

    shaping = kd.BatchShaping(coefficient=kd.LinearSchedule(0.75, 0.0, end=0.2))
    model = kd.gated_resnet20(gates=kd.Gates(channel_regularizers=shaping))
    model.compile(...)
    model.fit(..., callbacks=[kd.RegularizationSchedule()])

Without this callback a coefficient stays at its schedule's first value.
"""

from typing import Any

from keras_dyngate._backend import before_assign
from keras_dyngate._walk import controllers
from keras_dyngate.callbacks.step_callback import StepCallback


class RegularizationSchedule(StepCallback):
    """Sets the coefficients that are schedules before each batch, by progress.

    A coefficient that is a number is set once, when a run begins, and never again: it
    may belong to another callback, as to `MacBudget`, in any order of the callbacks. A
    run that goes on (`initial_step`, `TrainingCheckpoint`) leaves it as it finds it.

    Progress is the share of steps done. With data of unknown length (a generator
    without `steps_per_epoch`) it is the share of epochs done, and coefficients move
    once per epoch; give `total_steps` to have them move per batch. A run resumed with
    `initial_epoch` goes on where it stopped.

    At the end of an epoch the coefficients of its last batch enter `logs` as
    `<regularizer's name>_coefficient`, for `History` and for every callback that stands
    after this one in the list: the mean over the controllers that have a regularizer of
    this name. After training the coefficients stay as they are.

    Args:
        total_steps: Batches of the whole training. None: those of the run that
            `TrainingCheckpoint.fit` tells of, or else epochs times steps.
        initial_step: Batches done before this `fit`, where the epochs do not tell: a
            run that goes on in the middle of an epoch. Needs `total_steps`;
            `TrainingCheckpoint.fit` tells both.

    Raises:
        ValueError: If `total_steps` is not positive, or missing beside `initial_step`.
            When training starts: if the model has no controllers, or if `total_steps`
            is given and the steps before `initial_epoch` cannot be known.

    Example:
        ```python
        shaping = kd.BatchShaping(coefficient=kd.LinearSchedule(0.75, 0.0, end=0.2))
        block = kd.GatedBasicBlock(4, channel_gate=kd.BinaryGate(4, regularizers=[shaping]))
        model = keras.Sequential([keras.Input((8, 8, 4)), block])
        model.compile("sgd", "mse")
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        history = model.fit(x, x, verbose=0, callbacks=[kd.RegularizationSchedule()])
        ```
    """

    def __init__(
        self, total_steps: int | None = None, initial_step: int | None = None
    ) -> None:
        super().__init__(total_steps, initial_step)
        if total_steps is None and initial_step is not None:
            raise ValueError(
                "`initial_step` needs `total_steps`. "
                f"Received: initial_step={initial_step!r}, total_steps=None"
            )
        self._schedules: list[tuple[Any, Any]] = []
        self._constants: list[tuple[Any, Any]] = []
        self._values: list[float | None] = []
        self._finished: list[float | None] = []

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        gates = list(controllers(self.model))
        if not gates:
            raise ValueError(
                "`model` must hold controllers for their coefficients to be driven. "
                f"Received: {self.model.name!r} without any"
            )
        slots = [
            (item, variable)
            for gate in gates
            for item, variable in zip(gate.regularizers, gate.coefficients, strict=True)
        ]
        self._schedules = [slot for slot in slots if slot[0].scheduled]
        self._constants = [slot for slot in slots if not slot[0].scheduled]
        if self._constants and not self._start:
            before_assign(self.model)
            for item, variable in self._constants:
                variable.assign(item.coefficient_at(0.0))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # Assigned anew: on JAX, what was assigned for a batch that never came is lost.
        self._values = [None] * len(self._schedules)
        self._finished = self._values
        self._drive(0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._drive(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._finished = self._values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is None:
            return
        found: dict[str, list[float]] = {}
        for (item, _), value in zip(self._schedules, self._finished, strict=True):
            if value is not None:
                found.setdefault(f"{item.name}_coefficient", []).append(value)
        if self._constants:
            before_assign(self.model)
        for item, variable in self._constants:  # as another callback may have set it
            found.setdefault(f"{item.name}_coefficient", []).append(float(variable))
        for name, values in found.items():
            logs[name] = sum(values) / len(values)

    def _drive(self, batch: int) -> None:
        """Assign the coefficients that changed, and touch nothing if none did."""
        progress = self.progress(batch)
        wanted = [item.coefficient_at(progress) for item, _ in self._schedules]
        if wanted == self._values:
            return
        before_assign(self.model)
        for (_, variable), old, new in zip(
            self._schedules, self._values, wanted, strict=True
        ):
            if old != new:
                variable.assign(new)
        self._values = list(wanted)
