import numpy as np
import pytest

pytest.importorskip("matplotlib")

from keras_dyngate.thresholds import ExitOutcome  # noqa: E402
from keras_dyngate.visualization import exit_curves  # noqa: E402


def point(share, accuracy, ms=None):
    return ExitOutcome((0.0,), (0.5, 0.5), 100 * share, share, accuracy, 0.9, ms)


def test_points_are_drawn_in_order_of_their_cost():
    curves = {
        "hinge": [point(0.8, 0.88, 3.0), point(0.5, 0.7, 2.0)],
        "entropy": [point(0.6, 0.75, 2.5)],
    }
    axes = exit_curves(curves).axes[0]
    hinge, entropy, head = axes.get_lines()
    np.testing.assert_array_equal(hinge.get_xydata(), [[0.5, 0.7], [0.8, 0.88]])
    np.testing.assert_array_equal(entropy.get_xydata(), [[0.6, 0.75]])
    assert set(head.get_ydata()) == {0.9}
    assert [t.get_text() for t in axes.get_legend().get_texts()] == list(curves)
    timed = exit_curves(curves, in_time=True).axes[0].get_lines()[0]
    np.testing.assert_array_equal(timed.get_xdata(), [2.0, 3.0])


def test_what_is_missing():
    for curves, in_time in (
        ({}, False),
        ({"a": []}, False),
        ({"a": [point(0.5, None)]}, False),
        ({"a": [point(0.5, 0.7)]}, True),
    ):
        with pytest.raises(ValueError, match="`curves` must hold points"):
            exit_curves(curves, in_time)
