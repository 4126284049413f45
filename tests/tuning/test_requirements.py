"""Without keras-tuner a sentence says what to install; a front needs none."""

import pytest

from tests.tuning.fakes import process

pytestmark = pytest.mark.heavy

CODE = """
import os, sys
before = dict(os.environ)
sys.modules["keras_tuner"] = None
import keras_dyngate as kd
print(kd.ParetoFront([kd.ParetoPoint("a", 0.9, 10)]))
assert "keras_tuner.src" not in sys.modules
for name in ("search_gates", "DynamicHyperModel"):
    try:
        getattr(kd, name)
    except ImportError as error:
        print(error)
assert all(os.environ.get(name) == value for name, value in before.items())
"""


def test_it_says_what_to_install():
    said, _ = process(CODE).communicate(timeout=120)
    hint = 'needs keras-tuner. Install it with `pip install "keras_dyngate[tuning]"`.'
    assert said.count(hint) == 2 and "1 of 1 nets are on the front" in said
