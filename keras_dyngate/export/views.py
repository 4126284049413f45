"""Signatures that see part of another: same branches, same weights, fewer outputs.

`classify` is a view of `explain`. Only the main subgraph is copied, without the
operators whose results nobody asks for; the branches are called by both.
"""

import copy

from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.export import flatbuffer


def signature(model: schema.ModelT, name: str) -> schema.SignatureDefT:
    """The signature of a file by name."""
    for found in model.signatureDefs:
        if found.signatureKey == name.encode():
            return found
    raise KeyError(name)


def add_view(
    model: schema.ModelT, source: str, name: str, outputs: tuple[str, ...]
) -> None:
    """Add a signature with some outputs of another; it becomes subgraph 0.

    Args:
        model: The file, changed in place; `source` must be its subgraph 0.
        source: Name of the signature to view.
        name: Name of the new signature.
        outputs: Names of the outputs it keeps.
    """
    old = signature(model, source)
    assert old.subgraphIndex == 0
    view = copy.deepcopy(old)
    view.signatureKey = name.encode()
    kept = {n.encode() for n in outputs}
    view.outputs = [entry for entry in view.outputs if entry.name in kept]
    graph = copy.copy(model.subgraphs[0])
    graph.name = name.encode()
    graph.outputs = [entry.tensorIndex for entry in view.outputs]
    needed, operators = set(graph.outputs), []
    for operator in reversed(graph.operators):
        if needed & set(operator.outputs):
            operators.append(copy.copy(operator))
            needed.update(operator.inputs)
    graph.operators = operators[::-1]
    model.subgraphs.append(model.subgraphs[0])
    model.subgraphs[0] = graph
    old.subgraphIndex = len(model.subgraphs) - 1
    model.signatureDefs.insert(0, view)


def freeze_input(model: schema.ModelT, source: str, name: str) -> None:
    """Make an int32 input of a signature the constant 0."""
    found = signature(model, source)
    (entry,) = (e for e in found.inputs if e.name == name.encode())
    found.inputs = [e for e in found.inputs if e is not entry]
    graph = model.subgraphs[found.subgraphIndex]
    graph.inputs = [t for t in graph.inputs if t != entry.tensorIndex]
    tensor = graph.tensors[entry.tensorIndex]
    zeros = bytes(4 * int(tensor.shape[0]))
    tensor.buffer = flatbuffer.intern_buffer(model, zeros)
