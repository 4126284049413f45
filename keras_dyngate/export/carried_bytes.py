"""What steps of an int8 file hand on: the int8 numbers themselves, four in an int32.

The converter gives every signature float inputs and outputs: a step would turn its int8
features into floats, and the next one back. Here they leave as they are, in a container
that every runtime takes at a signature (int8 is no such type): a quarter of the bytes, and
copies instead of conversions.
"""

import copy
from collections.abc import Iterable
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.export.views import signature
from keras_dyngate.flatfile import flatbuffer

PACKED = 4  # int8 numbers in an int32


def _tensor(like: schema.TensorT, shape: list[int], dtype: int, name: bytes) -> Any:
    """A computed tensor; quantized as `like` if it is int8."""
    made = copy.copy(like)
    made.name, made.type, made.shape = name, dtype, shape
    made.shapeSignature = None
    if dtype != schema.TensorType.INT8:
        made.quantization = None
    return made


def _leave(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, output: int
) -> schema.TensorT | None:
    """Pack a float output; the int8 tensor behind it, or None if that cannot be."""
    made = next(op for op in graph.operators if output in op.outputs)
    if flatbuffer.op_name(model, made) != "DEQUANTIZE":
        return None
    source = graph.tensors[made.inputs[0]]
    *sides, channels = (int(n) for n in source.shape)
    if source.type != schema.TensorType.INT8 or channels % PACKED:
        return None
    name, fours = graph.tensors[output].name, [*sides, channels // PACKED, PACKED]
    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    parted = flatbuffer.add_tensor(graph, _tensor(source, fours, int8, name + b"_4"))
    packed = flatbuffer.add_tensor(graph, _tensor(source, fours[:-1], int32, name))
    graph.operators += [
        flatbuffer.new_reshape(model, graph, made.inputs[0], parted),
        flatbuffer.new_operator(model, "BITCAST", 1, [parted], [packed]),
    ]
    flatbuffer.replace_port(model, index, "outputs", output, packed)
    if not any(output in op.inputs for op in graph.operators):
        graph.operators.remove(made)
    return source


def _enter(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    index: int,
    given: int,
    source: schema.TensorT,
) -> None:
    """Unpack what was a float input into int8, quantized as where it comes from."""
    users = [op for op in graph.operators if given in op.inputs]
    name, whole_shape = graph.tensors[given].name, [int(n) for n in source.shape]
    fours = [*whole_shape[:-1], whole_shape[-1] // PACKED, PACKED]
    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    packed = flatbuffer.add_tensor(graph, _tensor(source, fours[:-1], int32, name))
    parted = flatbuffer.add_tensor(graph, _tensor(source, fours, int8, name + b"_4"))
    whole = flatbuffer.add_tensor(
        graph, _tensor(source, whole_shape, int8, name + b"_int8")
    )
    flatbuffer.replace_port(model, index, "inputs", given, packed)
    for op in users:
        op.inputs = [whole if t == given else t for t in op.inputs]
    graph.operators[:0] = [
        flatbuffer.new_operator(model, "BITCAST", 1, [packed], [parted]),
        flatbuffer.new_reshape(model, graph, parted, whole),
    ]


def carry_bytes(model: schema.ModelT, steps: Iterable[str]) -> None:
    """Let the steps of an int8 file carry int8 numbers, packed.

    Args:
        model: The file, changed in place.
        steps: Its signatures in order; outputs of one are inputs of later ones by name.
            What no int8 tensor stands behind, or what is not quantized where it enters,
            stays float.
    """
    names = list(steps)
    inputs = {
        (name, entry.name): entry.tensorIndex
        for name in names
        for entry in signature(model, name).inputs
    }
    for name in names:
        index = signature(model, name).subgraphIndex
        graph = model.subgraphs[index]
        ports = [entry.tensorIndex for entry in signature(model, name).outputs]
        for entry in list(signature(model, name).outputs):
            takers = [key for key in inputs if key[1] == entry.name]
            output = entry.tensorIndex
            if not takers or ports.count(output) > 1:
                continue
            if not all(_is_quantized(model, key[0], inputs[key]) for key in takers):
                continue
            source = _leave(model, graph, index, output)
            if source is None:
                continue
            for taker, _ in takers:
                place = signature(model, taker).subgraphIndex
                given = inputs[taker, entry.name]
                _enter(model, model.subgraphs[place], place, given, source)


def _is_quantized(model: schema.ModelT, name: str, given: int) -> bool:
    """Whether an input of a signature is turned into int8 wherever it is used."""
    graph = model.subgraphs[signature(model, name).subgraphIndex]
    users = [op for op in graph.operators if given in op.inputs]
    return bool(users) and all(
        flatbuffer.op_name(model, op) == "QUANTIZE"
        and graph.tensors[op.outputs[0]].type == schema.TensorType.INT8
        for op in users
    )
