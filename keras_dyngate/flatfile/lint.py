"""What in a .tflite file will not load somewhere, or is slower or larger than it need be.

for finding in lint(inspect_file("net.tflite")):
    print(finding)
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.flatfile.inspection import (
    TYPES,
    FileReport,
    branch_name,
    damage_is_an_error,
)

CODES = (
    "no-signature",
    "border-type",
    "dynamic-shape",
    "custom-op",
    "variable-kernel",
    "float-convolution",
    "border-quantize",
    "repeated-weights",
)
PORTABLE = ("float32", "int32", "uint8")  # what every runtime takes at a border
WASTE = 1024  # bytes stored again that are worth a word
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: One of `CODES`.
        where: The signature, or the graph and the operator's place in it.
        text: What it is, and what it does.
    """

    code: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} at {self.where}: {self.text}"


def lint(report: FileReport) -> tuple[Finding, ...]:
    """Everything wrong with a file, in the order of its graphs; nothing, if it is well.

    Args:
        report: From `inspect_file`.

    Raises:
        ValueError: If the file turns out to be damaged.
    """
    with damage_is_an_error(report.path):
        return (
            *_borders(report),
            *_operators(report),
            *_quantization_at_branches(report.model),
            *_stored(report),
        )


def _borders(report: FileReport) -> Iterator[Finding]:
    if not report.signatures:
        yield Finding("no-signature", "the file", "it has no entry point with a name")
    for name, signature in report.signatures.items():
        for port in (*signature.inputs, *signature.outputs):
            where = f"{name}, {port.name}"
            if port.dtype not in PORTABLE:
                yield Finding(
                    "border-type",
                    where,
                    f"{port.dtype}: not every runtime takes it at a border, LiteRT.js "
                    f"not even the file; use {', '.join(PORTABLE)}",
                )
            if -1 in port.shape:
                yield Finding(
                    "dynamic-shape",
                    where,
                    f"shape {list(port.shape)}: CompiledModel cannot make its buffers",
                )


def _operators(report: FileReport) -> Iterator[Finding]:
    model = report.model
    inputs: dict[int, set[str]] = {}  # of each graph's convolutions
    for index, graph, operator in flatbuffer.walk(model):
        if flatbuffer.op_name(model, operator) in _CONVOLUTIONS:
            found = _input_type(model, graph, operator)
            inputs.setdefault(index, set()).add(found)
    eight_bits = "int8" in set().union(*inputs.values())
    has_first = any(place.after == "input" for place in report.exits)
    for index, graph in enumerate(model.subgraphs):
        # A first net computes in float, in a graph of its own.
        first_net = has_first and inputs.get(index) == {"float32"}
        for place, operator in enumerate(graph.operators):
            name = flatbuffer.op_name(model, operator)
            where = f"{branch_name(index, place)}, {name}"
            code = model.operatorCodes[operator.opcodeIndex]
            if flatbuffer.builtin_code(code) == schema.BuiltinOperator.CUSTOM:
                yield Finding("custom-op", where, "stock LiteRT does not have it")
            if name not in _CONVOLUTIONS:
                continue
            kernel = graph.tensors[operator.inputs[1]]
            if flatbuffer.constant(model, kernel, np.uint8) is None:
                yield Finding(
                    "variable-kernel",
                    where,
                    "its kernel is no constant, so XNNPACK leaves it to a slow one",
                )
            floats = _input_type(model, graph, operator) == "float32"
            if eight_bits and floats and not first_net:
                yield Finding(
                    "float-convolution",
                    where,
                    "in float32 in an int8 file: kept so by name, or calibration never "
                    "ran it",
                )


def _input_type(
    model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT
) -> str:
    """Of the features that a convolution reads."""
    transposed = flatbuffer.op_name(model, operator) == "TRANSPOSE_CONV"
    tensor = graph.tensors[operator.inputs[2 if transposed else 0]]
    return TYPES.get(tensor.type, "unknown")


def _makers(model: schema.ModelT, graph: schema.SubGraphT) -> dict[int, str]:
    """Kind of the operator that computes a tensor."""
    return {
        tensor: flatbuffer.op_name(model, operator)
        for operator in graph.operators
        for tensor in operator.outputs
    }


def _readers(model: schema.ModelT, graph: schema.SubGraphT) -> dict[int, set[str]]:
    """Kinds of the operators that read a tensor."""
    found: dict[int, set[str]] = {}
    for operator in graph.operators:
        for tensor in operator.inputs:
            found.setdefault(tensor, set()).add(flatbuffer.op_name(model, operator))
    return found


def _quantization_at_branches(model: schema.ModelT) -> Iterator[Finding]:
    """Pairs of DEQUANTIZE and QUANTIZE with nothing between them but the border."""
    makers = [_makers(model, graph) for graph in model.subgraphs]
    readers = [_readers(model, graph) for graph in model.subgraphs]
    for index, graph in enumerate(model.subgraphs):
        for place, operator in enumerate(graph.operators):
            if flatbuffer.op_name(model, operator) != "IF":
                continue
            pairs = 0
            for branch in flatbuffer.branches(operator):
                inner = model.subgraphs[branch]
                pairs += sum(
                    makers[index].get(given) == "DEQUANTIZE"
                    and "QUANTIZE" in readers[branch].get(taken, ())
                    for given, taken in zip(
                        operator.inputs[1:], inner.inputs, strict=True
                    )
                )
                pairs += sum(
                    makers[branch].get(made) == "DEQUANTIZE"
                    and "QUANTIZE" in readers[index].get(result, ())
                    for made, result in zip(
                        inner.outputs, operator.outputs, strict=True
                    )
                )
            if pairs:
                yield Finding(
                    "border-quantize",
                    branch_name(index, place),
                    f"{pairs} tensors become floats for the way into or out of a branch",
                )


def _stored(report: FileReport) -> Iterator[Finding]:
    if report.repeated_bytes >= WASTE:
        yield Finding(
            "repeated-weights",
            "the file",
            f"{report.repeated_bytes:,} bytes of constants are stored more than once",
        )
