"""A .tflite file as Python objects: read, walk, change, write.

The schema's generated object API does the reading and the writing; these helpers add
what every pass over a file needs. Names in a file (of tensors, signatures, metadata)
are bytes there, and stay bytes here.
"""

import copy
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # bytes; the schema's `force_align` of a buffer's data

_OP_NAMES: dict[int, str] = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if isinstance(code, int)
}


class _Builder(flatbuffers.Builder):
    """A builder that aligns buffers as the schema asks; the Python API does not.

    Equal small arrays (the zero points of a kernel's channels are eight zero bytes each,
    shapes repeat) and equal names are written once.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype == np.uint8:
            self.Prep(ALIGNMENT, x.nbytes)
            return int(super().CreateNumpyVector(x))
        key = (x.dtype.str, x.tobytes())
        if key not in self.written:
            self.written[key] = int(super().CreateNumpyVector(x))
        return self.written[key]

    def CreateString(self, s: Any, *args: Any) -> int:
        key = ("name", s if isinstance(s, bytes) else s.encode())
        if key not in self.written:
            self.written[key] = int(super().CreateString(s, *args))
        return self.written[key]


def read(content: bytes) -> schema.ModelT:
    """Parse a file into objects that may be changed.

    The data of buffers are read-only arrays over `content`, not copies; to change a
    buffer, replace its data. Operator inputs and outputs, and subgraph inputs and
    outputs, become lists of Python ints.

    Args:
        content: Bytes of a .tflite file.

    Returns:
        The model.

    Raises:
        ValueError: `content` is no .tflite file, or one with weights outside the
            flatbuffer (over 2 GB).
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError(
            "`content` must be the bytes of a .tflite file, with the identifier "
            f"{IDENTIFIER.decode()} at byte 4. Received: {len(content)} bytes, the "
            f"first {bytes(content[:8])!r}"
        )
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    except (struct.error, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            "`content` must be the bytes of a whole .tflite file. Received: "
            f"{len(content)} bytes, truncated or damaged ({error})"
        ) from error
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise ValueError(
            "`content` must hold its weights inside the flatbuffer (under 2 GB). "
            "Received: buffers with an offset"
        )
    for subgraph in model.subgraphs:
        subgraph.inputs = _ints(subgraph.inputs)
        subgraph.outputs = _ints(subgraph.outputs)
        subgraph.operators = list(subgraph.operators or [])
        for operator in subgraph.operators:
            operator.inputs = _ints(operator.inputs)
            operator.outputs = _ints(operator.outputs)
    return model


class _PackedOnce:
    """An object of the schema that is written once and referred to from then on."""

    def __init__(self, item: Any) -> None:
        self.item, self.offset = item, None

    def Pack(self, builder: flatbuffers.Builder) -> Any:
        if self.offset is None:
            self.offset = self.item.Pack(builder)
        return self.offset


def _content(item: Any) -> tuple[Any, ...]:
    """What two equal quantizations, or tensors, have in common."""
    return tuple(
        (name, value.tobytes() if isinstance(value, np.ndarray) else str(value))
        for name, value in sorted(vars(item).items())
    )


def write(model: schema.ModelT) -> bytes:
    """Bytes of a .tflite file with this model.

    Equal quantizations (two numbers per channel) are stored once, and so are equal
    tensors and empty buffers: a file with several signatures over the same weights would
    repeat them.
    """
    arrays = (buffer.data for buffer in model.buffers if buffer.data is not None)
    builder = _Builder(sum(map(len, arrays)) + (1 << 20))
    quantized = [
        tensor
        for subgraph in model.subgraphs
        for tensor in subgraph.tensors
        if tensor.quantization is not None and tensor.quantization.details is None
    ]
    before = [tensor.quantization for tensor in quantized]
    listed = [subgraph.tensors for subgraph in model.subgraphs]
    buffers = model.buffers
    once: dict[tuple[Any, ...], _PackedOnce] = {}

    def shared(item: Any) -> _PackedOnce:
        return once.setdefault(_content(item), _PackedOnce(item))

    try:
        for tensor, own in zip(quantized, before, strict=True):
            tensor.quantization = shared(own)
        for subgraph, tensors in zip(model.subgraphs, listed, strict=True):
            subgraph.tensors = [shared(tensor) for tensor in tensors]
        model.buffers = [shared(b) if b.data is None else b for b in buffers]
        builder.Finish(model.Pack(builder), IDENTIFIER)
    finally:
        model.buffers = buffers
        for subgraph, tensors in zip(model.subgraphs, listed, strict=True):
            subgraph.tensors = tensors
        for tensor, own in zip(quantized, before, strict=True):
            tensor.quantization = own
    return bytes(builder.Output())


