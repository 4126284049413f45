"""Figures: what a net costs, where it decides, which images are easy.

Every function returns a `matplotlib.figure.Figure` of its own. pyplot is not used, so
no figure stays open and no backend is chosen for the caller.

    figure = open_rates_by_class(kd.decide(model, images), labels)
    figure.savefig("open_rates.png")
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dyngate._checks import positive_int

INK, MUTED, GRID = "#1f2933", "#66727f", "#e3e8ee"
COLORS = ("#9aa7b5", "#1f7a8c", "#e08d3c", "#7a5195")


def new_figure(width: float, height: float) -> Any:
    """An empty figure in the house style, or a hint at what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`keras_dyngate.visualization` needs matplotlib. Install it with "
            "`pip install keras_dyngate[examples]`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def clean_axes(axes: Any) -> None:
    """No frame, no ticks, quiet labels."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=MUTED, length=0, labelsize=9)


def side_by_side(panels: Mapping[str, Mapping[str, float]]) -> Any:
    """Bars of several nets, one panel per quantity: accuracy, MACs, milliseconds.

    Args:
        panels: Values by net, by title of the panel:
            `{"MACs (millions)": {"plain": 40.6, "gated": 21.9}, ...}`.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: If there is no panel, or a panel without a net.
        ImportError: If matplotlib is not installed.
    """
    if not panels or not all(panels.values()):
        raise ValueError(
            f"`panels` must hold panels of one net or more. Received: {dict(panels)!r}"
        )
    nets = list(dict.fromkeys(net for panel in panels.values() for net in panel))
    colors = {net: COLORS[i % len(COLORS)] for i, net in enumerate(nets)}
    height = 1.0 + 0.45 * max(len(panel) for panel in panels.values())
    figure = new_figure(3.4 * len(panels), height)
    for axes, (title, panel) in zip(
        np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        values = [float(value) for value in panel.values()]
        bars = axes.barh(
            list(panel), values, 0.62, color=[colors[net] for net in panel]
        )
        axes.bar_label(bars, [f" {v:.4g}" for v in values], color=INK, fontsize=10)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max(*values, 1e-12))
        axes.set_xticks([])
        clean_axes(axes)
        axes.tick_params(axis="y", labelsize=10, labelcolor=INK)
    return figure


def open_rates_by_class(
    decisions: Mapping[str, np.ndarray],
    labels: Any,
    class_names: Sequence[str] | None = None,
) -> Any:
    """A heat map: share of open units, per decision (rows) and class (columns).

    Args:
        decisions: As `decide` returns them: `[N, units]` arrays by name; `exit`, which
            is no gate, is left out.
        labels: Class indices of the same samples, `[N]`.
        class_names: Names of the classes. None: their indices.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: If there are no decisions, or as many labels as samples are missing.
        ImportError: If matplotlib is not installed.
    """
    labels = np.asarray(labels).ravel()
    decisions = {name: v for name, v in decisions.items() if name != "exit"}
    wrong = {name for name, v in decisions.items() if len(v) != len(labels)}
    if not decisions or wrong or not len(labels):
        raise ValueError(
            "`decisions` and `labels` must be of the same samples, at least one. "
            f"Received: {len(labels)} labels, decisions "
            + str({name: np.shape(values) for name, values in decisions.items()})
        )
    classes = np.unique(labels)
    rates = np.array(
        [
            [np.mean(np.asarray(values)[labels == c] > 0) for c in classes]
            for values in decisions.values()
        ]
    )
    rows, columns = rates.shape
    figure = new_figure(2.6 + 0.62 * columns, 1.1 + 0.36 * rows)
    axes = figure.subplots()
    image = axes.imshow(rates, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    if rates.size <= 400:
        for (row, column), rate in np.ndenumerate(rates):
            color = "white" if rate > 0.6 else INK
            place = {"ha": "center", "va": "center"}
            axes.text(column, row, f"{rate:.0%}", color=color, size=8, **place)
    names = [str(c) for c in classes]
    if class_names is not None:
        names = [class_names[c] for c in classes]
    axes.set_xticks(range(columns), names)
    axes.set_yticks(range(rows), list(decisions))
    axes.set_xlabel("class", color=MUTED, fontsize=9)
    clean_axes(axes)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, length=0, labelsize=8)
    bar.set_ticks([0, 0.5, 1], labels=["shut", "50 %", "open"])
    return figure


def least_and_most(
    images: Any, used: Any, captions: Sequence[str] | None = None, count: int = 8
) -> Any:
    """The images that a net spent least on, above those that it spent most on.

    Args:
        images: `[N, height, width, 3]` or `[N, height, width]`, 0 to 255.
        used: What each image used, `[N]`, such as `profile.of(decisions)`.
        captions: A line under each image. None: `used`, as a share of the largest.
        count: Images per row; fewer if there are not enough. Default 8.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: If there are no images, or `used` or `captions` has another length.
        ImportError: If matplotlib is not installed.
    """
    images, used = np.asarray(images), np.asarray(used).ravel()
    if captions is None:
        captions = [f"{share:.0%}" for share in used / max(used.max(initial=0), 1)]
    if not len(images) or not len(images) == len(used) == len(captions):
        raise ValueError(
            "`images`, `used` and `captions` must be of the same samples, at least "
            f"one. Received: {len(images)}, {len(used)} and {len(captions)}"
        )
    count = min(positive_int("count", count), len(images))
    order = np.argsort(used, kind="stable")
    figure = new_figure(1.05 * count + 0.9, 3.1)
    for row, (title, chosen) in zip(
        figure.subplots(2, count, squeeze=False),
        (("least", order[:count]), ("most", order[len(order) - count :][::-1])),
        strict=True,
    ):
        for axes, index in zip(row, chosen, strict=True):
            picture = np.clip(images[index], 0, 255).astype("uint8")
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_xlabel(captions[index], fontsize=8, color=INK)
            axes.set_xticks([])
            axes.set_yticks([])
            clean_axes(axes)
        row[0].set_ylabel(title, fontsize=10, color=INK)
    return figure
