"""What a model costs as a function of its decisions, in MACs or measured."""

from keras_dyngate.cost.cost_row import CostRow, Gating, MacRow
from keras_dyngate.cost.cost_table import CostTable, MacProfile
from keras_dyngate.cost.counter import count_macs, used_parameters
from keras_dyngate.cost.measured import Measured
from keras_dyngate.cost.registry import register_macs
from keras_dyngate.cost.summary import summary

__all__ = [
    "CostRow",
    "CostTable",
    "Gating",
    "MacProfile",
    "MacRow",
    "Measured",
    "count_macs",
    "register_macs",
    "summary",
    "used_parameters",
]
