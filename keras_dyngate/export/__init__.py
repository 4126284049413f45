"""Export to .tflite: conditional lowering, quantization, signatures, parity."""

from keras_dyngate.export.add_exits import add_exits
from keras_dyngate.export.conversion import quiet
from keras_dyngate.export.exits_result import ExitsResult
from keras_dyngate.export.exporter import export_tflite
from keras_dyngate.export.lowering import Branch
from keras_dyngate.export.options import AnytimeOptions, GateOptions
from keras_dyngate.export.parity import Parity, check_parity
from keras_dyngate.export.report import ExportReport

__all__ = [
    "AnytimeOptions",
    "Branch",
    "ExitsResult",
    "ExportReport",
    "GateOptions",
    "Parity",
    "add_exits",
    "check_parity",
    "export_tflite",
    "quiet",
]
