"""Large constants of one value are made by the file, and it says what it said before."""

from collections import Counter

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from keras_dyngate.export import filled_constants  # noqa: E402
from keras_dyngate.export.conversion import convert  # noqa: E402
from keras_dyngate.export.filled_constants import fill_constants  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402

SIDE = 130  # numbers; 4 bytes for each of SIDE * SIDE are above MIN_BYTES
RAMP = np.arange(SIDE * SIDE, dtype="float32").reshape(SIDE, SIDE)


def net(x):
    """Three IFs: the operands are large and uniform (two of them), a ramp, and small."""

    def when(wanted, value):
        return tf.cond(wanted, lambda: value + x, lambda: tf.identity(value))

    threes, ramp = tf.fill([SIDE, SIDE], 3.0), tf.constant(RAMP)
    return {
        "threes": when(x[0] > 0, threes),
        "again": when(x[0] > 1, threes),
        "ramp": when(x[0] > 2, ramp),
        "small": when(x[0] > 3, tf.fill([5], 7.0)),
    }


@pytest.fixture(scope="module")
def content():
    spec = tf.TensorSpec([1], tf.float32)
    function = tf.function(net, autograph=False).get_concrete_function(x=spec)
    return flatbuffer.write(convert({"net": function}, None))


def filled(content):
    model = flatbuffer.read(content)
    fill_constants(model)
    return flatbuffer.write(model)


def constants(content):
    """Sizes of the large constants of a file, with how often each occurs."""
    buffers = flatbuffer.read(content).buffers
    return Counter(
        len(b.data) for b in buffers if b.data is not None and len(b.data) > 1000
    )


def run(content, x):
    runner = Interpreter(model_content=content).get_signature_runner("net")
    return runner(x=np.array([x], "float32"))


def test_the_answers_are_the_same(content):
    after = filled(content)
    for x in (-1.0, 0.5, 1.5, 2.5, 3.5):
        found = run(after, x)
        for name, value in (("threes", 3.0), ("again", 3.0), ("ramp", RAMP)):
            limit = {"threes": 0, "again": 1, "ramp": 2}[name]
            expected = value + x if x > limit else value
            np.testing.assert_array_equal(
                found[name], np.broadcast_to(np.float32(expected), (SIDE, SIDE))
            )
        for name, before in run(content, x).items():
            np.testing.assert_array_equal(found[name], before)


def test_what_is_large_and_uniform_is_filled_once(content):
    size = 4 * SIDE * SIDE
    assert constants(content) == {size: 2}, "the test must see both constants"
    after = filled(content)
    assert constants(after) == {size: 1}, "a ramp cannot be filled"
    assert len(after) < len(content) - 0.9 * size
    assert "FILL" not in flatbuffer.op_counts(content)
    assert flatbuffer.op_counts(after)["FILL"] == 1
    before, after = (flatbuffer.op_counts(file) for file in (content, after))
    assert after - before == Counter(FILL=1)
    assert before - after == Counter()


def test_the_fill_stands_before_its_first_use(content):
    model = flatbuffer.read(filled(content))
    made = set()
    for operator in model.subgraphs[0].operators:
        if flatbuffer.op_name(model, operator) == "FILL":
            made.update(operator.outputs)
        elif made & set(operator.inputs):
            return
    pytest.fail("nothing uses what was filled")


def test_small_ones_stay(content, monkeypatch):
    monkeypatch.setattr(filled_constants, "MIN_BYTES", 4 * SIDE * SIDE + 1)
    assert "FILL" not in flatbuffer.op_counts(filled(content))
