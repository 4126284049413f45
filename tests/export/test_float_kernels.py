"""Gates' kernels stay float32 in files whose other weights are int8."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from keras_dyngate.export.float_kernels import float_gates
from keras_dyngate.flatfile import flatbuffer
from tests.export.nets import tinted

layers = keras.layers
X = tinted(12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A net whose gate has, for a feature that hardly varies, a very large weight."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((12, 12, 3))
    x = layers.Conv2D(128, 3, activation="relu", name="a")(layers.Rescaling(1 / 255)(x))
    x = layers.Conv2D(64, 3, activation="relu", name="b")(x)
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = kd.add_decision_gates(keras.Model(image, x), ["a"])
    dense = model.gates[0].dense
    kernel = np.random.default_rng(0).normal(size=dense.kernel.shape)
    kernel[0] *= 1e4
    first = model.trunk.get_layer("a")
    weights, bias = first.get_weights()
    weights[..., 0], bias[0] = 0.0, 0.5
    first.set_weights([weights, bias])
    dense.set_weights([kernel, -0.5 * kernel[0]])
    model.thresholds = [-1e9]
    path = tmp_path_factory.mktemp("gates") / "dynamic.tflite"
    report = kd.export_tflite(model, path, quantization="dynamic", parity_data=X)
    return model, path, report


def weights_of(path):
    file = flatbuffer.read(path.read_bytes())
    kinds = {flatbuffer.schema.TensorType.INT8: np.int8}
    for _, graph, operator in flatbuffer.walk(file):
        if flatbuffer.op_name(file, operator) == "FULLY_CONNECTED":
            tensor = graph.tensors[operator.inputs[1]]
            dtype = kinds.get(tensor.type, np.float32)
            values = flatbuffer.constant(file, tensor, dtype)
            yield values.reshape(tensor.shape).T


def test_the_kernel_is_the_gates_to_the_last_bit(exported):
    model, path, _ = exported
    kernel = keras.ops.convert_to_numpy(model.gates[0].dense.kernel)
    assert kernel.size > 1024, "the converter would quantize it"
    found = [w for w in weights_of(path) if w.shape == kernel.shape]
    assert len(found) >= 2  # in `explain_at` and in `stage_1`
    assert all(np.array_equal(kernel, other) for other in found)
    counts = flatbuffer.op_counts(path.read_bytes())
    assert counts["CONV_2D"] >= 2 and path.stat().st_size < 4 * 74_000 * 0.5


def test_labels_and_exits_are_keras(exported):
    model, path, report = exported
    assert report.parity.argmax_agreement == 1.0
    assert report.parity.exit_agreement == 1.0
    scores = keras.ops.convert_to_numpy(model(X)["gate_1"])
    litert = kd.LiteRTModel(path)
    for image, expected in zip(X, scores, strict=True):
        found = litert.run("classify", image=image)["logits"][0]
        np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(scores))


def test_a_kernel_that_is_not_there_is_said(exported):
    model, path, _ = exported
    file = flatbuffer.read(path.read_bytes())
    kernel = keras.ops.convert_to_numpy(model.gates[0].dense.kernel)
    float_gates(file, [[kernel]])  # is in float already
    with pytest.raises(RuntimeError, match="only 1 of the kernels of 2"):
        float_gates(file, [[kernel], [kernel + 1]])


def kernels_of(path, name):
    file = flatbuffer.read(path.read_bytes())
    for _, graph, operator in flatbuffer.walk(file):
        if flatbuffer.op_name(file, operator) == name:
            yield graph.tensors[operator.inputs[1]], file


def test_depthwise_kernels_are_those_of_the_float_file(tmp_path):
    keras.utils.set_random_seed(0)
    x = image = keras.Input((12, 12, 3))
    x = layers.Conv2D(128, 3, activation="relu")(layers.Rescaling(1 / 255)(x))
    x = layers.DepthwiseConv2D(3, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 1)(x)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    paths = {}
    for quantization in ("float32", "dynamic"):
        paths[quantization] = tmp_path / f"{quantization}.tflite"
        kd.export_tflite(model, paths[quantization], quantization=quantization)
    found = []
    for path in paths.values():
        ((tensor, file),) = kernels_of(path, "DEPTHWISE_CONV_2D")
        assert tensor.type == flatbuffer.schema.TensorType.FLOAT32
        assert np.prod(tensor.shape) >= 1024, "the converter would quantize it"
        found.append(flatbuffer.constant(file, tensor, np.float32))
    np.testing.assert_array_equal(*found)
    kinds = [tensor.type for tensor, _ in kernels_of(paths["dynamic"], "CONV_2D")]
    assert flatbuffer.schema.TensorType.INT8 in kinds
    files = [kd.LiteRTModel(path) for path in paths.values()]
    for sample in X:
        a, b = (file.run("classify", image=sample)["logits"] for file in files)
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


@pytest.mark.parametrize(
    ("kernel", "outputs", "inputs", "thin"),
    [  # as timed: MACs of a pixel against what its channels cost
        ((1, 1), 96, 16, True),
        ((1, 1), 24, 96, True),
        ((1, 1), 192, 32, False),
        ((1, 1), 40, 144, False),
        ((3, 3), 16, 16, False),
    ],
)
def test_thin_kernels_are_those_of_the_float_file(
    tmp_path, kernel, outputs, inputs, thin
):
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, inputs))
    x = layers.Conv2D(outputs, kernel, activation="relu")(image)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    found = []
    for quantization in ("float32", "dynamic"):
        path = tmp_path / f"{quantization}.tflite"
        kd.export_tflite(model, path, quantization=quantization, parity_data=False)
        ((tensor, file),) = kernels_of(path, "CONV_2D")
        assert np.prod(tensor.shape) >= 1024, "the converter would quantize it"
        found.append((tensor.type, flatbuffer.constant(file, tensor, np.uint8)))
    (float32, exact), (kind, stored) = found
    assert (kind == float32) is thin
    assert np.array_equal(exact, stored) is thin
