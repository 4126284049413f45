"""The ways to choose what is tried next, all of which survive a kill: see `SafeOracle`.

keras-tuner's grid search is not among them: it forgets its place with its process, and
fails when it goes on (keras-team/keras-tuner, issue 1055).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dyngate.tuning._keras_tuner import keras_tuner as kt
from keras_dyngate.tuning.safe_oracle import SafeOracle, Status, was_refused


class RandomOracle(SafeOracle, kt.oracles.RandomSearchOracle):
    """Values at random."""


class BayesianOracle(SafeOracle, kt.oracles.BayesianOptimizationOracle):
    """Values where a Gaussian process expects the most.

    keras-tuner's leaves out what failed, and so would propose it again and again, and
    does not look whether it has tried a proposal before.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = super().populate_space(trial_id)
        values = found.get("values")
        if values and self._duplicate(values):
            found = self._random_populate_space()
        return found

    def _vectorize_trials(self) -> Any:
        scores = [t.score for t in self.trials.values() if t.score is not None]
        refused = self.refused()
        for trial in refused:
            trial.status, trial.score = Status.COMPLETED, min(scores)
        try:
            return super()._vectorize_trials()
        finally:
            for trial in refused:
                trial.status, trial.score = Status.FAILED, None


class HyperbandOracle(SafeOracle, kt.oracles.HyperbandOracle):
    """Many short trials; the better ones again, for longer.

    Each is taught from the start: rates and budgets follow the length of a training, so
    that a short one is not the beginning of a long one; and no weights of another trial
    need to be there when a search goes on.

    keras-tuner's waits for the results of a round in vain if one of its trials failed,
    and notes the wrong bracket where several tuners are at work.
    """

    _brackets: list[dict[str, Any]]
    _current_bracket: int

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        found = super().populate_space(trial_id)
        for bracket in self._brackets:
            if any(trial_id in _ids(entries) for entries in bracket["rounds"]):
                found["values"]["tuner/bracket"] = bracket["bracket_num"]
        return found

    def forget(self, trial_id: str) -> None:
        for bracket in self._brackets:
            first = bracket["rounds"][0]
            first[:] = [entry for entry in first if entry["id"] != trial_id]

    def settle(self) -> None:
        """Brackets, told from the values of the trials that are in them."""
        held = [self.trials[name] for name in self.start_order]
        held = [t for t in held if not was_refused(t)]
        held = [t for t in held if "tuner/bracket" in t.hyperparameters.values]
        highest = self._get_num_brackets() - 1
        numbers = [int(t.hyperparameters.values["tuner/bracket"]) for t in held]
        self._current_bracket = lowest = min(numbers, default=highest)
        self._brackets = [
            {"bracket_num": number, "rounds": [[] for _ in range(number + 1)]}
            for number in range(highest, lowest - 1, -1)
        ]
        for trial, number in zip(held, numbers, strict=True):
            values = trial.hyperparameters.values
            entry = {"past_id": values.get("tuner/trial_id"), "id": trial.trial_id}
            rounds = self._brackets[highest - number]["rounds"]
            rounds[int(values["tuner/round"])].append(entry)


ORACLES: dict[str, Any] = {
    "random": RandomOracle,
    "bayesian": BayesianOracle,
    "hyperband": HyperbandOracle,
}


def _ids(entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [entry["id"] for entry in entries]
