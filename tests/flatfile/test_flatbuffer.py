"""What is written is judged by LiteRT's own verifier and interpreter."""

import os
import time

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from keras_dyngate.flatfile import flatbuffer  # noqa: E402

WEIGHTS = np.arange(12, dtype="float32").reshape(3, 4)


def nested(x):
    """An IF within an IF: three outcomes, 10, 20 and 30 added."""
    y = x @ tf.constant(WEIGHTS)
    return {
        "y": tf.cond(
            x[0, 0] > 0,
            lambda: y + 10.0,
            lambda: tf.cond(x[0, 1] > 0, lambda: y + 20.0, lambda: y + 30.0),
        )
    }


def doubled(x):
    return {"y": x @ tf.constant(WEIGHTS) * 2.0}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    spec = tf.TensorSpec([1, 3], tf.float32)
    signatures = {
        function.__name__: tf.function(function).get_concrete_function(x=spec)
        for function in (nested, doubled)
    }
    folder = os.fspath(tmp_path_factory.mktemp("saved"))
    tf.saved_model.save(tf.Module(), folder, signatures=signatures)
    return tf.lite.TFLiteConverter.from_saved_model(
        folder, signature_keys=list(signatures)
    ).convert()


def run(content, signature, *x):
    runner = Interpreter(model_content=content).get_signature_runner(signature)
    return runner(x=np.array([x], "float32"))["y"][0]


def test_round_trip_keeps_the_function(content):
    again = flatbuffer.write(flatbuffer.read(content))
    for x, shift in (((1, 2, 3), 10), ((-1, 2, 3), 20), ((-1, -2, 3), 30)):
        expected = np.array(x) @ WEIGHTS
        np.testing.assert_allclose(run(again, "nested", *x), expected + shift)
        np.testing.assert_allclose(run(again, "doubled", *x), expected * 2)
    assert flatbuffer.op_counts(again) == flatbuffer.op_counts(content)


def test_op_counts_reach_into_branches(content):
    counts = flatbuffer.op_counts(content)
    assert counts["IF"] == 2
    assert counts["FULLY_CONNECTED"] + counts["BATCH_MATMUL"] == 2


def test_reachable_follows_branches_only_of_its_signature(content):
    model = flatbuffer.read(content)
    roots = {s.signatureKey: s.subgraphIndex for s in model.signatureDefs}
    of_nested = flatbuffer.reachable(model, roots[b"nested"])
    assert of_nested[0] == roots[b"nested"]
    assert len(of_nested) == len(set(of_nested)) == 5  # itself, 2 branches, 2 more
    assert flatbuffer.reachable(model, roots[b"doubled"]) == [roots[b"doubled"]]
    assert len(model.subgraphs) == 6


def test_branches_are_then_and_else(content):
    model = flatbuffer.read(content)
    index = next(
        s.subgraphIndex for s in model.signatureDefs if s.signatureKey == b"nested"
    )
    (outer,) = [
        operator
        for operator in model.subgraphs[index].operators
        if flatbuffer.op_name(model, operator) == "IF"
    ]
    then, otherwise = flatbuffer.branches(outer)
    names = [
        [flatbuffer.op_name(model, op) for op in model.subgraphs[b].operators]
        for b in (then, otherwise)
    ]
    assert "IF" not in names[0] and "IF" in names[1]
    assert flatbuffer.branches(model.subgraphs[then].operators[0]) == []


def test_custom_operators_have_their_own_name():
    model = schema.ModelT()
    code = schema.OperatorCodeT()
    code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, b"FlexErf"
    model.operatorCodes = [code]
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    assert flatbuffer.op_name(model, operator) == "FlexErf"