def builtin_code(code: schema.OperatorCodeT) -> int:
    """The builtin operator of an opcode, which old files keep in another field."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def op_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Name of an operator: as in `BuiltinOperator`, or a custom operator's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    if builtin_code(code) == schema.BuiltinOperator.CUSTOM and code.customCode:
        return str(code.customCode.decode())
    return _OP_NAMES[builtin_code(code)]


def opcode_index(model: schema.ModelT, builtin: int, version: int) -> int:
    """Index of the opcode for a builtin of at least this version, added if missing."""
    for index, code in enumerate(model.operatorCodes):
        if builtin_code(code) == builtin and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, version
    code.deprecatedBuiltinCode = min(
        builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
    )
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def walk(
    model: schema.ModelT,
) -> Iterator[tuple[int, schema.SubGraphT, schema.OperatorT]]:
    """Every operator of the file with its subgraph and that subgraph's index."""
    for index, subgraph in enumerate(model.subgraphs):
        for operator in subgraph.operators:
            yield index, subgraph, operator


def branches(operator: schema.OperatorT) -> list[int]:
    """Subgraphs an operator calls: (then, else) of an IF, (cond, body) of a WHILE."""
    return [value for _, value in _calls(operator)]


def handed_over(
    model: schema.ModelT, index: int, operator: schema.OperatorT
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Of an IF in subgraph `index`: a tensor of it, and a branch's own for the same.

    Each is (subgraph, tensor); operands first, the condition apart, then results.
    """
    outer = [int(t) for t in (*operator.inputs[1:], *operator.outputs)]
    for branch in branches(operator):
        called = model.subgraphs[branch]
        inner = [int(t) for t in (*called.inputs, *called.outputs)]
        for a, b in zip(outer, inner, strict=True):
            yield (index, a), (branch, b)


def renumber_branches(operator: schema.OperatorT, place: Mapping[int, int]) -> None:
    """Let an operator call subgraphs by their new places, which it has of its own."""
    calls = _calls(operator)
    if calls:
        operator.builtinOptions = copy.copy(operator.builtinOptions)
    for name, value in calls:
        setattr(operator.builtinOptions, name, place[value])


def _calls(operator: schema.OperatorT) -> list[tuple[str, int]]:
    """Fields of an operator's options that name subgraphs, and what they say."""
    if operator.builtinOptions is None:
        return []
    return [
        (name, value)
        for name, value in vars(operator.builtinOptions).items()
        if name.endswith("SubgraphIndex")
    ]


def reachable(model: schema.ModelT, root: int) -> list[int]:
    """Subgraphs that a call of `root` may run, itself first, each once."""
    found = [root]
    for index in found:  # grows while it is walked
        for operator in model.subgraphs[index].operators:
            found += [b for b in branches(operator) if b not in found]
    return found


def op_counts(content: bytes) -> Counter[str]:
    """How often each operator occurs in a file, in all its subgraphs together."""
    model = read(content)
    return Counter(op_name(model, operator) for _, _, operator in walk(model))


def new_operator(
    model: schema.ModelT, name: str, version: int, inputs: list[int], outputs: list[int]
) -> schema.OperatorT:
    """A builtin operator with default options, not yet part of a subgraph."""
    operator = schema.OperatorT()
    builtin = getattr(schema.BuiltinOperator, name)
    operator.opcodeIndex = opcode_index(model, builtin, version)
    options = "".join(part.capitalize() for part in name.split("_")) + "Options"
    if hasattr(schema.BuiltinOptions, options):
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(schema, f"{options}T")()
    else:
        operator.builtinOptions2Type = getattr(schema.BuiltinOptions2, options)
        operator.builtinOptions2 = getattr(schema, f"{options}T")()
    operator.inputs, operator.outputs = inputs, outputs
    return operator


def new_reshape(
    model: schema.ModelT, graph: schema.SubGraphT, source: int, target: int
) -> schema.OperatorT:
    """A RESHAPE of a tensor to the shape that another has, not yet part of `graph`."""
    operator = new_operator(model, "RESHAPE", 1, [source], [target])
    operator.builtinOptions.newShape = np.asarray(graph.tensors[target].shape, np.int32)
    return operator


def add_tensor(subgraph: schema.SubGraphT, tensor: schema.TensorT) -> int:
    """Index of the tensor, appended to the subgraph."""
    subgraph.tensors.append(tensor)
    return len(subgraph.tensors) - 1


def float_twin(subgraph: schema.SubGraphT, tensor: int) -> int:
    """A new computed float32 tensor of the same name and shape as another."""
    twin = copy.copy(subgraph.tensors[tensor])
    twin.type, twin.quantization, twin.buffer = schema.TensorType.FLOAT32, None, 0
    return add_tensor(subgraph, twin)


def replace_port(
    model: schema.ModelT, index: int, side: str, old: int, new: int
) -> None:
    """Let tensor `new` be an input or output where `old` was one.

    Args:
        model: The model, changed in place.
        index: Index of the subgraph; its signatures follow.
        side: `"inputs"` or `"outputs"`.
        old: Index of the tensor so far.
        new: Index of the tensor from now on.
    """
    subgraph = model.subgraphs[index]
    ports = [new if t == old else t for t in getattr(subgraph, side)]
    setattr(subgraph, side, ports)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == index:
            for entry in getattr(signature, side):
                if entry.tensorIndex == old:
                    entry.tensorIndex = new


def constant(
    model: schema.ModelT, tensor: schema.TensorT, dtype: type[np.generic]
) -> np.ndarray | None:
    """The values of a constant tensor, flat and read-only; None if it is computed."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.frombuffer(data, dtype)


def scale_and_zero_point(tensor: schema.TensorT) -> tuple[float, int]:
    """The quantization of a tensor with one scale for all its values."""
    quantization = tensor.quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def intern_buffer(model: schema.ModelT, data: bytes | np.ndarray) -> int:
    """Index of a buffer with these bytes, added if there is none: stored once.

    Never 0, which by convention is the empty buffer of computed tensors.
    """
    raw = data if isinstance(data, bytes) else data.tobytes()
    wanted = np.frombuffer(raw, np.uint8)
    for index, buffer in enumerate(model.buffers[1:], start=1):
        held = buffer.data
        if held is not None and np.array_equal(held, wanted):
            return index
    buffer = schema.BufferT()
    buffer.data = wanted
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def set_metadata(model: schema.ModelT, name: str, data: bytes) -> None:
    """Attach bytes to the file under a name, in place of what had that name."""
    model.metadata = [
        entry for entry in model.metadata or [] if entry.name != name.encode()
    ]
    entry = schema.MetadataT()
    entry.name, entry.buffer = name.encode(), intern_buffer(model, data)
    model.metadata.append(entry)


def get_metadata(model: schema.ModelT, name: str) -> bytes | None:
    """What `set_metadata` attached under this name, or None."""
    for entry in model.metadata or []:
        if entry.name == name.encode():
            data = model.buffers[entry.buffer].data
            return b"" if data is None else bytes(data)
    return None


def drop_unused_buffers(model: schema.ModelT) -> None:
    """Empty the buffers that no tensor in use and no metadata refers to.

    Tensors that are not in use become empty too.
    """
    used = {entry.buffer for entry in model.metadata or []}
    nothing = schema.TensorT()
    nothing.name, nothing.shape = b"", np.zeros(0, np.int32)
    for subgraph in model.subgraphs:
        tensors = {*subgraph.inputs, *subgraph.outputs}
        for operator in subgraph.operators:
            tensors.update(operator.inputs, operator.outputs)
            tensors.update(_ints(operator.intermediates))
        used |= {subgraph.tensors[t].buffer for t in tensors if t >= 0}
        subgraph.tensors = [
            tensor if index in tensors else nothing
            for index, tensor in enumerate(subgraph.tensors)
        ]
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def _ints(indices: np.ndarray | list[int] | None) -> list[int]:
    return [] if indices is None else [int(i) for i in indices]
