"""A part of keras-tuner's oracles, made to survive whatever ends their process.

keras-tuner writes its files in place, and some of them in an order that a kill tears
apart: a trial that has ended runs again, one that was begun is never ended, a file that
is cut off stops the search for good. Here files are written whole, and what is read back
follows from the trials' own files. So that all of it stands in one place, the three
methods that keras-tuner's chief and tuners call are written anew.
"""

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_dyngate._files import write_whole
from keras_dyngate._warn import warn
from keras_dyngate.tuning._keras_tuner import filled
from keras_dyngate.tuning._keras_tuner import keras_tuner as kt

Trial, Status = kt.engine.trial.Trial, kt.engine.trial.TrialStatus
OBJECTIVE = "objective"
FINISHED = (Status.COMPLETED, Status.FAILED)
REFUSED = "Refused: "  # how the message of a trial begins that was not trained
CRASHES, REFUSALS = 3, 50  # in a row, after which a search ends
NEW_DRAWS = 1_000_003  # from one seed to another, where the state of draws is lost


class SafeOracle:
    """What all three oracles have in common; stands before keras-tuner's class.

    Attributes:
        starts: Values that come before what the oracle draws.
        broken: The message of the last of several trials in a row that crashed.
    """

    # Of keras-tuner's `Oracle`.
    objective: Any
    max_trials: int | None
    seed: int
    trials: dict[str, Any]
    ongoing_trials: dict[str, Any]
    start_order: list[str]
    end_order: list[str]
    tuner_ids: set[str]
    hyperparameters: Any
    _retry_queue: list[str]
    _run_times: dict[str, int]
    _tried_so_far: set[str]
    _seed_state: int

    def __init__(
        self, *, starts: Sequence[Mapping[str, Any]] = (), **kwargs: Any
    ) -> None:
        objective = kt.Objective(OBJECTIVE, "max")
        super().__init__(objective=objective, **kwargs)  # type: ignore[call-arg]
        self.starts = [dict(values) for values in starts]
        self.broken: str | None = None
        self._damaged: set[str] = set()
        self._own_lock = threading.RLock()

    # What chief and tuners call

    def create_trial(self, tuner_id: str) -> Any:
        """The next trial for a tuner; its status may be IDLE or STOPPED."""
        with self._own_lock:
            if tuner_id in self.ongoing_trials:
                return self.ongoing_trials[tuner_id]
            self.tuner_ids.add(tuner_id)
            if self._retry_queue:
                trial = self.trials[self._retry_queue.pop(0)]
                trial.status = Status.RUNNING
            else:
                trial = self._new_trial()
            if trial.status == Status.RUNNING:
                self.ongoing_trials[tuner_id] = trial
                if trial.trial_id not in self.trials:
                    self.trials[trial.trial_id] = trial
                    self.start_order.append(trial.trial_id)
                self._keep(trial)
                self.save()
            elif trial.status == Status.STOPPED:
                self.tuner_ids.discard(tuner_id)
            return trial

    def update_trial(
        self, trial_id: str, metrics: Mapping[str, float], step: int = 0
    ) -> Any:
        """Note what a trial found; what an earlier run of it found is forgotten."""
        with self._own_lock:
            trial = self.trials[trial_id]
            trial.metrics = type(trial.metrics)()
            for name, value in metrics.items():
                more = name == OBJECTIVE or name.endswith("accuracy")
                trial.metrics.register(name, direction="max" if more else "min")
                trial.metrics.update(name, value, step=step)
            self._keep(trial)
            return trial

    def end_trial(self, trial: Any) -> None:
        """Note that a trial has ended, and how."""
        with self._own_lock:
            own = self.trials[trial.trial_id]
            own.hyperparameters = trial.hyperparameters
            own.status, own.message = trial.status, trial.message
            self.update_space(trial.hyperparameters)  # type: ignore[attr-defined]
            if own.status == Status.COMPLETED:
                self.score_trial(own)  # type: ignore[attr-defined]
            elif own.status == Status.FAILED:
                sentence = own.message or "see its folder"
                own.message = f"{REFUSED}{sentence.removeprefix(REFUSED)}"
            else:
                own.status = Status.FAILED
                own.message = own.message or "It crashed; see the output of its worker"
            self._record(own)
            self._run_times[own.trial_id] += 1
            # A chief that was killed may have put it among those that run again.
            self._retry_queue = [n for n in self._retry_queue if n != own.trial_id]
            self.end_order = [n for n in self.end_order if n != own.trial_id]
            self.end_order.append(own.trial_id)
            self.ongoing_trials = {
                tuner: ongoing
                for tuner, ongoing in self.ongoing_trials.items()
                if ongoing.trial_id != own.trial_id
            }
            if was_refused(own):
                self.forget(own.trial_id)
            last = [self.trials[name] for name in self.end_order[-CRASHES:]]
            if len(last) == CRASHES and all(map(_crashed, last)):
                self.broken = own.message
            self._keep(own)
            self.save()

    # What differs from oracle to oracle

    def forget(self, trial_id: str) -> None:
        """Do as if a trial that was refused had not been drawn."""

    def settle(self) -> None:
        """Bring what an oracle knows besides in line with the trials, after a reload."""

    # How trials begin

    def refused(self) -> list[Any]:
        """The trials that were not trained."""
        return [trial for trial in self.trials.values() if was_refused(trial)]

    def _new_trial(self) -> Any:
        trial_id = f"{self._free_number():04d}"
        counted = len(self.trials) - len(self.refused())
        last = [self.trials[name] for name in self.end_order[-REFUSALS:]]
        exhausted = len(last) == REFUSALS and all(map(was_refused, last))
        if exhausted:
            warn(
                f"The search ends: of its last {REFUSALS} trials none was trained. "
                f"The last: {last[-1].message.removeprefix(REFUSED)}"
            )
        full = self.max_trials is not None and counted >= self.max_trials
        if exhausted or full or self.broken is not None:
            found: dict[str, Any] = {"status": Status.STOPPED}
        else:
            found = self.populate_space(trial_id)  # type: ignore[attr-defined]
        parameters = self.hyperparameters.copy()
        parameters.values = found.get("values") or {}
        trial = Trial(parameters, trial_id, found["status"])
        if trial.status == Status.RUNNING:
            self._record(trial)
        return trial

    def _free_number(self) -> int:
        names = {*self.trials, *self._damaged}
        return 1 + max((int(n) for n in names if n.isdigit()), default=-1)

    def _random_values(self) -> dict[str, Any] | None:
        """What is tried first, then values at random; None: there are no more."""
        for start in self.starts:
            values = filled(self.hyperparameters.space, start).values
            if not self._duplicate(values):  # type: ignore[attr-defined]
                return values
        return super()._random_values()  # type: ignore[misc]

    def _record(self, trial: Any) -> None:
        """Remember that these values were tried."""
        self._record_values(trial)  # type: ignore[attr-defined]

    # Files

    @property
    def folder(self) -> Path:
        """Of the search."""
        return Path(self._project_dir)  # type: ignore[attr-defined]

    def _keep(self, trial: Any) -> None:
        folder = self.folder / f"trial_{trial.trial_id}"
        folder.mkdir(exist_ok=True)
        _write(folder / "trial.json", trial.get_state())

    def save(self) -> None:
        """Write what is not in the trials' files."""
        _write(self.folder / "oracle.json", self.get_state())  # type: ignore[attr-defined]

    def reload(self) -> None:
        """Take up a search where it ended.

        Warns:
            UserWarning: Of each file that is damaged; its trial is passed over.
        """
        self.trials = self._read_trials()
        if self._read_state():
            begun = set(self.start_order)
        else:
            ended = sum(map(_ended, self.trials.values()))
            self._seed_state = self.seed + NEW_DRAWS * ended
            begun = set()
            if (self.folder / "oracle.json").exists():  # their folders may hold more
                self._damaged |= {n for n, t in self.trials.items() if not _ended(t)}
        # One that was being written down when the process ended was not begun.
        self.trials = {n: t for n, t in self.trials.items() if n in begun or _ended(t)}
        order = [name for name in self.start_order if name in self.trials]
        self.start_order = order + sorted(set(self.trials) - set(order))
        known = [name for name in self.end_order if name in self.trials]
        late = {name for name, trial in self.trials.items() if _ended(trial)}
        self.end_order = known + sorted(late - set(known))
        self._retry_queue = [
            name for name in self.start_order if not _ended(self.trials[name])
        ]
        self.ongoing_trials, self.broken = {}, None
        for trial in self.trials.values():
            self._record(trial)
        self.settle()

    def _read_trials(self) -> dict[str, Any]:
        found = {}
        for folder in sorted(self.folder.glob("trial_*")):
            name, path = folder.name.removeprefix("trial_"), folder / "trial.json"
            try:
                trial = Trial.from_state(json.loads(path.read_bytes()))
                if trial.trial_id != name or not _whole(trial):
                    raise ValueError("it is of another trial, or not whole")
                found[name] = trial
            except FileNotFoundError:
                continue  # the process ended before it was written
            except Exception as error:  # whatever keras-tuner makes of garbage
                self._damaged.add(name)
                warn(
                    f"The trial in {folder} is passed over, as its trial.json is "
                    f"damaged: {type(error).__name__}: {error}"
                )
        return found

    def _read_state(self) -> bool:
        """Take up what is not in the trials' files; False: it is lost."""
        path = self.folder / "oracle.json"
        try:
            state = json.loads(path.read_bytes())
            # keras-tuner changes what it reads.
            kt.HyperParameters.from_config(copy.deepcopy(state["hyperparameters"]))
            for name in ("start_order", "end_order", "tried_so_far"):
                state[name] = list(map(str, state[name]))
            state |= {"ongoing_trials": {}, "retry_queue": []}
            self.set_state(state)  # type: ignore[attr-defined]
            return True
        except FileNotFoundError:
            return False
        except Exception as error:
            warn(
                f"{path} is damaged ({type(error).__name__}: {error}): the search goes "
                "on with what its trials say"
            )
            self.start_order, self.end_order = [], []
            return False


def was_refused(trial: Any) -> bool:
    """Whether a trial was not trained, as it could not keep to the budget."""
    return trial.status == Status.FAILED and (trial.message or "").startswith(REFUSED)


def _crashed(trial: Any) -> bool:
    return trial.status == Status.FAILED and not was_refused(trial)


def _ended(trial: Any) -> bool:
    return trial.status in FINISHED


def _whole(trial: Any) -> bool:
    return trial.status != Status.COMPLETED or isinstance(trial.score, (int, float))


def _write(path: Path, state: Any) -> None:
    write_whole(path, json.dumps(state).encode())