def test_opcode_index_reuses_and_adds(content):
    model = flatbuffer.read(content)
    branch_code = schema.BuiltinOperator.IF
    index = flatbuffer.opcode_index(model, branch_code, 1)
    assert flatbuffer.builtin_code(model.operatorCodes[index]) == branch_code
    count = len(model.operatorCodes)
    added = flatbuffer.opcode_index(model, schema.BuiltinOperator.BROADCAST_TO, 3)
    assert added == count == len(model.operatorCodes) - 1
    code = model.operatorCodes[added]
    # The field of old readers holds one byte; larger codes read as 127 there.
    assert (code.builtinCode, code.deprecatedBuiltinCode) == (130, 127)
    assert flatbuffer.opcode_index(model, code.builtinCode, 2) == added
    assert flatbuffer.opcode_index(model, code.builtinCode, 4) == added + 1


def test_a_new_operator_behind_a_replaced_output_runs(content):
    model = flatbuffer.read(content)
    index = next(
        s.subgraphIndex for s in model.signatureDefs if s.signatureKey == b"doubled"
    )
    subgraph = model.subgraphs[index]
    (old,) = subgraph.outputs
    tensor = schema.TensorT()
    tensor.name, tensor.shape = b"clipped", np.array([1, 4], np.int32)
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, 0
    new = flatbuffer.add_tensor(subgraph, tensor)
    flatbuffer.replace_port(model, index, "outputs", old, new)
    floor = flatbuffer.new_operator(model, "NEG", 1, [old], [new])
    subgraph.operators.append(floor)
    x = (1.0, -2.0, 3.0)
    expected = -2 * (np.array(x) @ WEIGHTS)
    written = flatbuffer.write(model)
    np.testing.assert_allclose(run(written, "doubled", *x), expected)
    np.testing.assert_allclose(run(written, "nested", *x), 10 - expected / 2)


def test_constants_are_values_and_computed_tensors_none(content):
    model = flatbuffer.read(content)
    tensors = [t for subgraph in model.subgraphs for t in subgraph.tensors]
    values = [flatbuffer.constant(model, t, np.uint8) for t in tensors]
    weights = [v for v in values if v is not None and v.nbytes == WEIGHTS.nbytes]
    # Transposed for FULLY_CONNECTED; `doubled` has its factor folded in.
    found = {tuple(sorted(v.view(np.float32))) for v in weights}
    assert found == {tuple(range(12)), tuple(range(0, 24, 2))}
    for port in model.subgraphs[0].inputs + model.subgraphs[0].outputs:
        tensor = model.subgraphs[0].tensors[port]
        assert flatbuffer.constant(model, tensor, np.float32) is None


def test_equal_bytes_are_stored_once(content):
    model = flatbuffer.read(content)
    count = len(model.buffers)
    first = flatbuffer.intern_buffer(model, np.arange(7, dtype=np.int8))
    assert first == count
    assert flatbuffer.intern_buffer(model, bytes(range(7))) == first
    assert flatbuffer.intern_buffer(model, b"") != 0
    assert flatbuffer.intern_buffer(model, np.arange(8, dtype=np.int8)) > first
    held = model.buffers[first].data
    assert held.dtype == np.uint8 and bytes(held) == bytes(range(7))


def test_metadata_survives_and_is_replaced(content):
    model = flatbuffer.read(content)
    others = [entry.name for entry in model.metadata]
    assert flatbuffer.get_metadata(model, "notes") is None
    flatbuffer.set_metadata(model, "notes", b"first")
    flatbuffer.set_metadata(model, "notes", "zweitens: ü".encode())
    written = flatbuffer.write(model)
    model = flatbuffer.read(written)
    assert flatbuffer.get_metadata(model, "notes").decode() == "zweitens: ü"
    assert [entry.name for entry in model.metadata] == [*others, b"notes"]
    np.testing.assert_allclose(run(written, "doubled", 1, 0, 0), 2 * WEIGHTS[0])


def test_unused_buffers_are_emptied_and_used_ones_kept(content):
    model = flatbuffer.read(content)
    unused = flatbuffer.intern_buffer(model, b"nobody reads this")
    flatbuffer.set_metadata(model, "notes", b"somebody reads this")
    flatbuffer.drop_unused_buffers(model)
    assert model.buffers[unused].data is None
    written = flatbuffer.write(model)
    assert b"nobody reads this" not in written
    assert b"somebody reads this" in written
    np.testing.assert_allclose(run(written, "doubled", 1, 0, 0), 2 * WEIGHTS[0])


