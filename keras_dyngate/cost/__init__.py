"""What a model costs: multiply-adds as a function of its decisions."""

from keras_dyngate.cost.counter import count_macs, used_parameters
from keras_dyngate.cost.mac_row import Gating, MacRow
from keras_dyngate.cost.profile import MacProfile
from keras_dyngate.cost.registry import register_macs
from keras_dyngate.cost.summary import summary

__all__ = [
    "Gating",
    "MacProfile",
    "MacRow",
    "count_macs",
    "register_macs",
    "summary",
    "used_parameters",
]
