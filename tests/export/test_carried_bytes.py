"""Steps of an int8 file hand on int8 numbers in int32 containers, and say the same."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from keras_dyngate.export.carried_bytes import carry_bytes  # noqa: E402
from keras_dyngate.export.conversion import convert  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402

STEPS = ("start", "step_2")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 1, 5, 5, 3)).astype("float32")
KERNELS = {
    name: RNG.normal(size=(3, 3, *channels)).astype("float32")
    for name, channels in (("wide", (3, 8)), ("odd", (3, 6)), ("on", (8, 4)))
}


def conv(x, name):
    return tf.nn.relu(tf.nn.conv2d(x, tf.constant(KERNELS[name]), 1, "SAME"))


def start(image):
    """`wide` can be packed; 6 channels cannot; `said` is no step's input."""
    wide, odd = conv(image, "wide"), conv(image, "odd")
    return {"wide": wide, "odd": odd, "said": tf.reduce_mean(wide, [1, 2])}


def step_2(wide, odd):
    x = tf.reduce_mean(conv(wide, "on"), [1, 2])
    return {"x": tf.concat([x, tf.reduce_mean(odd, [1, 2])], -1)}


def floats(image):
    """Numbers a step wants as they are: no convolution takes them."""
    return {"x": conv(image, "wide")}


@pytest.fixture(scope="module")
def files():
    """The int8 file before and after."""

    def traced(function, **channels):
        specs = {
            name: tf.TensorSpec([1, 5, 5, n], name=name) for name, n in channels.items()
        }
        made = tf.function(function, autograph=False)
        return made.get_concrete_function(**specs)

    def feed():
        for image in IMAGES:
            yield "start", {"image": image}
            kept = {name: conv(image, name).numpy() for name in ("wide", "odd")}
            yield "step_2", kept

    functions = {
        "start": traced(start, image=3),
        "step_2": traced(step_2, wide=8, odd=6),
    }
    content = flatbuffer.write(convert(functions, "int8", feed))
    model = flatbuffer.read(content)
    carry_bytes(model, STEPS)
    return content, flatbuffer.write(model)


def both(content, image):
    """Answers of the two steps, one fed by the other."""
    interpreter = Interpreter(model_content=content)
    first, second = (interpreter.get_signature_runner(name) for name in STEPS)
    kept = first(image=image)
    wanted = second.get_input_details()
    return kept, second(**{name: kept[name] for name in wanted})


def test_the_answers_are_the_same(files):
    """Bytes are moved, not changed. The int8 numbers are those that were dequantized."""
    before, after = files
    detail = next(
        t
        for t in flatbuffer.read(before).subgraphs[0].tensors
        if t.type == schema.TensorType.INT8 and list(t.shape) == [1, 5, 5, 8]
    )
    scale, zero = flatbuffer.scale_and_zero_point(detail)
    for image in IMAGES:
        kept, answers = both(before, image)
        packed, found = both(after, image)
        np.testing.assert_array_equal(found["x"], answers["x"])
        np.testing.assert_array_equal(packed["odd"], kept["odd"])
        np.testing.assert_array_equal(packed["said"], kept["said"])
        numbers = packed["wide"].view(np.int8).astype("float32")
        assert len(np.unique(numbers)) > 10
        np.testing.assert_allclose((numbers - zero) * scale, kept["wide"], rtol=1e-5)


def test_four_channels_to_an_int32(files):
    interpreter = Interpreter(model_content=files[1])
    first, second = (interpreter.get_signature_runner(name) for name in STEPS)
    for found in (first.get_output_details(), second.get_input_details()):
        assert found["wide"]["dtype"] == np.int32
        assert found["wide"]["shape"].tolist() == [1, 5, 5, 2]
        assert found["odd"]["dtype"] == np.float32, "6 channels are not whole int32"
        assert found["odd"]["shape"].tolist() == [1, 5, 5, 6]
    assert first.get_output_details()["said"]["dtype"] == np.float32


def test_conversions_to_float_are_gone(files):
    before, after = (flatbuffer.op_counts(content) for content in files)
    assert after["DEQUANTIZE"] == before["DEQUANTIZE"] - 1
    assert after["QUANTIZE"] <= before["QUANTIZE"]
    assert before["BITCAST"] == 0 and after["BITCAST"] == 2


def test_float_files_stay_as_they_are():
    image = tf.TensorSpec([1, 5, 5, 3], name="image")
    x = tf.TensorSpec([1, 5, 5, 8], name="x")

    @tf.function
    def then(x):
        return {"y": conv(x, "on")}

    functions = {
        "start": tf.function(floats).get_concrete_function(image=image),
        "step_2": then.get_concrete_function(x=x),
    }
    content = flatbuffer.write(convert(functions, None))
    model = flatbuffer.read(content)
    carry_bytes(model, STEPS)
    assert flatbuffer.op_counts(flatbuffer.write(model)) == flatbuffer.op_counts(
        content
    )
