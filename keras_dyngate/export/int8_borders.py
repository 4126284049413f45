"""Full-integer files: let tensors cross the borders of IF branches as int8.

The converter quantizes what lies inside a branch, but keeps every operand and result of
an `IF` in float32: each branch begins with QUANTIZE and ends with DEQUANTIZE, which
costs more than a small branch saves. `int8_borders` rewrites such a file:

* All tensors that an IF border joins (operand and branch input, result and branch
  output), through both branches and from block to block, form one *class*. Ops that the
  converter leaves in float32 between two branches and that compute nothing (RESHAPE,
  CONCATENATION, ...) join their tensors too.
* A class becomes int8 with one scale: the union of the calibrated ranges that its
  DEQUANTIZE and QUANTIZE neighbours carry. Those neighbours then go, or, where the op
  behind them insists on another scale, remain as an int8 to int8 QUANTIZE.
* A class that a float op computes, or where more conversions would come than go, stays
  as it is. So does the float32 interface of every signature.
"""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.flatfile.joined import Joined, Key

# Ops whose int32 bias is scaled by the scale of the input.
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
# Ops that take any scale on every side, since their int8 kernels rescale.
RESCALING = WEIGHTED | {"ADD", "SUB", "MUL", "MEAN"}
# Ops with one scale for input and output, and the version of their int8 form.
TRANSPARENT = {
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "MAX_POOL_2D": 2,
    "RELU": 2,
    "RESHAPE": 1,
    "SLICE": 2,
    "STRIDED_SLICE": 2,
}
FROM_FLOAT, FROM_INT8 = 1, 2  # versions of QUANTIZE and DEQUANTIZE


def int8_borders(model: schema.ModelT) -> tuple[int, int]:
    """Rewrite a full-integer file so that IF operands and results are int8.

    Args:
        model: The file, changed in place; quantized to int8 with float32 (or integer)
            inputs and outputs. A float file has nothing to convert and keeps its
            operators.

    Returns:
        How many classes of joined float tensors were converted, and how many there were.
    """
    rewriter = _Rewriter(model)
    classes = rewriter.float_classes()
    converted = sum(rewriter.convert(members) for members in classes)
    flatbuffer.drop_unused_buffers(model)
    return converted, len(classes)


@dataclasses.dataclass
class _Edges:
    """What surrounds a class; operators come with the index of their subgraph."""

    dequantizes: list[tuple[int, schema.OperatorT]]  # produce a member
    quantizes: list[tuple[int, schema.OperatorT]]  # read a member
    readers: list[tuple[int, schema.OperatorT]]  # other ops that read a member
    neighbours: list[schema.TensorT]  # behind the first two
    ports: list[tuple[str, int, int]]  # members that a signature takes or returns
    float_made: bool  # a float op computes a member


