"""Float kernels of an int8 file with 8-bit weights: those of a first net.

A first net is a float branch of an int8 file, and its ordinary kernels are stored as those
of a "dynamic" file are: int8 with a scale for each output channel, inputs rounded as they
come. That is its fastest form. MobileNetV2 of width .35 at 96 / 128 pixels took, of the
time of EfficientNet-Lite0 at 160 pixels in int8, .23 / .37 in int8, .20 / .29 in float32
and .17 / .24 so (x86, one thread). Depthwise and thin kernels stay float as in "dynamic"
files.
"""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.export.float_kernels import is_one_of, stays_float
from keras_dyngate.flatfile import flatbuffer

LEAST = 1024  # numbers of a kernel that the converter would round too
_VERSIONS = {"CONV_2D": 5, "FULLY_CONNECTED": 12}  # the first with a scale per channel


def eight_bit_weights(model: schema.ModelT, kept: Sequence[np.ndarray]) -> None:
    """Store float kernels of convolutions and dense layers in 8 bits.

    Args:
        model: The file, changed in place.
        kept: Kernels of dense layers, `[inputs, outputs]`, that stay as they are.
    """
    for _, graph, operator in flatbuffer.walk(model):
        name = flatbuffer.op_name(model, operator)
        if name not in _VERSIONS:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        is_float = tensor.type == schema.TensorType.FLOAT32
        if (
            is_float
            and not stays_float(name, tensor)
            and not is_one_of(model, tensor, kept)
        ):
            _round(model, tensor)
        given = graph.tensors[operator.inputs[0]].type
        is_hybrid = (given, tensor.type) == (
            schema.TensorType.FLOAT32,
            schema.TensorType.INT8,
        )
        if is_hybrid:
            builtin = getattr(schema.BuiltinOperator, name)
            operator.opcodeIndex = flatbuffer.opcode_index(
                model, builtin, _VERSIONS[name]
            )
            if name == "FULLY_CONNECTED":
                operator.builtinOptions.asymmetricQuantizeInputs = True
    flatbuffer.drop_unused_buffers(model)


def _round(model: schema.ModelT, tensor: schema.TensorT) -> None:
    """Make a constant float kernel, outputs first, int8; a small one stays."""
    values = flatbuffer.constant(model, tensor, np.float32)
    if values is None or values.size < LEAST:
        return
    kernel = values.reshape(tensor.shape[0], -1)
    scale = np.abs(kernel).max(1) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    rounded = np.round(kernel / scale[:, None]).astype(np.int8)
    tensor.type = schema.TensorType.INT8
    tensor.buffer = flatbuffer.intern_buffer(model, rounded)
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = scale.astype(np.float32)
    tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
    tensor.quantization.quantizedDimension = 0
