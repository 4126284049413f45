"""Large constants of one value, made when needed instead of stored.

What a skipped branch hands on may be zeros of the size of a feature map. In an int8 file
each has the zero point of its own scale, so that no two are the same bytes: at 360x480 a
segmentation net would be twice its weights. A FILL writes them, right before their IF.
"""

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer

MIN_BYTES = 1 << 16  # smaller ones stay
_FILL_VERSION = 3  # the first that fills int8


def _is_large_and_uniform(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    kinds = {schema.TensorType.INT8: np.int8, schema.TensorType.FLOAT32: np.float32}
    if data is None or len(data) < MIN_BYTES or tensor.type not in kinds:
        return False
    values = np.frombuffer(data, kinds[tensor.type])
    return bool((values == values[0]).all())


def _fill(
    model: schema.ModelT, graph: schema.SubGraphT, tensor: schema.TensorT
) -> schema.OperatorT:
    """An operator that computes what a constant tensor holds."""
    size = 1 if tensor.type == schema.TensorType.INT8 else 4
    value, shape, output = (copy.copy(tensor) for _ in range(3))
    value.shape, value.shapeSignature = np.zeros(0, np.int32), None
    value.buffer = flatbuffer.intern_buffer(
        model, bytes(model.buffers[tensor.buffer].data[:size])
    )
    shape.shape, shape.shapeSignature = np.array([len(tensor.shape)], np.int32), None
    shape.type, shape.quantization = schema.TensorType.INT32, None
    shape.buffer = flatbuffer.intern_buffer(model, np.array(tensor.shape, np.int32))
    output.buffer = 0
    inputs = [flatbuffer.add_tensor(graph, item) for item in (shape, value)]
    outputs = [flatbuffer.add_tensor(graph, output)]
    return flatbuffer.new_operator(model, "FILL", _FILL_VERSION, inputs, outputs)


def fill_constants(model: schema.ModelT) -> None:
    """Compute the large uniform constants that are operands of an IF.

    Args:
        model: The file, changed in place.
    """
    for graph in model.subgraphs:
        operators: list[schema.OperatorT] = []
        made: dict[int, int] = {}  # by the constant, the tensor that takes its place
        for operator in graph.operators:
            if flatbuffer.op_name(model, operator) == "IF":
                for old in operator.inputs[1:]:
                    tensor = graph.tensors[old]
                    if old not in made and _is_large_and_uniform(model, tensor):
                        operators.append(_fill(model, graph, tensor))
                        made[old] = operators[-1].outputs[0]
                operator.inputs = [made.get(old, old) for old in operator.inputs]
            operators.append(operator)
        graph.operators = operators
    flatbuffer.drop_unused_buffers(model)