class _Rewriter:
    """Converts the classes of one model, in place."""

    def __init__(self, model: schema.ModelT) -> None:
        self.model = model
        self.called = {
            branch
            for _, _, operator in flatbuffer.walk(model)
            if self.name(operator) == "IF"
            for branch in flatbuffer.branches(operator)
        }

    # -- finding ------------------------------------------------------------------

    def float_classes(self) -> list[set[Key]]:
        """Sets of float tensors that IF borders join."""
        joined = Joined()
        border = set()
        for index, subgraph, operator in flatbuffer.walk(self.model):
            if self.name(operator) == "IF":
                self._own_constants(subgraph, operator)
                for pair in flatbuffer.handed_over(self.model, index, operator):
                    joined.join(*pair)
                    border |= {*pair}
            elif self.name(operator) in TRANSPARENT:
                output = operator.outputs[0]
                if self.is_float(subgraph, output):
                    for tensor in operator.inputs:
                        if self.is_float(subgraph, tensor):
                            joined.join((index, tensor), (index, output))
        roots = {joined.find(key) for key in border}
        classes = [
            {
                key
                for key in members
                if self.is_float(self.model.subgraphs[key[0]], key[1])
            }
            for root, members in joined.sets().items()
            if root in roots
        ]
        return [members for members in classes if members]

    def _own_constants(
        self, subgraph: schema.SubGraphT, operator: schema.OperatorT
    ) -> None:
        """A constant passed to several IFs must not tie them to one scale."""
        for i, tensor in enumerate(operator.inputs):
            is_float = self.is_float(subgraph, tensor)
            if is_float and self._values(subgraph, tensor) is not None:
                own = copy.copy(subgraph.tensors[tensor])
                operator.inputs[i] = flatbuffer.add_tensor(subgraph, own)

    def _edges(self, members: set[Key]) -> _Edges:
        edges = _Edges([], [], [], [], [], float_made=False)
        subgraphs = {key[0] for key in members}
        for index, subgraph, operator in flatbuffer.walk(self.model):
            if index not in subgraphs:
                continue
            name = self.name(operator)
            made = any((index, t) in members for t in operator.outputs)
            read = any((index, t) in members for t in operator.inputs)
            if name == "IF" or (name in TRANSPARENT and made):
                continue
            if made and name == "DEQUANTIZE":
                edges.dequantizes.append((index, operator))
                edges.neighbours.append(subgraph.tensors[operator.inputs[0]])
            elif made:
                edges.float_made = True
            if read and name == "QUANTIZE":
                edges.quantizes.append((index, operator))
                edges.neighbours.append(subgraph.tensors[operator.outputs[0]])
            elif read:
                edges.readers.append((index, operator))
        for index in subgraphs - self.called:
            for side in ("inputs", "outputs"):
                for tensor in dict.fromkeys(getattr(self.model.subgraphs[index], side)):
                    if (index, tensor) in members:
                        edges.ports.append((side, index, tensor))
        return edges

    # -- converting ---------------------------------------------------------------

    def convert(self, members: set[Key]) -> bool:
        """Make one class int8, if that is possible and removes conversions."""
        edges = self._edges(members)
        added = len(edges.readers) + sum(side == "outputs" for side, *_ in edges.ports)
        if edges.float_made or added >= len(edges.neighbours):
            return False
        if any(t.type != schema.TensorType.INT8 for t in edges.neighbours):
            return False
        scale, zero_point = joint_scale(edges.neighbours)
        constants = {
            key: np.round(values / scale) + zero_point
            for key in members
            if (values := self._values(self.model.subgraphs[key[0]], key[1]))
            is not None
        }
        if not all(np.all((-128 <= v) & (v <= 127)) for v in constants.values()):
            return False  # a branch returns what the scale cannot express
        for key in members:
            tensor = self.model.subgraphs[key[0]].tensors[key[1]]
            if key in constants:
                tensor.buffer = flatbuffer.intern_buffer(
                    self.model, constants[key].astype(np.int8)
                )
            tensor.type = schema.TensorType.INT8
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([scale], np.float32)
            tensor.quantization.zeroPoint = np.array([zero_point], np.int64)
        for index, operator in edges.dequantizes:
            self._drop_dequantize(self.model.subgraphs[index], operator)
        for index, operator in edges.quantizes:
            self._drop_quantize(self.model.subgraphs[index], operator)
        floats = {port: self._keep_float(*port) for port in edges.ports}
        for index, operator in edges.readers:
            self._feed_float(index, operator, members, floats)
        self._raise_versions(members)
        return True

    def _drop_dequantize(
        self, subgraph: schema.SubGraphT, operator: schema.OperatorT
    ) -> None:
        """Let the op before a DEQUANTIZE write the member itself, if it can."""
        before, member = operator.inputs[0], operator.outputs[0]
        makers = [op for op in subgraph.operators if before in op.outputs]
        others = [
            op
            for op in subgraph.operators
            if before in op.inputs and op is not operator
        ]
        if (
            makers
            and before not in subgraph.inputs + subgraph.outputs
            and all(self.name(op) in RESCALING for op in [makers[0], *others])
        ):
            makers[0].outputs = [
                member if t == before else t for t in makers[0].outputs
            ]
            for op in others:
                self._feed(subgraph, op, before, member)
            subgraph.operators.remove(operator)
        else:  # becomes an int8 -> int8 conversion between two scales
            place = subgraph.operators.index(operator)
            subgraph.operators[place] = self._new("QUANTIZE", FROM_INT8, before, member)

    def _drop_quantize(
        self, subgraph: schema.SubGraphT, operator: schema.OperatorT
    ) -> None:
        """Let the ops after a QUANTIZE read the member itself, if they can."""
        member, after = operator.inputs[0], operator.outputs[0]
        readers = [op for op in subgraph.operators if after in op.inputs]
        same = self._scale(subgraph, member) == self._scale(subgraph, after)
        if after not in subgraph.outputs and (
            same or all(self.name(op) in RESCALING for op in readers)
        ):
            for op in readers:
                self._feed(subgraph, op, after, member)
            subgraph.operators.remove(operator)

    def _feed(
        self, subgraph: schema.SubGraphT, operator: schema.OperatorT, old: int, new: int
    ) -> None:
        """Make an op read `new` for `old`; a bias follows the input's scale."""
        operator.inputs = [new if t == old else t for t in operator.inputs]
        if self.name(operator) in WEIGHTED:
            follow_input(self.model, subgraph, operator)

    def _feed_float(
        self,
        index: int,
        operator: schema.OperatorT,
        members: set[Key],
        floats: Mapping[tuple[str, int, int], int],
    ) -> None:
        """Let an op that reads members in float32 do so still.

        It reads a signature's input as that came (what looks for a NaN in its bits would
        find none in int8); for other members it has its own DEQUANTIZE.
        """
        subgraph = self.model.subgraphs[index]
        for tensor in sorted({t for t in operator.inputs if (index, t) in members}):
            twin = floats.get(("inputs", index, tensor))
            if twin is None:
                twin = flatbuffer.float_twin(subgraph, tensor)
                dequantize = self._new("DEQUANTIZE", FROM_INT8, tensor, twin)
                place = subgraph.operators.index(operator)
                subgraph.operators.insert(place, dequantize)
            operator.inputs = [twin if t == tensor else t for t in operator.inputs]

    def _keep_float(self, side: str, index: int, tensor: int) -> int:
        """Convert an input or output of a signature once, at the start or the end.

        Returns:
            The float tensor that is the input or output now.
        """
        subgraph = self.model.subgraphs[index]
        twin = flatbuffer.float_twin(subgraph, tensor)
        flatbuffer.replace_port(self.model, index, side, tensor, twin)
        if side == "inputs":
            quantize = self._new("QUANTIZE", FROM_FLOAT, twin, tensor)
            subgraph.operators.insert(0, quantize)
        else:
            subgraph.operators.append(self._new("DEQUANTIZE", FROM_INT8, tensor, twin))
        return twin

    def _raise_versions(self, members: set[Key]) -> None:
        """Ops within a class now run their int8 form, of another version."""
        for index, _, operator in flatbuffer.walk(self.model):
            version = TRANSPARENT.get(self.name(operator))
            if version and (index, operator.outputs[0]) in members:
                code = self.model.operatorCodes[operator.opcodeIndex]
                operator.opcodeIndex = flatbuffer.opcode_index(
                    self.model,
                    flatbuffer.builtin_code(code),
                    max(code.version, version),
                )

    # -- small parts --------------------------------------------------------------

    def name(self, operator: schema.OperatorT) -> str:
        return flatbuffer.op_name(self.model, operator)

    @staticmethod
    def is_float(subgraph: schema.SubGraphT, tensor: int) -> bool:
        return bool(subgraph.tensors[tensor].type == schema.TensorType.FLOAT32)

    def _values(self, subgraph: schema.SubGraphT, tensor: int) -> np.ndarray | None:
        return flatbuffer.constant(self.model, subgraph.tensors[tensor], np.float32)

    @staticmethod
    def _scale(subgraph: schema.SubGraphT, tensor: int) -> tuple[float, int]:
        return flatbuffer.scale_and_zero_point(subgraph.tensors[tensor])

    def _new(
        self, name: str, version: int, source: int, target: int
    ) -> schema.OperatorT:
        return flatbuffer.new_operator(self.model, name, version, [source], [target])


