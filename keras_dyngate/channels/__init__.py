"""Gated channels of a trained net: which matter, in which order, in which groups."""

from keras_dyngate.channels.importance import channel_importance
from keras_dyngate.channels.packing import pack_channels
from keras_dyngate.channels.packing_report import PackingReport
from keras_dyngate.channels.priming import prime_gates

__all__ = ["PackingReport", "channel_importance", "pack_channels", "prime_gates"]
