"""The profile of a taught step, on any backend."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "recipe_speed.py"

pytestmark = pytest.mark.heavy


def test_all_parts_are_timed():
    arguments = ("--model=resnet20", "--image_size=32", "--batch=2", "--rounds=1")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"batch 2, float32, {keras.backend.backend()}" in done.stdout
    rows = re.findall(r"^\| (.+) \| (\d+\.\d) \| (\d+\.\d) \|$", done.stdout, re.M)
    names = [name for name, *_ in rows]
    assert names[:3] == ['variation, "photos"', 'variation, "strong"', "teacher"]
    assert names[-1] == "step, taught, first half at rest" and len(rows) == 7
    for _, ms, per_second in rows[2:]:
        assert float(per_second) == pytest.approx(2e3 / float(ms), rel=0.2)
