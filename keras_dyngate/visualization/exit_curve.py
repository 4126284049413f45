"""Accuracy against cost, for nets that may stop early."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_dyngate.visualization.plots import INK, MUTED, clean_axes, new_figure

if TYPE_CHECKING:  # a page can be written without Keras
    from keras_dyngate.thresholds.table import ExitOutcome


def exit_curves(
    curves: "Mapping[str, Sequence[ExitOutcome]]", in_time: bool = False
) -> Any:
    """Curves of accuracy over the share of MACs, or over milliseconds.

    Args:
        curves: By name, what `EarlyExitModel.curve` returns on labelled data.
        in_time: Whether to draw against `ExitOutcome.ms` instead.

    Returns:
        A matplotlib `Figure`; the dashed line is the head's accuracy.

    Raises:
        ValueError: If there is no curve, or one lacks accuracies or times.
        ImportError: If matplotlib is not installed.
    """
    lacking = [
        name
        for name, points in curves.items()
        if not points
        or any(p.accuracy is None or (in_time and p.ms is None) for p in points)
    ]
    if not curves or lacking:
        raise ValueError(
            "`curves` must hold points with an accuracy"
            + (" and a time" if in_time else "")
            + f". Received: {lacking or 'no curve'}"
        )
    figure = new_figure(5.6, 3.8)
    axes = figure.subplots()
    for name, points in curves.items():
        pairs = sorted((p.ms if in_time else p.macs_share, p.accuracy) for p in points)
        axes.plot(*zip(*pairs, strict=True), marker="o", markersize=3, label=name)
    head = next(iter(curves.values()))[0].head_accuracy
    axes.axhline(head, color=MUTED, linestyle="--", linewidth=1)
    axes.set_xlabel("ms per image" if in_time else "MACs, share of all", color=INK)
    axes.set_ylabel("accuracy", color=INK)
    axes.legend(frameon=False, fontsize=9)
    clean_axes(axes)
    return figure
