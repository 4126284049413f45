"""Run and time an exported file with LiteRT alone: no Keras, no TensorFlow."""

from keras_dyngate.runtime.anytime_runner import AnytimeAnswer, AnytimeRunner
from keras_dyngate.runtime.comparison import compare_latency
from keras_dyngate.runtime.exit_calibration import calibrate_tflite, set_thresholds
from keras_dyngate.runtime.golden import compare_golden, write_golden
from keras_dyngate.runtime.latency import LatencyReport, measure_latency, time_images
from keras_dyngate.runtime.litert_model import LiteRTModel
from keras_dyngate.runtime.machine import describe_machine
from keras_dyngate.runtime.trials import Trials, draw_trials, time_trials

__all__ = [
    "AnytimeAnswer",
    "AnytimeRunner",
    "LatencyReport",
    "LiteRTModel",
    "Trials",
    "calibrate_tflite",
    "compare_golden",
    "compare_latency",
    "describe_machine",
    "draw_trials",
    "measure_latency",
    "set_thresholds",
    "time_images",
    "time_trials",
    "write_golden",
]
