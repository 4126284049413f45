"""What is done to a file after its conversion, in order; it is read and written once."""

import json
import re
from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_dyngate.export.carried_bytes import carry_bytes
from keras_dyngate.export.conversion import convert
from keras_dyngate.export.eight_bit_weights import eight_bit_weights
from keras_dyngate.export.filled_constants import fill_constants
from keras_dyngate.export.float_kernels import check_int8, float_gates, float_thin
from keras_dyngate.export.float_layers import float_layers
from keras_dyngate.export.int8_borders import int8_borders
from keras_dyngate.export.plan.traced import Traced
from keras_dyngate.export.shared_scales import shared_scales
from keras_dyngate.export.views import add_view, freeze_input, make_default
from keras_dyngate.export.wide_constants import wide_constants
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime.litert_model import METADATA_NAME
from keras_dyngate.runtime.signature_table import ENTRY

Pass = Callable[[schema.ModelT, Traced], None]


def _float_gates(file: schema.ModelT, traced: Traced) -> None:
    float_gates(file, traced.gate_kernels)


def _float_thin(file: schema.ModelT, traced: Traced) -> None:
    float_thin(file, lambda: convert(traced.functions, None))


def _int8_borders(file: schema.ModelT, traced: Traced) -> None:
    int8_borders(file)


def _check_int8(file: schema.ModelT, traced: Traced) -> None:
    if not traced.rounds:  # there, what is in float is said by the net
        check_int8(file, traced.float_kernels)


def _eight_bit_weights(file: schema.ModelT, traced: Traced) -> None:
    eight_bit_weights(file, [k for forms in traced.gate_kernels for k in forms])


def _float_layers(file: schema.ModelT, traced: Traced) -> None:
    if traced.float_layers:
        float_layers(file, traced.float_layers)


def _shared_scales(file: schema.ModelT, traced: Traced) -> None:
    if not traced.rounds:  # whose ranges are the net's own
        shared_scales(file)


def _carry_bytes(file: schema.ModelT, traced: Traced) -> None:
    carry_bytes(file, traced.table.numbered("step").values())


def _fill_constants(file: schema.ModelT, traced: Traced) -> None:
    fill_constants(file)


def _wide_constants(file: schema.ModelT, traced: Traced) -> None:
    wide_constants(file)


def _short_names(file: schema.ModelT, traced: Traced) -> None:
    """Name what is inside a graph by one operator alone, wherever that is.

    The converter joins the names of all that it fused, and of the branches around.
    """
    for graph in file.subgraphs:
        kept = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            if index not in kept:
                parts = (tensor.name or b"").split(b";")
                first = next((part for part in parts if part), b"")
                tensor.name = re.sub(rb"^(cond(_\d+)?/)+", b"", first)


def _add_signatures(file: schema.ModelT, traced: Traced) -> None:
    """Freeze what was for calibration, and add the views, the first as default."""
    for name, blocks in traced.forced.items():
        freeze_input(file, name, "force", np.zeros(blocks, np.int32))
    for view in traced.views:
        share = not view.frozen
        add_view(file, view.source, view.name, view.outputs, share)
        for name, value in view.frozen.items():
            freeze_input(file, view.name, name, value)
    for signature, inputs in traced.frozen.items():
        for name, value in inputs.items():
            freeze_input(file, signature, name, value)
    make_default(file, traced.views[0].name)


def note_metadata(file: schema.ModelT, traced: Traced) -> None:
    """Write the metadata, with the table of the signatures that the file has."""
    names = [entry.signatureKey.decode() for entry in file.signatureDefs]
    noted = {**traced.metadata, ENTRY: traced.table.kept(names).noted()}
    flatbuffer.set_metadata(file, METADATA_NAME, json.dumps(noted).encode())


_OWN: dict[str | None, tuple[Pass, ...]] = {
    "dynamic": (_float_gates, _float_thin),
    "int8": (
        _int8_borders,
        _check_int8,
        _eight_bit_weights,
        _float_layers,
        _shared_scales,
        _carry_bytes,
    ),
}
_ALL: tuple[Pass, ...] = (
    _wide_constants,
    _fill_constants,
    _add_signatures,
    _short_names,
    note_metadata,
)


def passes(quantization: str | None) -> tuple[Pass, ...]:
    """All passes over a file of a quantization, in order.

    Each takes the file, which it changes in place, and what it was made from.
    """
    return (*_OWN.get(quantization, ()), *_ALL)
