"""What comes first, what is refused, and when a search ends."""

import keras_tuner as kt
import pytest

import keras_dyngate as kd
from keras_dyngate.tuning.search import refusals
from tests.tuning.fakes import Quadratic, trials

ORACLES = ("random", "bayesian", "hyperband")


@pytest.fixture
def search(tmp_path):
    def run(oracle="random", refuse=lambda a: False, model=None, **options):
        model = model or Quadratic(tmp_path / "log", refuse)
        if oracle != "hyperband":
            options.setdefault("max_trials", 6)
        common = {"directory": tmp_path, "project": oracle, "factor": 2}
        kd.search_gates(model, oracle=oracle, **common, **options)
        return trials(tmp_path / oracle)

    return run


def values(found):
    return [trial[1]["a"] for trial in found.values()]


@pytest.mark.parametrize("oracle", ORACLES)
def test_defaults_come_first_and_the_seed_says_the_rest(oracle, search, tmp_path):
    first = search(oracle)
    assert values(first)[0] == 0.5
    again = search(oracle, overwrite=True)
    assert again == first
    other = search(oracle, overwrite=True, seed=1)
    assert values(other)[1] != values(first)[1]


def test_starts_of_ones_own_come_in_their_order(search):
    start = [{"a": 0.1}, {"a": 0.9}, {"a": 0.1}]
    assert values(search(start=start))[:2] == [0.1, 0.9]
    assert 0.5 not in values(search(start=[], overwrite=True))


@pytest.mark.parametrize("oracle", ORACLES)
def test_refused_trials_do_not_count(oracle, search, tmp_path, capsys):
    free = sum(trial[0] == "COMPLETED" for trial in search(oracle).values())
    found = search(oracle, refuse=lambda a: a > 0.45, overwrite=True)
    status = [trial[0] for trial in found.values()]
    assert status.count("COMPLETED") == free
    assert status.count("FAILED") == len(status) - free > 0
    said = refusals(tmp_path / oracle)
    assert said["0000"] == "a=0.500 is too much" and len(said) == len(status) - free
    assert "trial 0000: refused: a=0.500 is too much; 0 s" in capsys.readouterr().out
    # Nothing was run, and nothing is run again.
    runs = len(Quadratic(tmp_path / "log").runs())
    assert search(oracle, refuse=lambda a: a > 0.45) == found
    assert len(Quadratic(tmp_path / "log").runs()) == runs


def test_hyperband_trains_the_better_ones_longer_though_some_are_refused(
    search, tmp_path
):
    found = search("hyperband", refuse=lambda a: 0.4 < a < 0.6)
    last = [
        trial
        for trial in found.values()
        if trial[1]["tuner/bracket"] == 2 and trial[1]["tuner/round"] == 2
    ]
    assert last and all(trial[1]["tuner/epochs"] == 4 for trial in last)
    first = [
        trial
        for trial in found.values()
        if trial[0] == "COMPLETED"
        and trial[1]["tuner/bracket"] == 2
        and trial[1]["tuner/round"] == 0
    ]
    best = max(first, key=lambda trial: trial[2]["objective"][0])
    assert best[1]["a"] in [trial[1]["a"] for trial in last]
    assert {run[1] for run in Quadratic(tmp_path / "log").runs()} == {1, 2, 4}


def test_bayesian_neither_repeats_nor_insists_on_what_is_refused(search):
    class Steps(Quadratic):
        def build(self, hp):
            hp.Int("steps", 0, 6)
            hp.Fixed("a", 0.0)
            if hp["steps"] in (3, 4):
                raise kt.errors.FailedTrialError("no")

        def fit(self, hp, model, **kwargs):
            return -((hp["steps"] - 3.4) ** 2)

    found = search("bayesian", model=Steps("log"), max_trials=4)
    steps = [trial[1]["steps"] for trial in found.values()]
    assert len(set(steps)) == len(steps) <= 7
    assert [trial[0] for trial in found.values()].count("COMPLETED") == 4


def test_a_space_that_is_used_up_ends_the_search(search):
    class Two(Quadratic):
        def build(self, hp):
            hp.Boolean("a")

        def fit(self, hp, model, **kwargs):
            return float(hp["a"])

    assert len(search(model=Two("log"), max_trials=9)) == 2


def test_a_search_ends_where_nothing_is_trained(search):
    with pytest.warns(UserWarning, match=r"of its last 50 trials none was.*too much"):
        found = search(refuse=lambda a: True)
    assert len(found) == 50


def test_crashes_in_a_row_end_the_search_and_it_can_be_gone_on_with(search, tmp_path):
    class Crash(Quadratic):
        def fit(self, hp, model, **kwargs):
            raise ZeroDivisionError("one over none")

    with pytest.raises(RuntimeError, match=r"three trials in a row(.|\n)*one over"):
        search(model=Crash(tmp_path / "log"))
    found = search()
    status = [trial[0] for trial in found.values()]
    assert status == ["FAILED"] * 3 + ["COMPLETED"] * 3


def test_an_objective_that_is_no_number_is_a_failure(search, tmp_path):
    class Lost(Quadratic):
        def fit(self, hp, model, **kwargs):
            return float("nan") if hp["a"] > 0.5 else hp["a"]

    found = search(model=Lost(tmp_path / "log"), max_trials=4)
    for status, given, _ in found.values():
        assert status == ("FAILED" if given["a"] > 0.5 else "COMPLETED")
    assert search(model=Lost(tmp_path / "log"), max_trials=4) == found
