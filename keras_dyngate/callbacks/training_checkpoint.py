"""Training that survives: one file from which a run goes on as if never cut off.

    checkpoint = kd.TrainingCheckpoint("run/checkpoint.npz", every=500)
    checkpoint.fit(
        model,
        lambda step: data.train.stream(128, seed=0, start=step),
        steps_per_epoch=data.train.steps(128),
        epochs=30,
    )

Run again, the same lines go on after the last step that was saved, also in the middle of
an epoch: weights, optimizer, batch statistics and states of all random generators come
from the file, and the stream is entered at that step.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import before_assign
from keras_dyngate._checks import positive_int
from keras_dyngate._files import NOT_AN_NPZ, writable_target, write_whole
from keras_dyngate._warn import warn
from keras_dyngate.callbacks.resume import StatefulCallback, StepAwareCallback

FORMAT = 2
_FORMER = {"MacBudget": "CostBudget"}  # what kinds of callbacks were once called


class TrainingCheckpoint(keras.callbacks.Callback):
    """Saves all that a training depends on, every few steps and after every epoch.

    The file is replaced in one step, and only by a state in which the loss and all
    numbers are finite: whatever happens, the last good state stays. It holds arrays and
    JSON, nothing that is executed. A run that another callback has stopped
    (`keras.callbacks.EarlyStopping`, say) is at its end: it is not gone on with.

    Args:
        path: Of the file, an `.npz`.
        every: Steps from one save to the next. Default 500.
        stateful: Callbacks whose state is saved and restored too, each a
            `StatefulCallback`: it has `get_state()`, a dict for JSON, and
            `set_state(dict)`. They stand among the callbacks of `fit` as well.
        settings: What the run is made of, JSON-able. A file of other settings is
            refused instead of being gone on with.

    Attributes:
        step: Steps done, over all sessions of the run.
        stopped: Whether another callback has ended the run.

    Raises:
        ValueError: If `every` is not positive, `path` cannot be written to or
            `stateful` holds something else; when training starts, if a state is not for
            JSON.

    Example:
        ```python
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        checkpoint = kd.TrainingCheckpoint("run.npz", every=2)

        def stream(step):  # the batches from this step on, without end
            while True:
                yield np.ones((8, 4)), np.zeros((8, 2))

        checkpoint.fit(model, stream, steps_per_epoch=3, epochs=2, verbose=0)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 500,
        stateful: Sequence[Any] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.path = writable_target("path", path)
        self.every = positive_int("every", every)
        self.stateful = _stateful(stateful)
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self.step = 0
        self.stopped = False
        self._saved_step: int | None = None
        self._before_epoch = 0

    def fit(
        self,
        model: keras.Model,
        stream: Callable[[int], Any],
        *,
        steps_per_epoch: int,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`model.fit` from where the file stopped, or from the start.

        Args:
            model: Built and compiled.
            stream: From the number of steps done to the batches that follow, without
                end, as `datasets.Split.stream` gives them.
            steps_per_epoch: Steps of an epoch.
            epochs: Of the whole run.
            callbacks: More callbacks; this one comes last. Each
                `StepAwareCallback` among them is told how far the run is.
            **kwargs: Of `model.fit`.

        Returns:
            The `History` of this session. The metrics of an epoch that was cut off are
            those of its rest.

        Raises:
            ValueError: If the file is damaged, of another model or of other settings.
            FloatingPointError: If the loss or a weight stops being a number.
            OSError: If the file cannot be written.
        """
        if steps_per_epoch % model.steps_per_execution:
            raise ValueError(
                "`steps_per_epoch` must be a multiple of the model's "
                f"steps_per_execution={model.steps_per_execution}. "
                f"Received: steps_per_epoch={steps_per_epoch}"
            )
        for callback in callbacks:
            if isinstance(callback, StatefulCallback) and not any(
                callback is kept for kept in self.stateful
            ):
                warn(
                    f"A {type(callback).__name__} begins anew whenever the run goes "
                    "on: give it in `stateful` as well for its state to be kept.",
                )
        history: keras.callbacks.History | None = None
        while history is None or self.step < epochs * steps_per_epoch:
            self.restore(model)  # also between: a `fit` may end by averaging weights
            epoch, done = divmod(self.step, steps_per_epoch)
            last = epoch if self.stopped else min(epoch + 1, epochs) if done else epochs
            for callback in callbacks:
                if isinstance(callback, StepAwareCallback):
                    callback.start_from(self.step, epochs * steps_per_epoch)
            found = model.fit(
                stream(self.step),
                steps_per_epoch=steps_per_epoch - done,
                initial_epoch=epoch,
                epochs=last,
                callbacks=[*callbacks, self],
                **{"shuffle": False, **kwargs},
            )
            if history is None:
                history = found
            else:
                for name, values in found.history.items():
                    history.history.setdefault(name, []).extend(values)
                history.epoch.extend(found.epoch)
            if self.stopped:
                break
        return history

    def restore(self, model: keras.Model) -> int:
        """Bring a model to the state of the file; without a file do nothing.

        Returns:
            Steps done so far.

        Raises:
            ValueError: As in `fit`.
        """
        if not self.path.exists():
            return self.step
        header, arrays = self._read()
        if header.get("settings") != self.settings:
            theirs = header.get("settings") or {}
            names = sorted(
                name
                for name in {*theirs, *self.settings}
                if theirs.get(name) != self.settings.get(name)
            )
            raise ValueError(
                f"The checkpoint {self.path} is of a run with other settings: {names}. "
                f"Received: {[self.settings.get(n) for n in names]}, in the file "
                f"{[theirs.get(n) for n in names]}"
            )
        kinds = _kinds(self.stateful)
        count = len(header["stateful"])
        theirs = [_FORMER.get(kind, kind) for kind in header.get("kinds", kinds)]
        if count != len(kinds) or theirs != kinds:
            raise ValueError(
                f"The checkpoint {self.path} has the state of {count} callbacks"
                f"{': ' + str(header['kinds']) if 'kinds' in header else ''}. "
                f"Received: {kinds} in `stateful`"
            )
        variables = _variables(model)
        shapes = [list(v.shape) for v in variables]
        if header["shapes"] != shapes:
            raise ValueError(
                f"The checkpoint {self.path} is of another model or optimizer: it holds "
                f"{len(header['shapes'])} arrays, of other shapes. "
                f"Received: a model with {len(shapes)} variables"
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        for callback, state in zip(self.stateful, header["stateful"], strict=True):
            callback.set_state(state)
        self.step = self._saved_step = header["step"]
        self.stopped = header["stopped"]
        return self.step

    def save(self) -> None:
        """Write the file now."""
        before_assign(self.model)
        variables = _variables(self.model)
        arrays = [keras.ops.convert_to_numpy(variable) for variable in variables]
        for variable, array in zip(variables, arrays, strict=True):
            if (
                array.dtype.kind not in "biu"
                and not np.isfinite(array.astype("float32")).all()
            ):
                self._not_finite(f"the variable {variable.path!r}")
        header = {
            "format": FORMAT,
            "step": self.step,
            "stopped": self.stopped,
            "settings": self.settings,
            "shapes": [list(array.shape) for array in arrays],
            "stateful": [dict(callback.get_state()) for callback in self.stateful],
            "kinds": _kinds(self.stateful),
        }
        content = io.BytesIO()
        np.savez(
            content,
            header=np.frombuffer(json.dumps(header).encode(), "uint8"),
            **{
                f"{index:05}": array
                if array.dtype.kind in "biuf"
                else array.astype("float32")  # bfloat16, which it holds exactly
                for index, array in enumerate(arrays)
            },
        )
        try:
            write_whole(self.path, content.getvalue())
        except OSError as error:
            raise OSError(
                error.errno,
                f"The checkpoint of step {self.step} could not be written "
                f"({error.strerror}); {self._last_good()}",
                str(self.path),
            ) from error
        self._saved_step = self.step

    def on_train_begin(self, logs: Any = None) -> None:
        for callback in self.stateful:
            try:
                json.dumps(dict(callback.get_state()))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    "`get_state` of a callback in `stateful` must give a dict for "
                    f"JSON: text, numbers, lists. Received: of {_kind(callback)} one "
                    f"that is not ({error})"
                ) from error

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._before_epoch = self.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self.step = self.step, self._before_epoch + batch + 1
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            self._not_finite("the loss")
        if self.step // self.every > before // self.every:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.step != self._saved_step:
            self.save()

    def on_train_end(self, logs: Any = None) -> None:
        if self.model.stop_training:  # and weights may have been exchanged for better
            self.stopped = True
            self.save()

    def _last_good(self) -> str:
        if self._saved_step is None:
            return "there is no earlier one"
        return f"the last good one, of step {self._saved_step}, is kept"

    def _not_finite(self, what: str) -> None:
        raise FloatingPointError(
            f"At step {self.step} {what} is not a finite number. No checkpoint was "
            f"written; {self._last_good()}: {self.path}"
        )

    def _read(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        try:
            with (
                open(self.path, "rb") as source,
                np.load(source, allow_pickle=False) as file,
            ):
                header = json.loads(bytes(file["header"]))
                if header["format"] != FORMAT:
                    raise ValueError(f"its format is {header['format']}, not {FORMAT}")
                count = len(header["shapes"])
                arrays = [file[f"{index:05}"] for index in range(count)]
        except NOT_AN_NPZ as error:
            raise ValueError(
                f"The checkpoint {self.path} cannot be read ({error}): give "
                "another path, or remove it, to start anew."
            ) from error
        return header, arrays


def _variables(model: keras.Model) -> list[Any]:
    """Weights, states of random generators, and all that the optimizer keeps."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _stateful(callbacks: Any) -> list[StatefulCallback]:
    """The callbacks as a list, each of them with a state."""
    if not isinstance(callbacks, Sequence):
        callbacks = [callbacks]
    for callback in callbacks:
        if isinstance(callback, type) or not isinstance(callback, StatefulCallback):
            raise ValueError(
                "`stateful` must be a list of callbacks with `get_state()` and "
                f"`set_state(state)`, see `StatefulCallback`. Received: {callback!r}"
            )
    return list(callbacks)


def _kind(callback: Any) -> str:
    return type(callback).__name__


def _kinds(callbacks: Sequence[Any]) -> list[str]:
    return [_kind(callback) for callback in callbacks]
