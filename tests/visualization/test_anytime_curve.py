import numpy as np
import pytest

pytest.importorskip("matplotlib")

from keras_dyngate.models.anytime.curve import (  # noqa: E402
    AnytimeCurve,
    AnytimePoint,
)
from keras_dyngate.visualization import anytime_curves  # noqa: E402


def curve(*points):
    """Of (MACs in millions, ms, accuracy)."""
    return AnytimeCurve(
        tuple(
            AnytimePoint(k, int(macs * 1e6), 1, ms, accuracy)
            for k, (macs, ms, accuracy) in enumerate(points, 1)
        ),
        samples=100,
        timed="a stopwatch",
    )


CURVES = {
    "sliced": curve((1.5, 0.4, 0.5), (4.0, 1.1, 0.75), (9.0, 2.3, 0.8)),
    "inclusive": curve((2.0, 0.7, 0.6), (8.0, 2.9, 0.7)),
}


def test_a_line_per_net_a_number_per_subnetwork():
    figure = anytime_curves(CURVES)
    (axes,) = figure.axes
    sliced, inclusive = axes.get_lines()
    np.testing.assert_allclose(
        sliced.get_xydata(), [[1.5, 0.5], [4.0, 0.75], [9.0, 0.8]]
    )
    np.testing.assert_allclose(inclusive.get_xydata(), [[2.0, 0.6], [8.0, 0.7]])
    assert sliced.get_color() != inclusive.get_color()
    assert [t.get_text() for t in axes.get_legend().get_texts()] == list(CURVES)
    assert axes.get_xlabel() == "MACs (millions)" and axes.get_ylabel() == "accuracy"
    numbers = [(t.get_text(), t.xy) for t in axes.texts]
    assert numbers == [
        ("1", (1.5, 0.5)),
        ("2", (4.0, 0.75)),
        ("3", (9.0, 0.8)),
        ("1", (2.0, 0.6)),
        ("2", (8.0, 0.7)),
    ]


def test_over_time():
    (axes,) = anytime_curves(CURVES, in_time=True).axes
    sliced, inclusive = axes.get_lines()
    np.testing.assert_array_equal(sliced.get_xdata(), [0.4, 1.1, 2.3])
    np.testing.assert_array_equal(inclusive.get_xdata(), [0.7, 2.9])
    np.testing.assert_array_equal(sliced.get_ydata(), [0.5, 0.75, 0.8])
    assert axes.get_xlabel() == "ms to the answer"


def test_one_net_needs_no_name():
    (axes,) = anytime_curves({"": CURVES["sliced"]}).axes
    assert axes.get_legend() is None
    assert len(axes.get_lines()) == 1
    with pytest.warns(DeprecationWarning, match="anytime_curves"):
        figure = CURVES["sliced"].plot(in_time=True)
    np.testing.assert_array_equal(
        figure.axes[0].get_lines()[0].get_xdata(), [0.4, 1.1, 2.3]
    )


def test_more_nets_than_colors():
    curves = {str(i): CURVES["sliced"] for i in range(6)}
    assert len(anytime_curves(curves).axes[0].get_lines()) == 6


def test_can_be_written(tmp_path):
    anytime_curves(CURVES).savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("curves", [{}, {"a": curve()}, {**CURVES, "a": curve()}])
def test_what_is_missing(curves):
    with pytest.raises(
        ValueError, match="`curves` must hold curves of one point or mor"
    ):
        anytime_curves(curves)
