"""A search that is killed goes on: no finished trial is lost, and none runs twice."""

import signal
import time

import keras
import pytest

import keras_dyngate as kd
from keras_dyngate.tuning import results, safe_oracle
from tests.tuning.fakes import Quadratic, process, trials

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="about processes, which train nothing on any backend",
)

ORACLES = ("random", "bayesian", "hyperband")


class Killed(BaseException):
    """What no `except Exception` holds up, like the end of a process."""


def search(folder, oracle, model=None, **options):
    model = model or Quadratic(folder / "log")
    options = {"max_trials": None if oracle == "hyperband" else 5, **options}
    return kd.search_gates(
        model,
        oracle=oracle,
        directory=folder,
        project=oracle,
        factor=2,
        verbose=0,
        **options,
    )


def kill_at(monkeypatch, number, moment):
    """The process ends before or after its write of this number."""
    real, count = safe_oracle.write_whole, 0

    def write(path, content):
        nonlocal count
        count += 1
        if count == number and moment == "before":
            raise Killed
        real(path, content)
        if count == number:
            raise Killed

    for module in (safe_oracle, results):
        monkeypatch.setattr(module, "write_whole", write)


@pytest.mark.heavy
@pytest.mark.parametrize("oracle", ORACLES)
def test_at_every_write(oracle, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    whole.mkdir()
    search(whole, oracle)
    expected = trials(whole / oracle)
    count = len(Quadratic(whole / "log").runs())
    assert count == len(expected) >= 5
    for number in range(1, 30):
        for moment in ("before", "after"):
            folder = tmp_path / f"{number}{moment}"
            folder.mkdir()
            with monkeypatch.context() as patch:
                kill_at(patch, number, moment)
                try:
                    search(folder, oracle)
                except Killed:
                    pass
                else:
                    continue
            before = trials(folder / oracle)
            done = {k: v for k, v in before.items() if v[0] == "COMPLETED"}
            search(folder, oracle)
            after = trials(folder / oracle)
            assert {k: after[k] for k in done} == done
            assert {status for status, _, _ in after.values()} == {"COMPLETED"}
            assert len(after) == len(expected)
            runs = [run[:2] for run in Quadratic(folder / "log").runs()]
            # Only a trial whose result was being written is run again.
            again = len(runs) - count
            assert again in (0, 1)
            if oracle != "bayesian":  # its proposals start anew
                assert after == expected
            if again:
                assert any(runs.count(run) == 2 for run in runs)


CODE = """
from pathlib import Path
import keras_dyngate as kd
from tests.tuning.fakes import Quadratic
folder = Path({folder!r})
model = Quadratic(folder / "log", sleep={sleep})
front = kd.search_gates(
    model, oracle={oracle!r}, directory=folder, project="killed", factor=2,
    max_trials={most}
)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("oracle", ORACLES)
def test_a_process_killed_inside_a_trial(oracle, tmp_path):
    most = None if oracle == "hyperband" else 5
    common = {"folder": str(tmp_path), "oracle": oracle, "most": most}
    model, folder = Quadratic(tmp_path / "log"), tmp_path / "killed"
    first = process(CODE.format(**common, sleep={3: 600}))
    deadline = time.monotonic() + 120
    while len(model.runs()) < 4:
        assert first.poll() is None and time.monotonic() < deadline, first.stdout
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = trials(folder)
    status = [status for status, _, _ in before.values()]
    assert sorted(status) == ["COMPLETED"] * 3 + ["RUNNING"]
    second = process(CODE.format(**common, sleep={}))
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    after = trials(folder)
    for name, trial in before.items():
        assert after[name][1] == trial[1]  # the one that was killed as well
        if trial[0] == "COMPLETED":
            assert after[name] == trial
    assert {status for status, _, _ in after.values()} == {"COMPLETED"}
    runs = model.runs()
    assert len(runs) == len(after) + 1
    assert runs[3][:2] == runs[4][:2] and runs[3][2] != runs[4][2]


@pytest.mark.parametrize("oracle", ORACLES)
def test_a_damaged_trial_is_named_and_passed_over(oracle, tmp_path):
    search(tmp_path, oracle)
    folder = tmp_path / oracle
    before = trials(folder)
    content = (folder / "trial_0001" / "trial.json").read_bytes()
    for bad in (content[: len(content) // 2], b"\x00\xff garbage", b"[]", b""):
        (folder / "trial_0001" / "trial.json").write_bytes(bad)
        with pytest.warns(UserWarning, match="trial_0001 is passed over"):
            search(tmp_path, oracle)
        (folder / "trial_0001" / "trial.json").write_bytes(content)
        after = trials(folder)
        assert {name: after[name] for name in before} == before
    # One more was run in its place, once only; a bracket that is done needs none.
    assert len(after) == len(before) + (oracle != "hyperband")


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("content", [b"", b'{"ongoing_trials": {"tuner0"'])
def test_a_damaged_oracle_goes_on_with_its_trials(oracle, content, tmp_path):
    search(tmp_path, oracle)
    before = trials(tmp_path / oracle)
    (tmp_path / oracle / "oracle.json").write_bytes(content)
    more = {} if oracle == "hyperband" else {"max_trials": 7}
    with pytest.warns(UserWarning, match="oracle.json is damaged"):
        search(tmp_path, oracle, **more)
    after = trials(tmp_path / oracle)
    assert {name: after[name] for name in before} == before
    assert len(after) == (len(before) if oracle == "hyperband" else 7)
