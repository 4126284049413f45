"""What a .tflite file holds, read from the file alone: nothing is run.

    report = inspect_file("net.tflite")
    report.signatures["classify"].conditional_macs
    for branch in report.branches:
        print(branch.name, branch.taken.macs, branch.otherwise.macs)

Neither Keras nor TensorFlow is needed, and no native code sees the file.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime.exit_places import ExitPlace, exit_places
from keras_dyngate.runtime.litert_model import METADATA_NAME

TYPES: dict[int, str] = {
    code: name.lower()
    for name, code in vars(schema.TensorType).items()
    if isinstance(code, int)
}
ALIKE = 64  # bytes from which on equal buffers count as stored twice


@dataclasses.dataclass(frozen=True)
class Work:
    """What a graph holds, with all that it may call.

    Attributes:
        operators: How many.
        macs: Multiply-adds of convolutions and matrix products, each counted once.
        weight_bytes: Of the constants it reads, each counted once.
    """

    operators: int
    macs: int
    weight_bytes: int


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a signature; -1 is a size left open."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SignatureReport:
    """An entry point.

    Attributes:
        inputs, outputs: In the file's order.
        branches: Names of the branches it may meet.
        always_macs: Multiply-adds outside of any branch.
        conditional_macs: Those that branches add at the most.
        weight_bytes: Of the constants it may read.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    branches: tuple[str, ...]
    always_macs: int
    conditional_macs: int
    weight_bytes: int


@dataclasses.dataclass(frozen=True)
class BranchReport:
    """An IF: what runs if its condition holds, and what otherwise."""

    name: str
    taken: Work
    otherwise: Work


@dataclasses.dataclass(frozen=True)
class FileReport:
    """See `inspect_file`.

    Attributes:
        path, bytes: The file and its size.
        signatures: By name.
        branches: Every IF that a signature may meet.
        operators: How many of each kind, over all graphs.
        versions: Highest version of each kind of operator.
        exits: Places of early exits, where the exporter noted them.
        min_runtime: The oldest LiteRT (TensorFlow Lite) that runs the file, as its
            converter noted; None if it did not.
        weight_bytes: Of all constants.
        repeated_bytes: Of constants that are stored again with the same content.
        model: The parsed file.
    """

    path: str
    bytes: int
    signatures: dict[str, SignatureReport]
    branches: tuple[BranchReport, ...]
    operators: dict[str, int]
    versions: dict[str, int]
    exits: tuple[ExitPlace, ...]
    min_runtime: str | None
    weight_bytes: int
    repeated_bytes: int
    model: Any = dataclasses.field(repr=False, compare=False)


def inspect_file(path: str | os.PathLike[str]) -> FileReport:
    """Read a .tflite file and say what is in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no whole .tflite file; indices that point outside of it
            count as damage too.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must be a .tflite file. Received: {str(path)!r}"
        )
    with damage_is_an_error(str(path)):
        return _inspect(str(path), path.read_bytes())


# What parsing meets in a file that was cut off, changed, or made up.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@contextlib.contextmanager
def damage_is_an_error(path: str) -> Iterator[None]:
    """Raises `ValueError` for whatever goes wrong inside: the file is not whole."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"`path` must be a whole .tflite file. Received: {path} ({error})"
        ) from error


def _inspect(path: str, content: bytes) -> FileReport:
    model = flatbuffer.read(content)
    _check_indices(model)
    names, versions = Counter[str](), dict[str, int]()
    for _, _, operator in flatbuffer.walk(model):
        name = flatbuffer.op_name(model, operator)
        names[name] += 1
        version = int(model.operatorCodes[operator.opcodeIndex].version)
        versions[name] = max(versions.get(name, 0), version)
    noted = flatbuffer.get_metadata(model, "min_runtime_version")
    report = json.loads(flatbuffer.get_metadata(model, METADATA_NAME) or "{}")
    total, repeated = _stored(model)
    signatures = {
        _text(entry.signatureKey): _signature(model, entry)
        for entry in model.signatureDefs or []
    }
    met = {name for entry in signatures.values() for name in entry.branches}
    return FileReport(
        path=path,
        bytes=len(content),
        signatures=signatures,
        branches=tuple(b for b in _branches(model) if b.name in met),
        operators=dict(names.most_common()),
        versions=versions,
        exits=exit_places(report),
        min_runtime=None if noted is None else _text(noted.rstrip(b"\0")) or None,
        weight_bytes=total,
        repeated_bytes=repeated,
        model=model,
    )


