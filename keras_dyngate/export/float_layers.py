"""Named layers of an int8 file in float32: those that lose most in 8 bits.

The converter rounds every kernel between two tensors with ranges. Here chosen ones are put
back: DEQUANTIZE, the operator in float32, QUANTIZE. They are known by their numbers: in a
file each channel of a kernel is that of its layer times a factor, of the normalization
that was folded in.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate._graph import FlatGraph
from keras_dyngate.controllers import Controller
from keras_dyngate.export.int8_borders import FROM_FLOAT, FROM_INT8, WEIGHTED
from keras_dyngate.export.lowering.constants import value
from keras_dyngate.export.plan.traced import Traced
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.quantization.quantized_layer import FloatLayer

HALF = 0.51 / 127  # of a step, of numbers whose largest is 1


def stored_kernel(layer: keras.Layer) -> np.ndarray | None:
    """A layer's kernel as a file stores it, but for factors of its channels.

    None for a layer that has none, or another kind of it.
    """
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = value(layer.kernel)
        return kernel.reshape(1, *kernel.shape[:2], -1)
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
        return np.moveaxis(value(layer.kernel), -1, 0)
    return None


def named_kernels(
    graphs: Iterable[FlatGraph], names: Collection[str]
) -> dict[str, np.ndarray]:
    """Kernels of the layers that are to stay in float32; see `export_tflite`.

    Args:
        graphs: Of what is exported.
        names: Of layers, or their paths.

    Raises:
        ValueError: If there is no such layer, or it has no kernel.
    """
    if isinstance(names, str):
        raise ValueError(
            f"`keep_float` must be a list of names. Received: keep_float={names!r}"
        )
    found: dict[str, np.ndarray] = {}
    for graph in graphs:
        for call in graph.calls:
            for name in {call.path, call.operation.name} & set(names):
                kernel = stored_kernel(call.operation)
                if kernel is not None:
                    found[name] = kernel
    missing = set(names) - set(found)
    if missing:
        raise ValueError(
            "`keep_float` must name convolutions or dense layers of the model, outside "
            f"gated blocks. Received: {sorted(missing)}"
        )
    return found


def in_float(model: keras.Model, traced: Traced) -> dict[str, Any]:
    """What stays in float32 in the file of a quantize-aware net, for `Traced`."""
    layers = {id(x): x for x in model._flatten_layers()}.values()
    kept = [x.layer for x in layers if isinstance(x, FloatLayer)]
    kernels = {layer.name: stored_kernel(layer) for layer in kept}
    gates = [
        (value(inner.kernel),)
        for layer in layers
        if isinstance(layer, Controller)
        for inner in layer._flatten_layers()
        if isinstance(inner, keras.layers.Dense)
    ]
    return {
        "rounds": True,
        "float_layers": {n: k for n, k in kernels.items() if k is not None},
        "gate_kernels": (*traced.gate_kernels, *gates),
    }


def float_layers(model: schema.ModelT, kernels: Mapping[str, np.ndarray]) -> None:
    """Put kernels back to float32, with what they read and put out.

    Args:
        model: The file, changed in place, of int8.
        kernels: By name of the layer; see `stored_kernel`.

    Raises:
        ValueError: If the file has one of them nowhere: one that was cut into groups.
    """
    missing = set(kernels)
    for _, graph, operator in list(flatbuffer.walk(model)):
        if flatbuffer.op_name(model, operator) not in WEIGHTED:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        for name, kernel in kernels.items():
            exact = _exact(model, tensor, kernel)
            if exact is not None:
                missing.discard(name)
                if tensor.type == schema.TensorType.INT8:
                    _put_back(model, graph, operator, exact)
                break
    if missing:
        raise ValueError(
            "`keep_float` must name layers whose kernels a file has as a whole; those in "
            f"gated blocks are cut into groups. Received: {sorted(missing)}"
        )
    for graph in model.subgraphs:
        _join(model, graph)
    flatbuffer.drop_unused_buffers(model)


def _exact(
    model: schema.ModelT, tensor: schema.TensorT, kernel: np.ndarray
) -> np.ndarray | None:
    """`kernel` with the factors that a tensor's channels have; None: it is another."""
    if tuple(tensor.shape) != kernel.shape:
        return None
    is_int8 = tensor.type == schema.TensorType.INT8
    if not is_int8 and tensor.type != schema.TensorType.FLOAT32:
        return None
    stored = flatbuffer.constant(model, tensor, np.int8 if is_int8 else np.float32)
    if stored is None:
        return None
    axis = tensor.quantization.quantizedDimension if is_int8 else _axis(kernel)
    mine = np.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis])
    theirs = np.moveaxis(stored.reshape(kernel.shape), axis, -1).reshape(mine.shape)
    theirs = theirs.astype(np.float64)
    if is_int8:
        theirs = theirs * np.asarray(tensor.quantization.scale, np.float64)
    tops = [np.maximum(np.abs(x).max(0), 1e-30) for x in (mine, theirs)]
    sign = np.where((mine * theirs).sum(0) < 0, -1.0, 1.0)
    if not (np.abs(mine / tops[0] * sign - theirs / tops[1]) <= HALF).all():
        return None
    found = mine * (sign * tops[1] / tops[0])
    shape = np.moveaxis(kernel, axis, -1).shape
    return np.moveaxis(found.reshape(shape), -1, axis).astype(np.float32)


