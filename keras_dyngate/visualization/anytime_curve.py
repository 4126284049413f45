"""Accuracy of every sub-network of anytime nets, over MACs or time."""

from collections.abc import Mapping
from typing import Any

from keras_dyngate.visualization.plots import COLORS, INK, clean_axes, new_figure


def anytime_curves(curves: Mapping[str, Any], in_time: bool = False) -> Any:
    """A line per net, a numbered point per sub-network.

    Args:
        curves: By name, an `AnytimeCurve`, what `AnytimeModel.evaluate_anytime` returns.
        in_time: Whether to draw over milliseconds instead of MACs.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: If there is no curve.
        ImportError: If matplotlib is not installed.
    """
    if not curves or not all(len(curve) for curve in curves.values()):
        raise ValueError(
            f"`curves` must hold curves of one point or more. Received: {dict(curves)!r}"
        )
    figure = new_figure(5.6, 3.8)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items(), 1):
        x = [p.ms if in_time else p.macs / 1e6 for p in curve]
        y = [p.accuracy for p in curve]
        color = COLORS[index % len(COLORS)]
        axes.plot(x, y, marker="o", markersize=4, color=color, label=name or None)
        for point, left, up in zip(curve, x, y, strict=True):
            axes.annotate(
                str(point.k),
                (left, up),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
            )
    axes.set_xlabel("ms to the answer" if in_time else "MACs (millions)", color=INK)
    axes.set_ylabel("accuracy", color=INK)
    if any(curves):
        axes.legend(frameon=False, fontsize=9)
    clean_axes(axes)
    return figure
