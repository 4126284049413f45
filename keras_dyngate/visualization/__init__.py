"""Figures of what a dynamic net does and costs, and a page that holds them.

Needs matplotlib and jinja2: `pip install keras_dyngate[examples]`.
"""

from keras_dyngate.visualization.anytime_curve import anytime_curves
from keras_dyngate.visualization.exit_curve import exit_curves
from keras_dyngate.visualization.latency_plot import latency_plot
from keras_dyngate.visualization.plots import (
    least_and_most,
    open_rates_by_class,
    side_by_side,
)
from keras_dyngate.visualization.report import write_report

__all__ = [
    "anytime_curves",
    "exit_curves",
    "latency_plot",
    "least_and_most",
    "open_rates_by_class",
    "side_by_side",
    "write_report",
]