def _axis(kernel: np.ndarray) -> int:
    """Of the channels that are put out, in a file."""
    return 3 if kernel.ndim == 4 and kernel.shape[0] == 1 else 0


def _join(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Let one float operator read another's output as it is, not rounded between."""
    names = {id(op): flatbuffer.op_name(model, op) for op in graph.operators}
    exact = {
        int(op.outputs[0]): int(op.inputs[0])
        for op in graph.operators
        if names[id(op)] == "QUANTIZE"
        and graph.tensors[op.inputs[0]].type == schema.TensorType.FLOAT32
    }
    same: dict[int, int] = {}
    for op in list(graph.operators):
        if names[id(op)] == "DEQUANTIZE" and int(op.inputs[0]) in exact:
            if int(op.outputs[0]) not in map(int, graph.outputs):
                same[int(op.outputs[0])] = exact[int(op.inputs[0])]
                graph.operators.remove(op)
    for op in graph.operators:
        op.inputs = [same.get(int(t), int(t)) for t in op.inputs]
    read = {int(t) for op in graph.operators for t in op.inputs}
    read |= set(map(int, graph.outputs))
    graph.operators = [
        op
        for op in graph.operators
        if names[id(op)] != "QUANTIZE" or int(op.outputs[0]) in read
    ]


def _put_back(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    operator: schema.OperatorT,
    kernel: np.ndarray,
) -> None:
    given, weights, *rest = (int(t) for t in operator.inputs)
    made = int(operator.outputs[0])
    held = [flatbuffer.float_twin(graph, weights)]
    graph.tensors[held[0]].buffer = flatbuffer.intern_buffer(
        model, np.ascontiguousarray(kernel)
    )
    for bias in rest[:1]:
        tensor = graph.tensors[bias]
        whole = bias >= 0 and tensor.type == schema.TensorType.INT32
        numbers = flatbuffer.constant(model, tensor, np.int32) if whole else None
        if numbers is None:
            held.append(bias)
            continue
        scale = np.asarray(tensor.quantization.scale, np.float64)
        held.append(flatbuffer.float_twin(graph, bias))
        graph.tensors[held[-1]].buffer = flatbuffer.intern_buffer(
            model, (numbers * scale).astype(np.float32)
        )
    around, x, y = [operator], given, made
    if graph.tensors[given].type != schema.TensorType.FLOAT32:
        x = flatbuffer.float_twin(graph, given)
        around.insert(
            0, flatbuffer.new_operator(model, "DEQUANTIZE", FROM_INT8, [given], [x])
        )
    if graph.tensors[made].type != schema.TensorType.FLOAT32:
        y = flatbuffer.float_twin(graph, made)
        around.append(
            flatbuffer.new_operator(model, "QUANTIZE", FROM_FLOAT, [y], [made])
        )
    place = graph.operators.index(operator)
    operator.inputs, operator.outputs = [x, *held], [y]
    graph.operators[place : place + 1] = around
