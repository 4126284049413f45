"""Kernels of decision gates in float32, in a file whose other weights are int8.

Eight bits are too coarse for a threshold: where features hardly vary, a gate's weights
for them are large and share one scale with all others. The converter quantizes every
kernel of 1,024 numbers or more; here those of the gates are put back as they were.
"""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.runtime import flatbuffer


def _is_rounded(
    model: schema.ModelT, tensor: schema.TensorT, kernel: np.ndarray
) -> bool:
    """Whether a tensor is `kernel` `[outputs, inputs]` in int8, to half a step."""
    if tuple(tensor.shape) != kernel.shape or tensor.type != schema.TensorType.INT8:
        return False
    stored = flatbuffer.constant(model, tensor, np.int8)
    if stored is None:
        return False
    scale = np.asarray(tensor.quantization.scale, np.float64)[:, None]
    found = stored.reshape(kernel.shape) * scale  # of all, or of each output
    return bool((np.abs(found - kernel) <= 0.501 * scale + 1e-12).all())


def float_gates(model: schema.ModelT, kernels: Sequence[np.ndarray]) -> None:
    """Put the kernels of gates back.

    Args:
        model: The file, changed in place.
        kernels: `[inputs, outputs]` of every gate.

    Raises:
        RuntimeError: If the file has a kernel neither in float32 nor in int8.
    """
    turned = [np.ascontiguousarray(kernel.T, np.float32) for kernel in kernels]
    found = [False] * len(turned)
    for _, graph, operator in flatbuffer.walk(model):
        if flatbuffer.op_name(model, operator) != "FULLY_CONNECTED":
            continue
        tensor = graph.tensors[operator.inputs[1]]
        for index, kernel in enumerate(turned):
            if _is_rounded(model, tensor, kernel):
                tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
                tensor.buffer = flatbuffer.intern_buffer(model, kernel)
                operator.builtinOptions.asymmetricQuantizeInputs = False
            if tensor.type == schema.TensorType.FLOAT32:
                values = flatbuffer.constant(model, tensor, np.float32)
                found[index] |= values is not None and np.array_equal(
                    values, kernel.ravel()
                )
    if not all(found):
        raise RuntimeError(
            f"The file holds only {sum(found)} of the kernels of {len(found)} decision "
            "gates: the converter made something else of them."
        )
    flatbuffer.drop_unused_buffers(model)
