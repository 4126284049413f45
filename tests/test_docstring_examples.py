"""Every public name has an example in its docstring, and what it shows runs."""

import inspect
import re
import textwrap

import keras
import numpy as np
import pytest

import keras_dyngate as kd

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:The exit"),  # hardly taught
]


def example_of(name):
    """The code under "Example:" in the docstring of a public name."""
    doc = inspect.cleandoc(getattr(kd, name).__doc__ or "")
    found = re.search(r"^Example:\n    ```python\n(.*?)^    ```$", doc, re.M | re.S)
    return "" if found is None else textwrap.dedent(found[1])


def by_example():
    """The names that share an example, the net of the least depth first."""
    names: dict[str, list[str]] = {}
    for name in sorted(kd.__all__, key=lambda name: (len(name), name)):
        alike = re.sub(r"(net)\d+\(", r"\1(", example_of(name))
        names.setdefault(alike, []).append(name)
    return list(names.values())


@pytest.mark.parametrize("name", kd.__all__)
def test_there_is_one(name):
    assert example_of(name)


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow",
    reason="files are made with TensorFlow, and JAX would compile each anew for minutes",
)
@pytest.mark.parametrize("names", by_example(), ids=lambda names: names[0])
def test_it_runs(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    scope = {"keras": keras, "np": np, "kd": kd, "__name__": "example"}
    exec(compile(example_of(names[0]), names[0], "exec"), scope)
