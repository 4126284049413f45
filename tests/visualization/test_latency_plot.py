import numpy as np
import pytest

pytest.importorskip("matplotlib")

from keras_dyngate.runtime.latency import LatencyReport  # noqa: E402
from keras_dyngate.visualization import latency_plot  # noqa: E402

TIMES = np.array([[1.0, 2.0, 4.0, 6.0], [3.0, 2.0, 8.0, 4.0]])
MACS = np.array([1, 2, 4, 3]) * 10**6


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def dots(axes):
    return [collection.get_offsets().tolist() for collection in axes.collections]


def test_exits_are_told_apart():
    exits = np.array([0, 0, 2, 2])
    report = LatencyReport("classify", 1, TIMES, MACS, exits, np.ones(4))
    left, right = latency_plot({"net": report}).axes
    assert labels(left) == ["exit 0", "exit 2"]
    early, late = left.get_lines()
    assert sorted(set(early.get_xdata())) == [1, 2, 3]
    assert sorted(set(late.get_xdata())) == [4, 6, 8]
    assert dots(right) == [[[1, 2], [2, 2]], [[4, 6], [3, 5]]]


def test_open_rates_are_colours_of_the_dots():
    rates = np.array([0.1, 0.2, 0.9, 0.5])
    report = LatencyReport("classify", 1, TIMES, MACS, open_rates=rates)
    left, right, bar = latency_plot({"net": report}).axes
    assert len(left.get_lines()) == 1 and left.get_legend() is None
    np.testing.assert_array_equal(right.collections[0].get_array(), rates)
    assert dots(right) == [[[1, 2], [2, 2], [4, 6], [3, 5]]]
    assert bar.get_ylabel() == "open rate"


def test_files_are_told_apart_by_name():
    exits = np.array([0, 0, 2, 2])
    reports = {
        "dynamic": LatencyReport("classify", 1, TIMES, MACS, exits),
        "plain": LatencyReport("classify", 1, 2 * TIMES),
    }
    left, right = latency_plot(reports).axes
    assert labels(left) == ["dynamic", "plain"]
    assert len(dots(right)) == 1 and len(dots(right)[0]) == 4


def test_without_macs_there_is_one_panel():
    figure = latency_plot({"plain": LatencyReport("classify", 1, TIMES)})
    (left,) = figure.axes
    assert left.get_xlabel() == "ms"


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="`reports` must hold one or more"):
        latency_plot({})
