"""Moved: see `keras_dyngate.channels` and `keras_dyngate.thresholds`."""

from keras_dyngate._deprecation import moved

_CHANNELS = ("PackingReport", "channel_importance", "pack_channels", "prime_gates")
_THRESHOLDS = ("ExitOutcome", "ExitTable", "Promise")

__getattr__ = moved(
    __name__,
    dict.fromkeys(_CHANNELS, "keras_dyngate.channels")
    | dict.fromkeys(_THRESHOLDS, "keras_dyngate.thresholds"),
)
