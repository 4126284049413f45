"""Counting the steps of a whole run, whichever `fit` they are done in."""

from typing import Any

import keras

from keras_dyngate._checks import positive_int


class StepCallback(keras.callbacks.Callback):
    """Base of callbacks that follow the steps of a run, a `StepAwareCallback`.

    Where a `fit` starts is told by `start_from` or `initial_step`, or else follows from
    `initial_epoch`. Steps are counted when they are done: data of unknown length begin
    a batch that never comes.

    Args:
        total_steps: Steps of the whole run. None: what `start_from` says, or else
            epochs times steps of an epoch, where these are known.
        initial_step: Steps done before each `fit`. None: as many as the epochs before
            it have.

    Raises:
        ValueError: For bad arguments. When an epoch begins, if `total_steps` is known
            and the steps before `initial_epoch` cannot be.
    """

    def __init__(
        self, total_steps: int | None = None, initial_step: int | None = None
    ) -> None:
        super().__init__()
        if total_steps is not None:
            total_steps = positive_int("total_steps", total_steps)
        if initial_step is not None and (
            isinstance(initial_step, bool)
            or not isinstance(initial_step, int)
            or initial_step < 0
        ):
            raise ValueError(
                "`initial_step` must be an integer >= 0. "
                f"Received: initial_step={initial_step!r}"
            )
        self.total_steps, self.initial_step = total_steps, initial_step
        self._told: tuple[int, int] | None = None
        self._start: int | None = None
        self._told_total: int | None = None
        self._first_epoch: int | None = None
        self._epoch = self._before_epoch = self._done = 0

    def start_from(self, step: int, total_steps: int) -> None:
        """Hear where the next `fit` starts; an own `total_steps` is kept."""
        self._told = (step, total_steps)

    def on_train_begin(self, logs: Any = None) -> None:
        self._start, self._told_total = self._told or (self.initial_step, None)
        self._told = self._first_epoch = None
        self._before_epoch = self._done = self._start or 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._first_epoch is None:
            self._first_epoch = epoch
            if self._start is None and epoch:
                steps = self.params.get("steps")
                if self.total_steps and not steps:
                    raise ValueError(
                        "Give `steps_per_epoch` to `fit` as well: how many of "
                        "`total_steps` were done before `initial_epoch` is unknown. "
                        f"Received: initial_epoch={epoch}, "
                        f"total_steps={self.total_steps}"
                    )
                self._done = epoch * (steps or 0)
        self._epoch, self._before_epoch = epoch, self._done

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = batch + 1  # more than there are, where executions of several overhang
        self._done = self._before_epoch + min(done, self.params.get("steps") or done)

    def whole(self) -> int | None:
        """Steps of the run, or None where they are not known."""
        known = self.total_steps or self._told_total
        if known is None and self.params.get("steps"):
            return int(self.params["epochs"] * self.params["steps"])
        return known

    def progress(self, batch: int = 0) -> float:
        """Share of the run done when `batch` of the running epoch begins.

        Share of the epochs, where the steps of the run are not known.
        """
        whole = self.whole()
        if whole is None:
            return min(self._epoch / self.params["epochs"], 1.0)
        return min((self._before_epoch + batch) / whole, 1.0)
