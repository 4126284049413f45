"""What a callback needs to go on where a run was cut off: two small protocols.

`TrainingCheckpoint` keeps the state of the callbacks in `stateful` and tells every
callback that asks for it where the run stands. Each is a matter of having the methods;
nothing is to be inherited.

    class Patience(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.best, self.step, self.total_steps = float("inf"), 0, None

        def get_state(self):  # StatefulCallback
            return {"best": self.best}

        def set_state(self, state):
            self.best = state["best"]

        def start_from(self, step, total_steps):  # StepAwareCallback
            self.step, self.total_steps = step, total_steps

    patience = Patience()
    checkpoint = kd.TrainingCheckpoint("run.npz", stateful=[patience])
    checkpoint.fit(model, stream, steps_per_epoch=100, epochs=9, callbacks=[patience])
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class StatefulCallback(Protocol):
    """A callback whose state is kept in a checkpoint: a protocol, not a base class.

    Write a `keras.callbacks.Callback` with these two methods.

    The state is taken after a step or an epoch, and given back before the `fit` that
    goes on, to a callback that was made with the same arguments. `MacBudget` is one.

    Example:
        ```python
        class Best(keras.callbacks.Callback):
            best = float("inf")

            def on_epoch_end(self, epoch, logs=None):
                self.best = min(self.best, logs["loss"])

            def get_state(self):
                return {"best": self.best}

            def set_state(self, state):
                self.best = state["best"]

        checkpoint = kd.TrainingCheckpoint("run.npz", stateful=[Best()])
        ```
    """

    def get_state(self) -> Mapping[str, Any]:
        """All that the steps so far have changed, as JSON: text, numbers, lists."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Be as when `get_state` gave `state`."""
        ...


@runtime_checkable
class StepAwareCallback(Protocol):
    """A callback that is told where a run stands, which Keras cannot tell it.

    A protocol, not a base class: write a `keras.callbacks.Callback` with this method.

    A run may go on in the middle of an epoch, and takes several calls of `fit`; then
    Keras' epochs times steps are not the run's. `RegularizationSchedule` and
    `MacBudget` are such callbacks.

    Example:
        ```python
        class Progress(keras.callbacks.Callback):
            def start_from(self, step, total_steps):
                print(f"{step} of {total_steps} steps are done")

        print(isinstance(Progress(), kd.StepAwareCallback))  # True
        ```
    """

    def start_from(self, step: int, total_steps: int) -> None:
        """Hear, before each `fit`, that `step` of the run's `total_steps` are done."""
        ...
