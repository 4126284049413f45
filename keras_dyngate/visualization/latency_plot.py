"""How long images take, and how that goes with the MACs that they cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dyngate.runtime.latency import LatencyReport
from keras_dyngate.visualization.plots import COLORS, INK, clean_axes, new_figure


def latency_plot(reports: Mapping[str, LatencyReport]) -> Any:
    """Left: the share of calls that are done in a time. Right: time over executed MACs.

    A report alone is told apart by exit or, on the right, by open rate; several are told
    apart by name. The slowest hundredth of all calls is not shown.

    Args:
        reports: By name, what `time_images` returns.

    Returns:
        A matplotlib `Figure`. A dot is an image, at its median time; the right panel is
        left out if no file says what it executed.

    Raises:
        ValueError: If there is no report.
        ImportError: If matplotlib is not installed.
    """
    if not reports:
        raise ValueError(
            f"`reports` must hold one or more. Received: {dict(reports)!r}"
        )
    with_macs = any(r.executed_macs is not None for r in reports.values())
    figure = new_figure(9.2 if with_macs else 4.8, 3.6)
    panels = np.ravel(figure.subplots(1, 1 + with_macs))
    series = _series(reports)
    for index, (label, report, chosen) in enumerate(series, 1):
        color = COLORS[index % len(COLORS)]
        panels[0].ecdf(report.times_ms[:, chosen].ravel(), color=color, label=label)
        if report.executed_macs is None:
            continue
        macs, times = report.executed_macs[chosen] / 1e6, report.image_ms[chosen]
        rates = report.open_rates
        if len(series) == 1 and rates is not None:
            dots = panels[1].scatter(macs, times, 14, rates[chosen], cmap="viridis")
            bar = figure.colorbar(dots, ax=panels[1], fraction=0.04, pad=0.02)
            bar.set_label("open rate", color=INK)
            bar.outline.set_visible(False)
        else:
            panels[1].scatter(macs, times, 14, color=color, label=label)
    every = np.concatenate([report.times_ms.ravel() for report in reports.values()])
    panels[0].set_xlim(every.min(), np.percentile(every, 99))
    panels[0].set_xlabel("ms", color=INK)
    panels[0].set_ylabel("share of calls", color=INK)
    if with_macs:
        panels[1].set_xlabel("executed MACs (millions)", color=INK)
        panels[1].set_ylabel("ms, median per image", color=INK)
        panels[1].set_xlim(left=0)
        panels[1].set_ylim(bottom=0)
    if len(series) > 1:
        panels[0].legend(frameon=False, fontsize=9)
    for axes in panels:
        clean_axes(axes)
    return figure


def _series(
    reports: Mapping[str, LatencyReport],
) -> list[tuple[str, LatencyReport, np.ndarray]]:
    """What is drawn in a colour of its own: a label, a report, and which of its images."""
    if len(reports) == 1:
        (report,) = reports.values()
        if report.exits is not None:
            return [
                (f"exit {index}", report, report.exits == index)
                for index in np.unique(report.exits)
            ]
    return [
        (name, report, np.ones(report.times_ms.shape[1], bool))
        for name, report in reports.items()
    ]
