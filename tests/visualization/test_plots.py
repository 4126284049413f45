"""What the figures say, read back from their axes."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from keras_dyngate.visualization import (  # noqa: E402
    least_and_most,
    open_rates_by_class,
    side_by_side,
)


def texts(axes):
    return [text.get_text().strip() for text in axes.texts]


def test_bars_of_each_panel():
    figure = side_by_side(
        {"MACs": {"plain": 40.6, "gated": 21.9}, "time": {"plain": 1.0, "gated": 0.625}}
    )
    left, right = figure.axes
    assert [axes.get_title("left") for axes in (left, right)] == ["MACs", "time"]
    assert [bar.get_width() for bar in left.patches] == [40.6, 21.9]
    assert texts(right) == ["1", "0.625"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["plain", "gated"]
    colors = [[bar.get_facecolor() for bar in axes.patches] for axes in (left, right)]
    assert colors[0] == colors[1] and colors[0][0] != colors[0][1]


def test_heat_map_of_open_rates():
    decisions = {
        "a/channel": np.array([[1, 0], [1, 1], [0, 0]], "float32"),
        "b/layer": np.array([[0.5], [0], [1]], "float32"),  # any score above 0 is open
    }
    figure = open_rates_by_class(decisions, [4, 4, 7], [str(10 * i) for i in range(9)])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0], [0.5, 1]])
    assert texts(axes) == ["75%", "0%", "50%", "100%"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["40", "70"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a/channel", "b/layer"]


def test_least_and_most_are_in_order():
    images = np.stack([np.full((2, 2, 3), 10.0 * i) for i in range(5)])
    used = [30, 10, 50, 20, 40]
    figure = least_and_most(images, used, count=2)
    shown = [int(axes.images[0].get_array()[0, 0, 0]) // 10 for axes in figure.axes]
    assert shown == [1, 3, 2, 4]
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["20%", "40%", "100%", "80%"]
    named = least_and_most(images, used, list("abcde"), count=9)
    assert len(named.axes) == 10
    assert named.axes[0].get_xlabel() == "b"


def test_bad_arguments_are_refused():
    for panels in ({}, {"empty": {}}):
        with pytest.raises(ValueError, match="`panels`"):
            side_by_side(panels)
    for decisions in ({}, {"a": np.ones((2, 3))}):
        with pytest.raises(ValueError, match="same samples"):
            open_rates_by_class(decisions, [0, 1, 2])
    for used, captions in (([1, 2], None), ([1, 2, 3], ["a"])):
        with pytest.raises(ValueError, match="same samples"):
            least_and_most(np.zeros((3, 2, 2)), used, captions)


def test_pyplot_is_left_alone_and_matplotlib_comes_late():
    """In a process of its own: no pyplot, and no matplotlib before a figure is made."""
    code = """
import sys
from keras_dyngate.visualization import side_by_side, write_report
assert not {"matplotlib", "jinja2"} & set(sys.modules)
side_by_side({"a": {"b": 1.0}})
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install keras_dyngate\[examples\]"):
        side_by_side({"a": {"b": 1.0}})
