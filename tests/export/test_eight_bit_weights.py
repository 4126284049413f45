"""Float kernels become int8 as the converter would store them."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.export.eight_bit_weights import eight_bit_weights  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import tinted, tiny_first  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

X = tinted(8)[:, :8, :8]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same net in float32 and as the converter stores it with 8-bit weights."""
    folder = tmp_path_factory.mktemp("files")
    for name in (None, "dynamic"):
        path = folder / f"{name}.tflite"
        kd.export_tflite(tiny_first(), path, quantization=name, parity_data=False)
    return folder


def kernels(file):
    found = []
    for _, graph, operator in flatbuffer.walk(file):
        name = flatbuffer.op_name(file, operator)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[operator.inputs[1]]
            data = bytes(file.buffers[tensor.buffer].data)
            scale = None if tensor.quantization is None else tensor.quantization.scale
            version = file.operatorCodes[operator.opcodeIndex].version
            found.append((name, tensor.type, tuple(tensor.shape), data, scale, version))
    return found


def test_as_the_converter_does(files, tmp_path):
    ours = flatbuffer.read((files / "None.tflite").read_bytes())
    eight_bit_weights(ours, [])
    theirs = kernels(flatbuffer.read((files / "dynamic.tflite").read_bytes()))
    for mine, other in zip(kernels(ours), theirs, strict=True):
        assert mine[:3] == other[:3]
        if mine[1] != flatbuffer.schema.TensorType.INT8:
            continue
        np.testing.assert_allclose(mine[4], other[4], rtol=1e-6)
        rounded = [np.frombuffer(x[3], np.int8).astype(int) for x in (mine, other)]
        assert np.abs(rounded[0] - rounded[1]).max() <= 1
        assert (rounded[0] == rounded[1]).mean() > 0.99
        assert mine[5] == other[5]
    (tmp_path / "a.tflite").write_bytes(flatbuffer.write(ours))
    first, second = (
        kd.LiteRTModel(path)
        for path in (tmp_path / "a.tflite", files / "dynamic.tflite")
    )
    for x in X:
        a, b = (file.run("classify", image=x)["logits"] for file in (first, second))
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(b).max())


def test_what_is_to_be_kept_is_kept(files):
    file = flatbuffer.read((files / "None.tflite").read_bytes())
    before = kernels(file)
    (dense,) = (x for x in before if x[0] == "FULLY_CONNECTED" and x[2] == (32, 48))
    kernel = np.frombuffer(dense[3], np.float32).reshape(dense[2]).T
    eight_bit_weights(file, [kernel])
    after = [x[1] for x in kernels(file) if x[0] == "FULLY_CONNECTED"]
    assert set(after) == {flatbuffer.schema.TensorType.FLOAT32}
    eight_bit_weights(file, [kernel])  # a second time changes nothing
    assert [x[1] for x in kernels(file) if x[0] == "FULLY_CONNECTED"] == after
