"""What a step or sub-network reads, carries and computes: against counts by hand."""

import re

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_dyngate import CostTable, LiteRTModel  # noqa: E402
from keras_dyngate.export.conversion import convert  # noqa: E402
from keras_dyngate.export.plan.subnetwork_costs import subnetwork_costs  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402

RNG = np.random.default_rng(0)
SIDE = 6
# By name, float32: the first by `start` and `classify_k1`, the next by step 2 alone.
KERNELS = {
    name: RNG.normal(size=shape).astype("float32")
    for name, shape in (("first", (3, 16)), ("second", (16, 24)), ("third", (24, 40)))
}
SMALL = 64  # bytes: axes and shapes that operators read beside the kernels


def answer(x):
    logits = tf.reduce_mean(x, [1, 2])
    label = tf.argmax(logits, -1, tf.int32)
    return {"logits": logits, "label": label, "executed_macs": tf.fill([1], 7)}


def layer(x, name):
    return tf.nn.relu(tf.tensordot(x, tf.constant(KERNELS[name]), 1))


def start(image):
    x = layer(image, "first")
    return {**answer(x), "x_1": x}


def step_2(x_1):
    x = layer(x_1, "second")
    return {**answer(x), "x_2": x}


def step_3(x_2):
    return answer(layer(x_2, "third"))


def classify_k1(image):
    return answer(layer(image, "first"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    shapes = {"image": 3, "x_1": 16, "x_2": 24}
    functions = {
        function.__name__: tf.function(function, autograph=False).get_concrete_function(
            **{
                name: tf.TensorSpec([1, SIDE, SIDE, shapes[name]], name=name)
                for name in function.__code__.co_varnames[:1]
            }
        )
        for function in (step_3, classify_k1, step_2, start)
    }
    file = convert(functions, None)
    path = tmp_path_factory.mktemp("costs") / "net.tflite"
    path.write_bytes(flatbuffer.write(file))
    profile = CostTable((), per_subnetwork=(11, 22, 33), per_step=(1, 2, 3))
    image = np.ones((SIDE, SIDE, 3), "float32")
    found = subnetwork_costs(LiteRTModel(path), file, profile, image)
    return {row.signature: row for row in found}


def test_steps_in_their_order_then_subnetworks(rows):
    assert [(row.signature, row.k, row.macs) for row in rows.values()] == [
        ("start", 1, 1),
        ("step_2", 2, 2),
        ("step_3", 3, 3),
        ("classify_k1", 1, 11),
    ]
    assert all(row.ms > 0 for row in rows.values())


def test_weights_that_are_read_and_that_are_read_alone(rows):
    for signature, name, alone in (
        ("start", "first", False),
        ("step_2", "second", True),
        ("step_3", "third", True),
        ("classify_k1", "first", False),
    ):
        size, row = KERNELS[name].nbytes, rows[signature]
        assert size <= row.weight_bytes <= size + SMALL
        assert (size if alone else 0) <= row.own_bytes <= alone * size + SMALL


def test_bytes_that_are_carried(rows):
    pixels = 4 * SIDE * SIDE
    assert {name: (row.carried_in, row.carried_out) for name, row in rows.items()} == {
        "start": (0, 16 * pixels),
        "step_2": (16 * pixels, 24 * pixels),
        "step_3": (24 * pixels, 0),
        "classify_k1": (0, 0),
    }
    for name, row in rows.items():
        assert (row.copy_ms > 0) == (name != "classify_k1")


def test_text(rows):
    step, alone = str(rows["step_2"]), str(rows["classify_k1"])
    assert step.startswith("step_2: 2 MACs, ")
    assert re.search(
        r"carries 2,304 bytes in and 3,456 out \(copied in 0\.\d{3} ms\)", step
    )
    assert alone.startswith("classify_k1: 11 MACs, ") and "carries" not in alone
