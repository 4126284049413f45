"""Full-integer files: what is read bit by bit is the float, not what 8 bits made of it.

An exit that answers from the image looks for a NaN in its bits (`ExitTracer.is_broken`).
Where later stages take the image as well, `int8_borders` rounds it for everyone, and a NaN
is gone.
"""

from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer


def float_bits(model: schema.ModelT) -> None:
    """Let a BITCAST of a float that was rounded to int8 read the float itself.

    Args:
        model: The file, changed in place.
    """
    for graph in model.subgraphs:
        for op in list(graph.operators):
            if flatbuffer.op_name(model, op) != "BITCAST":
                continue
            back = _maker(model, graph, op.inputs[0], "DEQUANTIZE")
            rounds = back and _maker(model, graph, back.inputs[0], "QUANTIZE")
            if not (back and rounds):
                continue
            given, (output,) = rounds.inputs[0], back.outputs
            if graph.tensors[given].type == schema.TensorType.FLOAT32:
                op.inputs = [given]
                if not any(output in other.inputs for other in graph.operators):
                    graph.operators.remove(back)


def _maker(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, name: str
) -> schema.OperatorT | None:
    """The operator that computes a tensor, if it is of this name."""
    made = (op for op in graph.operators if index in op.outputs)
    found = next(made, None)
    return found if found and flatbuffer.op_name(model, found) == name else None
