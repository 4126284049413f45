"""Numbers for each channel go over rows of an image, and the file says what it said."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from keras_dyngate.export.conversion import convert  # noqa: E402
from keras_dyngate.export.wide_constants import wide_constants  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402

SHAPE = (1, 6, 5, 3)
RNG = np.random.default_rng(0)
X = RNG.uniform(0, 255, (8, *SHAPE)).astype("float32")
MEAN, STD = [103.0, 116.0, 124.0], [57.0, 58.0, 60.0]


def unequal(x):
    return {"y": (x - tf.constant(MEAN)) / tf.constant(STD)}


def equal(x):
    return {"y": (x - tf.constant([127.0] * 3)) * tf.constant([1 / 128] * 3)}


def mixed(x):
    """The constant first; one number for all in between; two that read one image."""
    y = tf.constant(MEAN) - x
    z = tf.nn.relu(
        y * tf.constant([0.5, 0.5, 0.5]) + tf.constant([[[[1.0, 2.0, 3.0]]]])
    )
    return {"y": z, "both": z + y, "between": y}


def branches(x):
    wide = tf.reduce_mean(x) > 120.0
    return {"y": tf.cond(wide, lambda: x - tf.constant(MEAN), lambda: x * 1.0)}


def content(function, shape, quantization=None):
    def as_convolved(x):
        found = function(x)
        if quantization:  # something to quantize
            kernel = tf.constant(RNG.normal(size=(3, 3, 3, 4)).astype("float32"))
            found["y"] = tf.nn.conv2d(found["y"], kernel, 1, "SAME")
        return found

    spec = tf.TensorSpec(shape, tf.float32)
    made = tf.function(as_convolved, autograph=False).get_concrete_function(x=spec)
    feed = (lambda: (("net", {"x": x}) for x in X)) if quantization else None
    return flatbuffer.write(convert({"net": made}, quantization, feed))


def widened(before):
    model = flatbuffer.read(before)
    wide_constants(model)
    return flatbuffer.write(model)


def run(file, x):
    return Interpreter(model_content=file).get_signature_runner("net")(x=x)


def constants(file):
    """Sizes of what is added and multiplied, in numbers."""
    model = flatbuffer.read(file)
    for _, graph, operator in flatbuffer.walk(model):
        if flatbuffer.op_name(model, operator) in ("ADD", "SUB", "MUL", "DIV"):
            for tensor in map(int, operator.inputs):
                held = flatbuffer.constant(model, graph.tensors[tensor], np.uint8)
                if held is not None:
                    yield int(np.prod(graph.tensors[tensor].shape))


@pytest.mark.parametrize(
    ("function", "quantization", "sizes", "reshapes"),
    [
        (unequal, None, {15}, 2),
        (unequal, "int8", {15}, 2),
        (equal, None, {1}, 0),
        (equal, "int8", {1}, 0),
        (mixed, None, {1, 15}, 4),
        (mixed, "int8", {1, 15}, 4),
        (branches, None, {15}, 2),
    ],
)
def test_the_answers_are_the_same(function, quantization, sizes, reshapes):
    before = content(function, SHAPE, quantization)
    assert 3 in set(constants(before)), "the test must see the constants"
    after = widened(before)
    assert set(constants(after)) == sizes
    assert flatbuffer.op_counts(after)["RESHAPE"] <= reshapes
    for x in X:
        was, now = run(before, x), run(after, x)
        assert set(was) == set(now)
        for name, expected in was.items():
            np.testing.assert_array_equal(now[name], expected)
    assert widened(after) == after


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (unequal, (1, 6, None, 3)),  # a row of unknown size
        (unequal, (1, 6, 1, 3)),  # a row of one pixel
        (unequal, (6, 3)),  # no image
        (
            lambda x: {"y": x * tf.constant(RNG.normal(size=16).astype("f"))},
            (1, 6, 5, 16),
        ),
    ],
)
def test_others_stay(function, shape):
    before = content(function, shape)
    assert widened(before) == before