def operator_macs(
    model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT
) -> int:
    """Multiply-adds of one operator; 0 for those that are no linear map by a kernel."""
    kind = flatbuffer.op_name(model, operator)
    inputs, outputs = operator.inputs, operator.outputs
    if kind in ("CONV_2D", "FULLY_CONNECTED"):  # kernel [out, ..., in]
        return _size(graph, outputs[0]) * math.prod(_shape(graph, inputs[1])[1:])
    if kind == "DEPTHWISE_CONV_2D":  # [1, height, width, out]
        return _size(graph, outputs[0]) * math.prod(_shape(graph, inputs[1])[1:3])
    if kind == "TRANSPOSE_CONV":  # shape of the output, [out, height, width, in], x
        return _size(graph, inputs[2]) * math.prod(_shape(graph, inputs[1])[:3])
    if kind == "CONV_3D":  # [depth, height, width, in, out]
        return _size(graph, outputs[0]) * math.prod(_shape(graph, inputs[1])[:4])
    if kind == "CONV_3D_TRANSPOSE":  # shape of the output, [..., out, in], x
        return _size(graph, inputs[2]) * math.prod(_shape(graph, inputs[1])[:4])
    if kind == "BATCH_MATMUL":
        across = -2 if getattr(operator.builtinOptions, "adjX", False) else -1
        return _size(graph, outputs[0]) * _shape(graph, inputs[0])[across]
    return 0


def branch_name(graph_index: int, operator_index: int) -> str:
    """How an IF is called: its graph and its place there."""
    return f"{graph_index}:{operator_index}"


def _text(name: Any) -> str:
    if name is None:
        return ""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _shape(graph: schema.SubGraphT, tensor: int) -> tuple[int, ...]:
    shape = graph.tensors[tensor].shape
    return () if shape is None else tuple(int(size) for size in shape)


def _size(graph: schema.SubGraphT, tensor: int) -> int:
    return math.prod(max(size, 1) for size in _shape(graph, tensor))


def _port(graph: schema.SubGraphT, entry: Any) -> Port:
    tensor = graph.tensors[entry.tensorIndex]
    open_shape = tensor.shapeSignature
    shape = _shape(graph, entry.tensorIndex) if open_shape is None else open_shape
    return Port(
        name=_text(entry.name),
        dtype=TYPES.get(tensor.type, f"type {tensor.type}"),
        shape=tuple(int(size) for size in shape),
    )


def _ifs(
    model: schema.ModelT, graphs: list[int]
) -> Iterator[tuple[str, schema.OperatorT]]:
    for index in graphs:
        for place, operator in enumerate(model.subgraphs[index].operators):
            if flatbuffer.op_name(model, operator) == "IF":
                yield branch_name(index, place), operator


def _branches(model: schema.ModelT) -> Iterator[BranchReport]:
    for name, operator in _ifs(model, list(range(len(model.subgraphs)))):
        taken, otherwise = flatbuffer.branches(operator)
        yield BranchReport(name, _work(model, taken), _work(model, otherwise))


def _work(model: schema.ModelT, root: int) -> Work:
    graphs = flatbuffer.reachable(model, root)
    return Work(
        operators=sum(len(model.subgraphs[index].operators) for index in graphs),
        macs=sum(_own_macs(model, index) for index in graphs),
        weight_bytes=_weights(model, graphs),
    )


