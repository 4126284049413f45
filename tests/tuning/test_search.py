"""What a search asks for, and what it leaves alone."""

import json
import types

import keras_tuner as kt
import pytest

import keras_dyngate as kd
from keras_dyngate.tuning.safe_oracle import REFUSED, Status
from keras_dyngate.tuning.search import _say_why
from tests.tuning.fakes import Quadratic, trials


class Described(Quadratic):
    def __init__(self, log, budget):
        super().__init__(log)
        self.budget = budget

    def settings(self):
        return {"budget": self.budget}


def test_another_search_is_not_gone_on_with(tmp_path):
    options = {"directory": tmp_path, "project": "one", "max_trials": 2}
    kd.search_gates(Described(tmp_path / "log", "a"), **options)
    before = trials(tmp_path / "one")
    with pytest.raises(
        ValueError, match=r"other settings: \['budget'\].*\['b'\], there"
    ):
        kd.search_gates(Described(tmp_path / "log", "b"), **options)
    with pytest.raises(ValueError, match=r"\['seed'\]"):
        kd.search_gates(Described(tmp_path / "log", "a"), **options, seed=1)
    assert trials(tmp_path / "one") == before
    kd.search_gates(Described(tmp_path / "log", "b"), **options, overwrite=True)
    settings = json.loads((tmp_path / "one" / "search.json").read_text())
    assert settings["budget"] == "b"
    for content in ("{", ""):  # of what search the trials are is not known then
        (tmp_path / "one" / "search.json").write_text(content)
        with pytest.raises(ValueError, match="search.json', which says.*is damaged"):
            kd.search_gates(Described(tmp_path / "log", "a"), **options)
    (tmp_path / "one" / "search.json").unlink()
    kd.search_gates(Described(tmp_path / "log", "b"), **options)


def test_more_trials_are_added(tmp_path, capsys):
    model = Quadratic(tmp_path / "log")
    kd.search_gates(model, directory=tmp_path, max_trials=2)
    kd.search_gates(model, directory=tmp_path, max_trials=5)
    assert len(trials(tmp_path / "search")) == len(model.runs()) == 5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(
        "trial 0000: objective 0.9600; 0 s; best 0.9600; 1 to go"
    )
    kd.search_gates(model, directory=tmp_path, max_trials=6, verbose=0)
    assert not capsys.readouterr().out


def test_a_folder_of_something_else_is_not_deleted(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds something else"):
        kd.search_gates(
            Quadratic(tmp_path / "log"),
            directory=tmp_path,
            project="photos",
            overwrite=True,
        )
    assert (tmp_path / "photos" / "cat.jpg").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oracle": "grid"}, "`oracle` must be one of 'random'"),
        ({"max_trials": 0}, "`max_trials` must be a positive integer"),
        ({"factor": 1, "oracle": "hyperband"}, "`factor` must be 2 or more"),
        ({"project": "a/b"}, "`project` must be the name of a folder"),
        ({"project": ""}, "`project` must be the name of a folder"),
        ({"directory": 3}, "`directory` must be a path"),
        ({"start": {"a": 1}}, "`start` must be a list of dicts"),
        ({"start": [{"c": 1}]}, r"`start` must be of \['a', 'b', 'kind'\].*'c'"),
        ({"start": [{"kind": "odd"}]}, r"'kind' from \['plain', 'other'\].*'odd'"),
        ({"seed": -1}, "`seed` must be an integer from 0"),
        ({"verbose": 2}, "`verbose` must be one of"),
        ({"overwrite": 1}, "`overwrite` must be True or False"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        options = {"directory": tmp_path, **options}
        kd.search_gates(Quadratic(tmp_path / "log"), **options)
    assert not list(tmp_path.glob("*/trial_*"))


def test_what_is_no_hypermodel(tmp_path):
    with pytest.raises(ValueError, match="`hypermodel` must be a DynamicHyperModel"):
        kd.search_gates(lambda hp: None)
    model = Quadratic(tmp_path / "log")
    model.epochs = 1
    with pytest.raises(ValueError, match="2 `epochs` or more"):
        kd.search_gates(model, oracle="hyperband", directory=tmp_path)


def test_keras_tuner_itself_reads_what_was_written(tmp_path):
    model = Quadratic(tmp_path / "log")
    kd.search_gates(model, directory=tmp_path, max_trials=3)
    oracle = kt.oracles.RandomSearchOracle(kt.Objective("objective", "max"), 3)
    oracle._set_project_dir(tmp_path, "search")
    oracle.reload()
    (best,) = oracle.get_best_trials()
    assert best.score == max(1 - (run[0] - 0.3) ** 2 for run in model.runs())


def test_it_is_said_that_a_search_ended_early(capsys):
    def trial(status):
        return types.SimpleNamespace(status=status, message=REFUSED)

    oracle = types.SimpleNamespace(
        trials={str(n): trial(Status.COMPLETED) for n in range(2)}
        | {"refused": trial(Status.FAILED)}
    )
    _say_why(oracle, 2)
    assert not capsys.readouterr().out
    _say_why(oracle, 5)
    said = capsys.readouterr().out
    assert said.startswith("The search ends after 2 of 5 trials, 1 more being refused")
