import dataclasses
import inspect
import warnings

import pytest

from keras_dyngate._deprecation import renamed


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 1
    kind: str = "a"


@renamed(labels="y", groups="options.size", gate="options.kind")
def make(x, y=None, *, options=Options()):  # noqa: B008
    """What it makes."""
    return x, y, options


def test_new_names_are_taken_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(1, y=2, options=Options(3)) == (1, 2, Options(3))


def test_tools_see_the_new_names_only():
    assert list(inspect.signature(make).parameters) == ["x", "y", "options"]
    assert inspect.getdoc(make) == "What it makes."


def test_an_old_name_is_the_new_one_with_a_warning():
    message = "`labels` of `make` is now `y`; the old name will go in version 0.3"
    with pytest.warns(DeprecationWarning, match=message) as found:
        assert make(1, labels=2) == (1, 2, Options())
    assert found[0].filename == __file__


def test_old_names_are_fields_of_one_object():
    with pytest.warns(DeprecationWarning) as found:
        assert make(1, groups=4, gate="b")[2] == Options(4, "b")
    assert "is now `options=Options(size=...)`" in str(found[0].message)
    with pytest.warns(DeprecationWarning):
        assert make(1, options=Options(kind="c"), groups=4)[2] == Options(4, "c")


def test_both_names_are_one_too_many():
    with pytest.raises(TypeError, match=r"Give `y`, not .*Received: y=1, labels=2"):
        make(0, y=1, labels=2)
