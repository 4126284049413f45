"""Hypermodels without a net, so that searches take no time, and a process to search in."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import keras_tuner as kt

ROOT = Path(__file__).resolve().parents[2]


class Quadratic(kt.HyperModel):
    """`1 - (a - .3)^2`; the runs are noted in a file, one line each.

    Args:
        log: The file.
        refuse: Which `a` are refused before training.
        sleep: Seconds that the trial of this number takes, counted from 0.
    """

    epochs = 4

    def __init__(self, log, refuse=lambda a: False, sleep=None):
        super().__init__()
        self.log, self.refuse, self.sleep = Path(log), refuse, sleep or {}

    def build(self, hp):
        a = hp.Float("a", 0.0, 1.0, default=0.5)
        hp.Choice("kind", ["plain", "other"])
        with hp.conditional_scope("kind", ["other"]):
            hp.Choice("b", [0.1, 0.2, 0.3])
        if self.refuse(a):
            raise kt.errors.FailedTrialError(f"a={a:.3f} is too much")
        return None

    def fit(self, hp, model, epochs=None, **kwargs):
        number = len(self.runs())
        with self.log.open("a") as file:
            file.write(json.dumps([hp["a"], epochs, os.getpid()]) + "\n")
        time.sleep(self.sleep.get(number, 0))
        return {"objective": 1 - (hp["a"] - 0.3) ** 2, "extra": hp["a"]}

    def runs(self):
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def trials(folder):
    """(status, values, metrics) of each trial, by name, as keras-tuner's files say."""
    found = {}
    for path in sorted(Path(folder).glob("trial_*/trial.json")):
        state = json.loads(path.read_text())
        metrics = {
            name: item["observations"][0]["value"]
            for name, item in state["metrics"]["metrics"].items()
        }
        values = state["hyperparameters"]["values"]
        found[state["trial_id"]] = state["status"], values, metrics
    return found


def process(code, **environment):
    """Another process that runs code; Keras is on NumPy there, which starts quickly."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": "numpy",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
