"""What signatures of an int8 file have in common has one scale in all of them."""

from collections import defaultdict

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd
from keras_dyngate.export import passes
from keras_dyngate.flatfile import flatbuffer
from tests.quantization.nets import X, exits, lively, mobile, sliced

pytestmark = pytest.mark.heavy
KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
layers = keras.layers


def scales(path):
    """By kernel, what goes into and comes out of it, and its bias, in each graph."""
    file = flatbuffer.read(path.read_bytes())
    found = defaultdict(list)
    for _, graph, operator in flatbuffer.walk(file):
        kernel = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
        if flatbuffer.op_name(file, operator) in KERNELS and kernel.type == 9:
            ends = [graph.tensors[t] for t in (operator.inputs[0], operator.outputs[0])]
            held = [flatbuffer.scale_and_zero_point(end) for end in ends]
            held += [graph.tensors[t].buffer for t in operator.inputs[2:]]
            numbers = kernel.buffer, kernel.quantization.scale.tobytes()
            found[numbers].append(tuple(held))
    return [set(each) for each in found.values() if len(each) > 1]


def exported(model, path):
    return kd.export_tflite(
        model, path, quantization="int8", representative_data=X, parity_data=X
    )


@pytest.mark.parametrize("make", [exits, sliced])
def test_copies_of_a_kernel_have_one_scale(make, tmp_path, monkeypatch):
    model = make()
    report = exported(model, tmp_path / "with.tflite")
    monkeypatch.setattr(passes, "shared_scales", lambda file: 0)
    without = exported(model, tmp_path / "without.tflite")
    before = scales(tmp_path / "without.tflite")
    assert any(len(each) > 1 for each in before), "the test must see several scales"
    after = scales(tmp_path / "with.tflite")
    apart = [each for each in after if len(each) > 1]  # what ends in raw scores
    assert len(after) - len(apart) >= 5 and len(apart) <= 1
    assert report.bytes < without.bytes
    parity = report.parity
    assert parity.clear_argmax_agreement >= without.parity.clear_argmax_agreement - 0.03
    assert parity.max_difference < without.parity.max_difference + 0.02


def test_stages_say_what_the_whole_says(tmp_path):
    model = exits()
    exported(model, tmp_path / "net.tflite")
    file = kd.LiteRTModel(tmp_path / "net.tflite")
    for x in X[:12]:
        whole = file.run("explain_at", image=x, thresholds=np.float32([0.0]))
        first = file.run("stage_1", image=x)
        np.testing.assert_array_equal(first["logits"], whole["logits"])


def test_a_layer_that_is_called_twice_keeps_its_scales(tmp_path):
    image = keras.Input((16, 16, 3))
    again = layers.Conv2D(3, 3, padding="same", name="again")
    x = layers.GlobalAveragePooling2D()(again(layers.ReLU()(again(image))))
    model = lively(keras.Model(image, layers.Dense(4)(x)))
    report = exported(model, tmp_path / "net.tflite")
    assert report.parity.clear_argmax_agreement >= 0.95
    assert max(len(each) for each in scales(tmp_path / "net.tflite")) == 2


def test_a_file_without_copies_stays(tmp_path):
    exported(mobile(), tmp_path / "net.tflite")
    file = flatbuffer.read((tmp_path / "net.tflite").read_bytes())
    assert passes.shared_scales(file) == 0