def joint_scale(tensors: list[schema.TensorT]) -> tuple[np.float32, int]:
    """Scale and zero point of int8 that cover the ranges of all `tensors`."""
    known = [flatbuffer.scale_and_zero_point(tensor) for tensor in tensors]
    low = min((-128 - zero_point) * scale for scale, zero_point in known)
    high = max((127 - zero_point) * scale for scale, zero_point in known)
    joint = np.float32((high - low) / 255)
    return joint, int(np.clip(np.round(-128 - low / joint), -128, 127))


def follow_input(
    model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT
) -> None:
    """Let the bias of an operator, if it has one, take the scale of input and kernel.

    Args:
        model, graph: Of the operator, in `WEIGHTED`; its input has the scale of now.
    """
    given, kernel, *rest = (int(t) for t in operator.inputs)
    if not rest or rest[0] < 0:
        return
    bias, old = rest[0], graph.tensors[rest[0]]
    values = flatbuffer.constant(model, old, np.int32)
    assert values is not None
    if sum(bias in map(int, other.inputs) for other in graph.operators) > 1:
        operator.inputs[2] = bias = flatbuffer.add_tensor(graph, copy.copy(old))
    known = np.asarray(old.quantization.scale, np.float64)
    scale = np.float32(flatbuffer.scale_and_zero_point(graph.tensors[given])[0])
    wanted = scale * np.asarray(graph.tensors[kernel].quantization.scale, np.float32)
    made = graph.tensors[bias]
    made.buffer = flatbuffer.intern_buffer(
        model, np.round(values * (known / wanted)).astype(np.int32)
    )
    made.quantization = copy.copy(old.quantization)
    made.quantization.scale = wanted
