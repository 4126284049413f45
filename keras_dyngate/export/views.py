"""Signatures that see part of another: same branches, same weights, fewer outputs.

`classify` is a view of `explain`. Only the main subgraph is copied, without the
operators whose results nobody asks for; the branches are called by both.
"""

import copy
from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.flatfile import flatbuffer


def signature(model: schema.ModelT, name: str) -> schema.SignatureDefT:
    """The signature of a file by name."""
    for found in model.signatureDefs:
        if found.signatureKey == name.encode():
            return found
    raise KeyError(name)


def add_view(
    model: schema.ModelT,
    source: str,
    name: str,
    outputs: tuple[str, ...] | None = None,
    share: bool = False,
) -> None:
    """Add a signature with some outputs of another.

    Args:
        model: The file, changed in place.
        source: Name of the signature to view.
        name: Name of the new signature.
        outputs: Names of the outputs it keeps; None: all.
        share: Whether a view of all outputs may be a second name of the same subgraph.
    """
    old = signature(model, source)
    view = copy.deepcopy(old)
    view.signatureKey = name.encode()
    if outputs is not None:
        kept = {n.encode() for n in outputs}
        view.outputs = [entry for entry in view.outputs if entry.name in kept]
    if share and len(view.outputs) == len(old.outputs):
        model.signatureDefs.append(view)
        return
    graph = copy.copy(model.subgraphs[old.subgraphIndex])
    graph.name = name.encode()
    graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
    graph.inputs = list(graph.inputs)
    graph.outputs = [entry.tensorIndex for entry in view.outputs]
    needed, operators = set(graph.outputs), []
    for operator in reversed(graph.operators):
        if needed & set(operator.outputs):
            operators.append(copy.copy(operator))
            needed.update(operator.inputs)
    graph.operators = operators[::-1]
    view.subgraphIndex = len(model.subgraphs)
    model.subgraphs.append(graph)
    model.signatureDefs.append(view)


def make_default(model: schema.ModelT, name: str) -> None:
    """Make a signature the first, its subgraph number 0: what runs without a name."""
    first = signature(model, name)
    place = first.subgraphIndex
    for other in model.signatureDefs:
        if other.subgraphIndex in (0, place):
            other.subgraphIndex = place - other.subgraphIndex
    graphs = model.subgraphs
    graphs[0], graphs[place] = graphs[place], graphs[0]
    rest = [other for other in model.signatureDefs if other is not first]
    model.signatureDefs = [first, *rest]


def keep_signatures(model: schema.ModelT, names: Sequence[str]) -> None:
    """Leave only these signatures in a file, the first of them in it as default.

    Subgraphs and constants that no other signature uses go with those that are left out.

    Args:
        model: The file, changed in place.
        names: One or more of its signatures.
    """
    wanted = {name.encode() for name in names}
    model.signatureDefs = [
        entry for entry in model.signatureDefs if entry.signatureKey in wanted
    ]
    make_default(model, model.signatureDefs[0].signatureKey.decode())
    used = {
        index
        for entry in model.signatureDefs
        for index in flatbuffer.reachable(model, entry.subgraphIndex)
    }
    place = {old: new for new, old in enumerate(sorted(used))}
    model.subgraphs = [model.subgraphs[old] for old in sorted(used)]
    for entry in model.signatureDefs:
        entry.subgraphIndex = place[entry.subgraphIndex]
    for _, _, operator in flatbuffer.walk(model):
        flatbuffer.renumber_branches(operator, place)
    flatbuffer.drop_unused_buffers(model)


def freeze_input(
    model: schema.ModelT, source: str, name: str, value: np.ndarray
) -> None:
    """Make an input of a signature a constant."""
    found = signature(model, source)
    (entry,) = (e for e in found.inputs if e.name == name.encode())
    found.inputs = [e for e in found.inputs if e is not entry]
    graph = model.subgraphs[found.subgraphIndex]
    graph.inputs = [t for t in graph.inputs if t != entry.tensorIndex]
    tensor = graph.tensors[entry.tensorIndex]
    tensor.buffer = flatbuffer.intern_buffer(model, value.tobytes())