def _own_macs(model: schema.ModelT, index: int) -> int:
    graph = model.subgraphs[index]
    return sum(operator_macs(model, graph, operator) for operator in graph.operators)


def _weights(model: schema.ModelT, graphs: list[int]) -> int:
    used = {
        model.subgraphs[index].tensors[tensor].buffer
        for index in graphs
        for operator in model.subgraphs[index].operators
        for tensor in operator.inputs
        if tensor >= 0
    }
    return sum(_length(model.buffers[buffer]) for buffer in used)


def _most(model: schema.ModelT, index: int, known: dict[int, int]) -> int:
    """The most multiply-adds that one call of a graph may cost."""
    if index not in known:
        known[index] = _own_macs(model, index) + sum(
            max(_most(model, branch, known) for branch in branches)
            for operator in model.subgraphs[index].operators
            if (branches := flatbuffer.branches(operator))
        )
    return known[index]


def _signature(model: schema.ModelT, entry: Any) -> SignatureReport:
    root = int(entry.subgraphIndex)
    graph, graphs = model.subgraphs[root], flatbuffer.reachable(model, root)
    always = _own_macs(model, root)
    return SignatureReport(
        inputs=tuple(_port(graph, port) for port in entry.inputs or []),
        outputs=tuple(_port(graph, port) for port in entry.outputs or []),
        branches=tuple(name for name, _ in _ifs(model, graphs)),
        always_macs=always,
        conditional_macs=_most(model, root, {}) - always,
        weight_bytes=_weights(model, graphs),
    )


def _length(buffer: schema.BufferT) -> int:
    return 0 if buffer.data is None else len(buffer.data)


def _stored(model: schema.ModelT) -> tuple[int, int]:
    """Bytes of the constants that graphs read, and of those stored again."""
    used = {
        tensor.buffer
        for graph in model.subgraphs
        for tensor in graph.tensors or []
        if _length(model.buffers[tensor.buffer])
    }
    seen, total, repeated = set[bytes](), 0, 0
    for index in sorted(used):
        data = model.buffers[index].data
        total += len(data)
        if len(data) < ALIKE:
            continue
        digest = hashlib.sha256(data).digest()
        repeated += len(data) if digest in seen else 0
        seen.add(digest)
    return total, repeated


def _check_calls(model: schema.ModelT) -> None:
    """Raises `ValueError` where a graph calls itself, directly or not."""
    for index, graph in enumerate(model.subgraphs or []):
        called = {
            b for operator in graph.operators for b in flatbuffer.branches(operator)
        }
        if any(index in flatbuffer.reachable(model, branch) for branch in called):
            raise ValueError(f"subgraph {index} calls itself")


def _check_indices(model: schema.ModelT) -> None:
    """Raises `ValueError` where an index of the file points at nothing."""

    def check(what: str, index: Any, count: int, low: int = 0) -> None:
        if not low <= int(index) < count:
            raise ValueError(f"there is no {what} {index} among {count}")

    buffers = len(model.buffers or [])
    graphs = model.subgraphs or []
    for graph in graphs:
        tensors = graph.tensors or []
        for tensor in tensors:
            check("buffer", tensor.buffer, buffers)
        for index in (*graph.inputs, *graph.outputs):
            check("tensor", index, len(tensors))
        for operator in graph.operators:
            check("operator code", operator.opcodeIndex, len(model.operatorCodes or []))
            for index in operator.inputs:
                check("tensor", index, len(tensors), low=-1)
            for index in operator.outputs:
                check("tensor", index, len(tensors))
            for index in flatbuffer.branches(operator):
                check("subgraph", index, len(graphs))
    _check_calls(model)
    for entry in model.signatureDefs or []:
        check("subgraph", entry.subgraphIndex, len(graphs))
        tensors = graphs[entry.subgraphIndex].tensors or []
        for port in (*(entry.inputs or []), *(entry.outputs or [])):
            check("tensor", port.tensorIndex, len(tensors))
    for item in model.metadata or []:
        check("buffer", item.buffer, buffers)