def test_large_models_are_read_and_written_fast_and_aligned(content):
    model = flatbuffer.read(content)
    megabytes = 100
    for value in range(megabytes):
        flatbuffer.set_metadata(model, f"{value}", b"%03d" % value)
        data = np.full((1 << 20) + value, value, np.uint8)
        model.buffers[model.metadata[-1].buffer].data = data
    start = time.process_time()
    written = flatbuffer.write(model)
    again = flatbuffer.read(written)
    elapsed = time.process_time() - start
    assert len(written) > megabytes << 20
    assert elapsed < 10  # measured .3 s; element by element it takes minutes
    base = np.frombuffer(written, np.uint8).ctypes.data
    for buffer in again.buffers:
        if buffer.data is not None:
            assert np.shares_memory(buffer.data, np.frombuffer(written, np.uint8))
            assert (buffer.data.ctypes.data - base) % flatbuffer.ALIGNMENT == 0


@pytest.mark.parametrize("kept", [0, 3, 7, 8, 9, 40, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(content, kept):
    size = kept if isinstance(kept, int) else int(kept * len(content))
    with pytest.raises(ValueError, match=rf"`content` must .* Received: {size} bytes"):
        flatbuffer.read(content[:size])


def test_weights_outside_the_flatbuffer_are_refused(content):
    model = flatbuffer.read(content)
    model.buffers[1].offset = 1 << 12
    with pytest.raises(ValueError, match="inside the flatbuffer .* Received: buffers"):
        flatbuffer.read(flatbuffer.write(model))


def test_equal_quantizations_are_stored_once(content):
    """Two tensors of many channels: the second costs nothing, and reads as the first."""
    model = flatbuffer.read(content)
    alone = len(flatbuffer.write(model))
    channels = 5000
    for tensor in model.subgraphs[0].tensors[:2]:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.linspace(1, 2, channels, dtype="float32")
        tensor.quantization.zeroPoint = np.zeros(channels, "int64")
    written = flatbuffer.write(model)
    assert 12 * channels < len(written) - alone < 13 * channels
    first, second = flatbuffer.read(written).subgraphs[0].tensors[:2]
    for tensor in (first, second, model.subgraphs[0].tensors[0]):
        np.testing.assert_array_equal(
            tensor.quantization.scale, np.linspace(1, 2, channels, dtype="float32")
        )


def test_equal_tensors_and_names_are_stored_once(content):
    model = flatbuffer.read(content)
    alone = len(flatbuffer.write(model))
    graph, count, name = model.subgraphs[0], 500, b"n" * 100
    for _ in range(count):
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, np.array([2, 3], np.int32)
        flatbuffer.add_tensor(graph, tensor)
    written = flatbuffer.write(model)
    assert len(written) - alone < 4 * count + 300  # an offset for each, and one of all
    again = flatbuffer.read(written).subgraphs[0].tensors[-count:]
    assert {tensor.name for tensor in again} == {name}
    assert {tuple(tensor.shape) for tensor in again} == {(2, 3)}


def test_tensors_that_nobody_reads_become_empty(content):
    model = flatbuffer.read(content)
    tensor = schema.TensorT()
    tensor.name, tensor.shape = b"nobody reads this", np.array([7], np.int32)
    tensor.buffer = flatbuffer.intern_buffer(model, np.arange(7, dtype=np.float32))
    place = flatbuffer.add_tensor(model.subgraphs[0], tensor)
    before = [bytes(t.name) for t in model.subgraphs[0].tensors[:place]]
    flatbuffer.drop_unused_buffers(model)
    written = flatbuffer.write(model)
    assert b"nobody reads this" not in written
    assert model.buffers[tensor.buffer].data is None
    assert [bytes(t.name) for t in model.subgraphs[0].tensors[:place]] == before
    np.testing.assert_allclose(run(written, "doubled", 1, 0, 0), 2 * WEIGHTS[0])
