"""Kernels that stay float32 in a file whose other weights are int8.

Those of decision gates, and of the last linear layer of a head: eight bits are too coarse
for a threshold. Where features hardly vary, a gate's weights for them are large and share
one scale with all others.

Those of depthwise convolutions: LiteRT's fast kernels know them in float and in full
int8, but not with 8-bit weights alone. EfficientNet-Lite0 at 160 pixels took 7.4 ms with
8-bit depthwise kernels and 4.2 ms with float ones (float32 throughout: 6.7 ms; x86 with
AVX-512, one thread); they are 5 % of its weights.

Those of thin convolutions: an 8-bit kernel wants its inputs rounded pixel by pixel and
its sums scaled back, which costs as the channels do, while what it saves goes as the
products. MACs per channel in and out of a pixel, time with 8-bit weights over float:
14, 1.19; 16, 1.40; 18, 1.35; 21, 0.99 to 1.02; 27, 0.66; 30, 0.72 (same machine).

The converter quantizes every kernel of 1,024 numbers or more; here these are put back.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer

_DEPTHWISE = "DEPTHWISE_CONV_2D"
THIN = 21  # MACs per channel in and out of a pixel, below which float is as fast


def _is_rounded(
    model: schema.ModelT, tensor: schema.TensorT, kernel: np.ndarray
) -> bool:
    """Whether a tensor is `kernel` in int8, to half a step."""
    if tuple(tensor.shape) != kernel.shape or tensor.type != schema.TensorType.INT8:
        return False
    stored = flatbuffer.constant(model, tensor, np.int8)
    if stored is None:
        return False
    sides = np.ones(kernel.ndim, int)  # one scale of all, or of each output
    sides[tensor.quantization.quantizedDimension] = -1
    scale = np.asarray(tensor.quantization.scale, np.float64).reshape(sides)
    found = stored.reshape(kernel.shape) * scale
    return bool((np.abs(found - kernel) <= 0.501 * scale + 1e-12).all())


def _put_back(
    model: schema.ModelT, operator: Any, tensor: schema.TensorT, kernel: np.ndarray
) -> None:
    tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    tensor.buffer = flatbuffer.intern_buffer(model, np.ascontiguousarray(kernel))
    if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
        operator.builtinOptions.asymmetricQuantizeInputs = False


def float_gates(model: schema.ModelT, kernels: Sequence[Sequence[np.ndarray]]) -> None:
    """Put the kernels of gates back.

    Args:
        model: The file, changed in place.
        kernels: `[inputs, outputs]` of every gate, in each form that it may have: the
            converter puts a factor of scores into the kernel.

    Raises:
        RuntimeError: If the file has a kernel neither in float32 nor in int8.
    """
    found = [False] * len(kernels)
    for _, graph, operator in flatbuffer.walk(model):
        if flatbuffer.op_name(model, operator) != "FULLY_CONNECTED":
            continue
        tensor = graph.tensors[operator.inputs[1]]
        for index, forms in enumerate(kernels):
            for kernel in forms:
                turned = np.ascontiguousarray(kernel.T, np.float32)
                if _is_rounded(model, tensor, turned):
                    _put_back(model, operator, tensor, turned)
            found[index] |= is_one_of(model, tensor, forms)
    if not all(found):
        raise RuntimeError(
            f"The file holds only {sum(found)} of the kernels of {len(found)} decision "
            "gates: the converter made something else of them."
        )
    flatbuffer.drop_unused_buffers(model)


def is_one_of(
    model: schema.ModelT, tensor: schema.TensorT, kernels: Iterable[np.ndarray]
) -> bool:
    """Whether the kernel of a FULLY_CONNECTED is one of these, `[inputs, outputs]`."""
    if tensor.type != schema.TensorType.FLOAT32:
        return False
    values = flatbuffer.constant(model, tensor, np.float32)
    if values is None:
        return False
    stored = values.reshape(tensor.shape).T
    return any(np.array_equal(stored, kernel) for kernel in kernels)


def is_thin(macs: int, inputs: int, outputs: int) -> bool:
    """Whether a convolution is as fast in float as with 8-bit weights, or faster.

    Args:
        macs: MACs of a pixel, `inputs` and `outputs` its channels.
    """
    return macs < THIN * (inputs + outputs)


def stays_float(name: str, tensor: schema.TensorT) -> bool:
    """Whether the kernel of an operator of this name is for float, by its shape."""
    if name != "CONV_2D":
        return name == _DEPTHWISE
    outputs, *_, inputs = tensor.shape
    return is_thin(math.prod(tensor.shape), inputs, outputs)


def _thin(model: schema.ModelT) -> Iterator[tuple[Any, schema.TensorT]]:
    for _, graph, operator in flatbuffer.walk(model):
        name = flatbuffer.op_name(model, operator)
        if name in ("CONV_2D", _DEPTHWISE):
            tensor = graph.tensors[operator.inputs[1]]
            if stays_float(name, tensor):
                yield operator, tensor


def float_thin(model: schema.ModelT, exact: Callable[[], schema.ModelT]) -> None:
    """Put the kernels of depthwise and of thin convolutions back.

    Args:
        model: The file, changed in place.
        exact: Converts the same functions to a file in float32; called if need be.
    """
    mine = list(_thin(model))
    if all(tensor.type != schema.TensorType.INT8 for _, tensor in mine):
        return
    other = exact()
    for (operator, tensor), (_, theirs) in zip(mine, _thin(other), strict=True):
        values = flatbuffer.constant(other, theirs, np.float32)
        if values is None:
            continue
        kernel = values.reshape(theirs.shape)
        if _is_rounded(model, tensor, kernel):
            _put_back(model, operator, tensor, kernel)
    flatbuffer.drop_unused_buffers(model)


def float_kernels(model: schema.ModelT) -> Counter[str]:
    """Convolution and dense kernels of a file whose input is not int8, by op name."""
    data = {name: 0 for name in ("CONV_2D", _DEPTHWISE, "FULLY_CONNECTED")}
    data["TRANSPOSE_CONV"] = 2  # the shape of the output comes first
    return Counter(
        name
        for _, subgraph, operator in flatbuffer.walk(model)
        if (name := flatbuffer.op_name(model, operator)) in data
        and subgraph.tensors[operator.inputs[data[name]]].type != schema.TensorType.INT8
    )


def check_int8(model: schema.ModelT, in_float: int = 0) -> None:
    """Refuse an int8 file with kernels in float.

    Args:
        model: The file.
        in_float: How many kernels are kept so.

    Raises:
        RuntimeError: If more are.
    """
    left = float_kernels(model)
    if sum(left.values()) > in_float:
        raise RuntimeError(
            f"int8 conversion left {sum(left.values())} kernels in float: "
            f"{dict(left)}. Calibration did not reach them."
        )
