"""A warning points at the line that called this package, not at one inside it."""

import sys
import types
import warnings

import pytest

from keras_dyngate._warn import warn


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_the_line_outside(depth):
    inside = types.ModuleType("keras_dyngate.somewhere")
    exec(
        "def call(warn, depth):\n"
        "    return call(warn, depth - 1) if depth else warn('so it is')\n",
        inside.__dict__,
    )
    with pytest.warns(UserWarning, match="^so it is$") as found:
        line = sys._getframe().f_lineno + 1
        inside.call(warn, depth)
    assert (found[0].filename, found[0].lineno) == (__file__, line)


def test_a_package_with_the_beginning_of_its_name():
    beside = types.ModuleType("keras_dyngate_apps")
    exec(compile("def call(warn):\n    warn('no')\n", "apps.py", "exec"), vars(beside))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        beside.call(warn)
    assert found[0].filename == "apps.py"
