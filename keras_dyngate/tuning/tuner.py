"""What runs the trials of a search: each is kept as soon as it is at its end."""

import contextlib
import gc
import math
import time
import traceback
from pathlib import Path
from typing import Any

import keras

from keras_dyngate._warn import warn
from keras_dyngate.tuning._keras_tuner import FailedTrialError, is_chief_oracle
from keras_dyngate.tuning._keras_tuner import keras_tuner as kt
from keras_dyngate.tuning.chief import serve
from keras_dyngate.tuning.progress import Progress, described
from keras_dyngate.tuning.results import (
    MODEL,
    TrialResult,
    read_result,
    save_model,
)
from keras_dyngate.tuning.safe_oracle import OBJECTIVE, SafeOracle, Status

SCRAPS = (".*", "*.npz")  # what a trial needs no longer: parts of files, checkpoints
WAIT = 1.0  # seconds, before a chief that had nothing to do is asked again


class GateTuner(kt.engine.base_tuner.BaseTuner):
    """keras-tuner's tuner for trials of which none is lost.

    The trial's folder holds `result.json` and the net, `model.keras`; a trial that has
    both is not run again, whatever ended the process after it.

    Args:
        oracle: A `SafeOracle`.
        hypermodel: A `keras_tuner.HyperModel` whose `fit` returns metrics, `objective`
            among them, or the objective alone.
        seed: Keras is seeded with before each trial.
        verbose: Whether a line is printed for each trial.
        **kwargs: `directory`, `project_name`, `overwrite` of keras-tuner's tuners.
    """

    def __init__(
        self,
        oracle: SafeOracle,
        hypermodel: Any,
        *,
        seed: int = 0,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        self.seed, self.progress = seed, Progress(verbose)
        self.own_oracle = oracle  # a worker's `oracle` asks the chief
        super().__init__(oracle=oracle, hypermodel=hypermodel, **kwargs)

    def _populate_initial_space(self) -> None:
        """Take the search up where it was, and declare the hyper-parameters.

        keras-tuner asks a file of the tuner's own whether there is something to take up,
        which there is not before the first trial has ended, nor for another tuner.
        """
        if not self._is_worker():
            self.own_oracle.reload()
        space = self.own_oracle.hyperparameters.copy()
        declare = getattr(self.hypermodel, "declare", self.hypermodel.build)
        with contextlib.suppress(FailedTrialError):  # of the defaults
            declare(space)
        self.own_oracle.update_space(space)  # type: ignore[attr-defined]

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Run trials until there are no more; a chief hands them to its workers.

        Args:
            *args, **kwargs: Of the hypermodel's `fit`.
        """
        if is_chief_oracle():
            self.save()
            serve(self.own_oracle)
            return
        while True:
            trial = self.oracle.create_trial(self.tuner_id)
            if trial.status == Status.STOPPED:
                return
            if trial.status == Status.IDLE:
                time.sleep(WAIT)
                continue
            start = time.perf_counter()
            metrics = self._try(trial, args, kwargs)
            found = described(trial, metrics)
            self.oracle.end_trial(trial)
            seconds = time.perf_counter() - start
            self.progress.tell(trial.trial_id, found, self.own_oracle, seconds)

    def _try(self, trial: Any, args: Any, kwargs: Any) -> dict[str, float]:
        """Run a trial, and note on it how it ended."""
        try:
            metrics = self.run_trial(trial, *args, **kwargs)
            self.oracle.update_trial(trial.trial_id, metrics)
            trial.status = Status.COMPLETED
            return metrics
        except kt.errors.FatalError:
            raise
        except FailedTrialError as error:
            trial.status, trial.message = Status.FAILED, str(error)
            folder, values = self.folder_of(trial), trial.hyperparameters.values
            TrialResult(trial.trial_id, folder, values, {}, refused=str(error)).save()
        except Exception:
            trial.status, trial.message = Status.INVALID, traceback.format_exc()
        return {}

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Build, teach and keep the net of a trial, or find that this was done."""
        folder, hp = self.folder_of(trial), trial.hyperparameters
        known = _known(folder, hp.values)
        if known is not None:
            return dict(known.metrics)
        for path in folder.glob(f".*{MODEL}"):
            path.unlink(missing_ok=True)  # of a process that was killed
        start = time.perf_counter()
        keras.utils.set_random_seed(self.seed)
        model = self.hypermodel.build(hp)
        if getattr(self.hypermodel, "keeps_state", False):
            kwargs = {**kwargs, "folder": folder}
        if "tuner/epochs" in hp.values:
            kwargs = {**kwargs, "epochs": int(hp.values["tuner/epochs"])}
        found = self.hypermodel.fit(hp, model, *args, **kwargs)
        metrics = found if isinstance(found, dict) else {OBJECTIVE: found}
        metrics = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, metrics.values())):
            raise ValueError(
                f"A trial's metrics must be finite numbers. Received: {metrics}"
            )
        if isinstance(model, keras.Model):
            save_model(model, folder)
            gc.collect()  # what the model before this one left
        seconds = time.perf_counter() - start
        TrialResult(trial.trial_id, folder, hp.values, metrics, seconds).save()
        for path in (path for scrap in SCRAPS for path in folder.glob(scrap)):
            path.unlink(missing_ok=True)
        return metrics

    def folder_of(self, trial: Any) -> Path:
        """Where a trial is kept."""
        return Path(self.get_trial_dir(trial.trial_id))

    def load_model(self, trial: Any) -> keras.Model:
        """The net of a trial, as it was kept."""
        return keras.models.load_model(self.folder_of(trial) / MODEL, compile=False)

    def save(self) -> None:
        """Write what the oracle knows; this tuner itself has nothing to keep."""
        if not self._is_worker():
            self.own_oracle.save()

    def reload(self) -> None:
        """Take up a search that another of keras-tuner's tuners began."""
        self._populate_initial_space()


def _known(folder: Path, values: Any) -> TrialResult | None:
    """The result of a trial that came to its end unheard."""
    try:
        result = read_result(folder)
    except ValueError as error:
        warn(f"The trial in {folder} runs again, as its result is damaged: {error}")
        return None
    if result is None or result.refused or dict(result.values) != dict(values):
        return None
    return result
