"""The figure of a Pareto front: accuracy against each cost that is known."""

from typing import Any

from keras_dyngate.visualization.plots import (
    COLORS,
    GRID,
    INK,
    MUTED,
    clean_axes,
    new_figure,
)

TITLES = {"ms": "ms per image", "macs": "million MACs per image", "bytes": "MiB"}
SCALES = {"ms": 1.0, "macs": 1e6, "bytes": 2.0**20}


def pareto_plot(front: Any) -> Any:
    """Draw a `ParetoFront`.

    Args:
        front: With one point or more.

    Returns:
        A matplotlib `Figure`: a panel for each cost that is known of all points; those
        on the front are filled, and joined by a line.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no point.
    """
    if not front.tried:
        raise ValueError("`front` must hold a point or more. Received: none")
    on_front = front.points
    figure = new_figure(4.2 * len(front.known), 3.4)
    panels = figure.subplots(1, len(front.known), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, front.known, strict=True):
        clean_axes(axes)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        others = [p for p in front.tried if p not in on_front]
        for points, options in (
            (others, {"facecolors": "none", "edgecolors": COLORS[0]}),
            (on_front, {"color": COLORS[1]}),
        ):
            x = [getattr(p, name) / SCALES[name] for p in points]
            axes.scatter(x, [p.accuracy for p in points], s=28, **options)
        steps = sorted((getattr(p, name) / SCALES[name], p.accuracy) for p in on_front)
        best, line = -1.0, []
        for cost, accuracy in steps:  # what beats all that is cheaper
            if accuracy > best:
                best = accuracy
                line.append((cost, accuracy))
        axes.plot(*zip(*line, strict=True), color=COLORS[1], linewidth=1.2)
        axes.set_xlabel(TITLES[name], color=MUTED)
    panels[0].set_ylabel("accuracy", color=MUTED)
    figure.suptitle(f"{len(on_front)} of {len(front.tried)} nets", color=INK)
    return figure
