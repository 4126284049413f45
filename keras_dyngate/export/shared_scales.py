"""One scale for what the signatures of an int8 file have in common.

The converter calibrates every signature by itself: the same layer has other scales in
`stage_2` than in the branch of `classify_at` that computes it too, so that scores differ,
and its biases, whose scale is that of the input, are stored twice. Here the inputs and the
outputs of operators with the same kernel get the union of their ranges.
"""

from collections import defaultdict

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.export.int8_borders import (
    RESCALING,
    TRANSPARENT,
    WEIGHTED,
    follow_input,
    joint_scale,
)
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.flatfile.joined import Joined, Key

# What keeps a scale beside those of `TRANSPARENT`, in any version of it.
_SAME = {*TRANSPARENT, "PAD", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SPLIT", "PACK"}
_ANY = {*RESCALING, "QUANTIZE", "DEQUANTIZE"}


def shared_scales(model: schema.ModelT) -> int:
    """Give the copies of a layer in an int8 file one scale at each of their ends.

    Args:
        model: The file, changed in place.

    Returns:
        How many sets of tensors now share a scale that did not.
    """
    classes = _Classes(model)
    classes.join_copies()
    changed = sum(classes.share(members) for members in classes.joined.sets().values())
    classes.share_biases()
    flatbuffer.drop_unused_buffers(model)
    return changed


class _Classes:
    """Int8 tensors that are to have one scale."""

    def __init__(self, model: schema.ModelT) -> None:
        self.model = model
        self.joined = Joined()
        self.fixed: set[Key] = set()  # whose scale an operator insists on
        for index, graph, operator in flatbuffer.walk(model):
            self._join_ends(index, graph, operator)

    def is_int8(self, index: int, tensor: int) -> bool:
        if tensor < 0:
            return False
        return bool(
            self.model.subgraphs[index].tensors[tensor].type == schema.TensorType.INT8
        )

    def _join_ends(
        self, index: int, graph: schema.SubGraphT, operator: schema.OperatorT
    ) -> None:
        """Join what an operator hands on as it is; note what it wants of its own."""
        name = flatbuffer.op_name(self.model, operator)
        ends = [int(t) for t in (*operator.inputs, *operator.outputs)]
        ends = [t for t in ends if self.is_int8(index, t)]
        if name == "IF":
            for outer, inner in flatbuffer.handed_over(self.model, index, operator):
                if self.is_int8(*outer):
                    self.joined.join(outer, inner)
        elif name in _SAME:
            for tensor in ends[1:]:
                self.joined.join((index, ends[0]), (index, tensor))
        elif name not in _ANY:
            self.fixed |= {(index, tensor) for tensor in ends}

    def copies(self) -> list[list[tuple[int, schema.OperatorT]]]:
        """Operators of one kernel, with the index of their graphs, which have one each."""
        found = defaultdict(list)
        for index, graph, operator in flatbuffer.walk(self.model):
            name = flatbuffer.op_name(self.model, operator)
            if name in WEIGHTED and self.is_int8(index, int(operator.inputs[1])):
                kernel = graph.tensors[operator.inputs[1]]
                numbers = kernel.buffer, kernel.quantization.scale.tobytes()
                found[name, *numbers].append((index, operator))
        return [
            copies
            for copies in found.values()
            if len({index for index, _ in copies}) == len(copies) > 1
        ]

    def join_copies(self) -> None:
        """Join the inputs, and the outputs, of operators of one kernel."""
        for (first, operator), *others in self.copies():
            for index, other in others:
                for ours, theirs in (
                    (int(operator.inputs[0]), int(other.inputs[0])),
                    (int(operator.outputs[0]), int(other.outputs[0])),
                ):
                    if self.is_int8(first, ours) and self.is_int8(index, theirs):
                        self.joined.join((first, ours), (index, theirs))

    def share_biases(self) -> None:
        """Let operators of one kernel and one scale have the very same bias."""
        for (first, operator), *others in self.copies():
            graph = self.model.subgraphs[first]
            for index, other in others:
                theirs = self.model.subgraphs[index]
                biases = [
                    g.tensors[op.inputs[2]]
                    for g, op in ((graph, operator), (theirs, other))
                    if len(op.inputs) > 2 and op.inputs[2] >= 0
                ]
                if len(biases) == 2 and np.array_equal(
                    biases[0].quantization.scale, biases[1].quantization.scale
                ):
                    biases[1].buffer = biases[0].buffer

    def tensor(self, key: Key) -> schema.TensorT:
        return self.model.subgraphs[key[0]].tensors[key[1]]

    def share(self, members: set[Key]) -> bool:
        """Give a set the union of its ranges, if it has more than one."""
        scales = {flatbuffer.scale_and_zero_point(self.tensor(key)) for key in members}
        held = [key for key in members if self._constant(key) is not None]
        if len(scales) < 2 or held or members & self.fixed:
            return False
        scale, zero_point = joint_scale([self.tensor(key) for key in members])
        for key in members:
            tensor = self.tensor(key)
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([scale], np.float32)
            tensor.quantization.zeroPoint = np.array([zero_point], np.int64)
        for index, graph, operator in flatbuffer.walk(self.model):
            name = flatbuffer.op_name(self.model, operator)
            if name in WEIGHTED and (index, int(operator.inputs[0])) in members:
                follow_input(self.model, graph, operator)
        return True

    def _constant(self, key: Key) -> np.ndarray | None:
        return flatbuffer.constant(self.model, self.tensor(key), np.int8)
