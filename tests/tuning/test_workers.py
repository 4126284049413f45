"""A chief and two workers, over loopback."""

import json
import signal
import socket
import time

import keras
import pytest

from tests.tuning.fakes import Quadratic, process, trials

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="about processes, which train nothing on any backend",
    ),
]

CODE = """
from pathlib import Path
import keras_dyngate as kd
from tests.tuning.fakes import Quadratic
folder = Path({folder!r})
model = Quadratic(folder / "log", refuse=lambda a: a > 0.8, sleep={sleep})
front = kd.search_gates(
    model, oracle={oracle!r}, directory=folder, project="shared", factor=2,
    max_trials={most}
)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process of the search; those that still run in the end are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = []

    def run(tuner, oracle, sleep=None, most=8):
        code = CODE.format(
            folder=str(tmp_path), oracle=oracle, most=most, sleep=sleep or {}
        )
        begun.append(
            process(
                code,
                KERASTUNER_TUNER_ID=tuner,
                KERASTUNER_ORACLE_IP="127.0.0.1",
                KERASTUNER_ORACLE_PORT=str(port),
                # gRPC would send loopback to a proxy.
                NO_PROXY="127.0.0.1",
                no_proxy="127.0.0.1",
            )
        )
        return begun[-1]

    yield run
    for each in begun:
        if each.poll() is None:
            each.kill()
            each.communicate()


def end_of(each):
    said, _ = each.communicate(timeout=240)
    assert each.returncode == 0, said
    return said


@pytest.mark.parametrize("oracle", ["random", "bayesian", "hyperband"])
def test_two_workers_share_a_search(oracle, start, tmp_path):
    most = None if oracle == "hyperband" else 8
    pause = dict.fromkeys(range(60), 0.3)  # for both to have a turn
    chief = start("chief", oracle, most=most)
    workers = [start(f"tuner{k}", oracle, pause, most) for k in range(2)]
    said = [end_of(each) for each in (*workers, chief)]
    found = trials(tmp_path / "shared")
    done = [trial for trial in found.values() if trial[0] == "COMPLETED"]
    refused = [trial for trial in found.values() if trial[0] == "FAILED"]
    assert len(done) + len(refused) == len(found)
    assert len(done) == 8 or oracle == "hyperband" and len(done) >= 10
    assert all(trial[1]["a"] > 0.8 for trial in refused)
    runs = Quadratic(tmp_path / "log").runs()
    assert len(runs) == len(done)
    assert len({run[2] for run in runs}) == 2  # processes
    assert all("trial 00" in lines for lines in said[:2]) and "trial" not in said[2]
    for _, values, metrics in done:
        assert metrics["objective"] == [pytest.approx(1 - (values["a"] - 0.3) ** 2)]


def test_a_killed_worker_and_a_killed_chief_come_back(start, tmp_path):
    log = Quadratic(tmp_path / "log")
    chief = start("chief", "random")
    worker = start("tuner0", "random", {2: 600})
    wait_for(lambda: len(log.runs()) == 3, worker)
    for each in (worker, chief):
        each.send_signal(signal.SIGKILL)
        each.communicate()
    before = trials(tmp_path / "shared")
    done = {name: trial for name, trial in before.items() if trial[0] == "COMPLETED"}
    assert len(done) == 2
    chief = start("chief", "random")
    # The worker is killed in its first trial, and takes it up again by its id.
    worker = start("tuner0", "random", {3: 600})
    wait_for(lambda: len(log.runs()) == 4, worker)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    end_of(start("tuner0", "random"))
    end_of(chief)
    after = trials(tmp_path / "shared")
    assert {name: after[name] for name in done} == done
    assert [trial[0] for trial in after.values()].count("COMPLETED") == 8
    values = [run[0] for run in log.runs()]
    assert values[2] == values[3] == values[4] and len(values) == 10


def test_a_chief_alone_is_killed(start, tmp_path):
    log = Quadratic(tmp_path / "log")
    chief = start("chief", "random", most=4)
    worker = start("tuner0", "random", {1: 8}, 4)
    wait_for(lambda: len(log.runs()) == 2, worker)
    chief.send_signal(signal.SIGKILL)
    chief.communicate()
    chief = start("chief", "random", most=4)
    end_of(worker)
    end_of(chief)
    found = trials(tmp_path / "shared")
    assert [trial[0] for trial in found.values()].count("COMPLETED") == 4
    assert len(log.runs()) == 4  # the trial that outlived its chief ran once


def wait_for(condition, each):
    deadline = time.monotonic() + 120
    while not condition():
        assert each.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_settings_are_written_by_the_chief_alone(start, tmp_path):
    chief = start("chief", "random", most=2)
    end_of(start("tuner0", "random", most=2))
    end_of(chief)
    settings = json.loads((tmp_path / "shared" / "search.json").read_text())
    assert settings == {"oracle": "random", "seed": 0}
