"""What the inspector says of a file, beside what the exporter put into it."""

import os
from collections import Counter

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from keras_dyngate.flatfile.inspection import inspect_file  # noqa: E402
from keras_dyngate.flatfile.lint import lint  # noqa: E402
from tests.export.nets import images, small_net, spread_gates  # noqa: E402
from tests.flatfile.mutations import FOREIGN, mutations  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]
WEIGHTS = np.arange(2 * 2 * 3 * 8, dtype="float32").reshape(2, 2, 3, 8) / 100
IMAGE = tf.TensorSpec([1, 5, 5, 3], tf.float32, name="image")


def convert(path, function, *specs, data=None, int8=False):
    """A file with one signature, as TensorFlow's own converter makes it."""
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    folder = path.with_suffix("")
    tf.saved_model.save(tf.Module(), os.fspath(folder), signatures={"run": traced})
    converter = tf.lite.TFLiteConverter.from_saved_model(os.fspath(folder))
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (("run", item) for item in data)
    path.write_bytes(converter.convert())
    return inspect_file(path)


def codes(report):
    return {finding.code for finding in lint(report)}


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    model, x = small_net(), images(8)
    spread_gates(model, x)
    made = {}
    for quantization in (None, "dynamic", "int8"):
        path = tmp_path_factory.mktemp("inspected") / f"{quantization}.tflite"
        export = kd.export_tflite(
            model, path, quantization=quantization, representative_data=x
        )
        made[quantization] = export, inspect_file(path)
    return model, made


@pytest.mark.parametrize("quantization", [None, "dynamic", "int8"])
def test_a_gated_net(gated, quantization):
    model, made = gated
    export, report = made[quantization]
    macs = kd.count_macs(model)
    assert report.bytes == export.bytes
    assert list(report.signatures) == list(export.signatures)
    for name, signature in report.signatures.items():
        assert {port.name for port in signature.outputs} == set(export.signatures[name])
        (image,) = signature.inputs
        assert (image.dtype, image.shape) == ("float32", (1, *model.input_shape[1:]))
        assert signature.always_macs == macs.ungated + macs.controllers
        assert signature.conditional_macs == macs.gateable
        taken = [b.taken for b in report.branches if b.name in signature.branches]
        assert sum(work.macs for work in taken) == macs.gateable
        assert len(taken) == len(export.branches)
    assert all(branch.otherwise.macs == 0 for branch in report.branches)
    kernels = sum(w.shape.num_elements() for w in model.weights if len(w.shape) > 1)
    size = 4 if quantization is None else 1
    assert kernels * size <= report.weight_bytes < 1.4 * kernels * size + 6000
    assert report.repeated_bytes == 0
    assert report.operators == dict(flatbuffer.op_counts(export_bytes(export)))
    assert report.versions["CONV_2D"] >= 1
    assert report.min_runtime.count(".") == 2
    assert lint(report) == ()


def export_bytes(export):
    with open(export.path, "rb") as file:
        return file.read()


def test_macs_of_each_kind(tmp_path):
    def run(image):
        y = tf.nn.conv2d(image, WEIGHTS, 1, "VALID")  # 4x4x8
        y = tf.nn.depthwise_conv2d(y, np.ones((3, 3, 8, 1), "f"), [1, 1, 1, 1], "SAME")
        y = tf.nn.conv2d_transpose(y, np.ones((2, 2, 3, 8), "f"), [1, 8, 8, 3], 2)
        y = tf.reshape(y, [1, 192]) @ np.ones((192, 7), "f")
        return {"y": y, "product": tf.matmul(tf.reshape(y, [1, 7, 1]), y[None])}

    report = convert(tmp_path / "a.tflite", run, IMAGE)
    (signature,) = report.signatures.values()
    products = 16 * 8 * 12 + 16 * 8 * 9 + 16 * 8 * 3 * 4 + 192 * 7 + 7 * 7
    assert signature.always_macs == products
    assert signature.conditional_macs == 0 and report.branches == ()


def test_macs_of_three_axes(tmp_path):
    spec = tf.TensorSpec([1, 4, 4, 4, 3], tf.float32, name="scan")

    def run(scan):
        y = tf.nn.conv3d(
            scan, np.ones((3, 1, 2, 3, 5), "f"), [1] * 5, "VALID"
        )  # 2x4x3x5
        return {
            "y": tf.nn.conv3d_transpose(
                y, np.ones((2, 2, 2, 7, 5), "f"), [1, 4, 8, 6, 7], 2, "SAME"
            )
        }

    report = convert(tmp_path / "a.tflite", run, spec)
    assert {"CONV_3D", "CONV_3D_TRANSPOSE"} <= set(report.operators)
    (signature,) = report.signatures.values()
    assert signature.always_macs == 24 * 5 * 18 + 24 * 5 * 8 * 7


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_lint_of_a_transposed_convolution_looks_at_its_third_operand(tmp_path):
    """Its first is the shape of the output, int32 in any file."""

    def run(image):
        y = tf.nn.relu(tf.nn.conv2d(image, WEIGHTS, 1, "SAME"))
        kernel = np.ones((2, 2, 3, 8), "f")
        return {"y": tf.nn.conv2d_transpose(y, kernel, [1, 10, 10, 3], 2)}

    data = [*pictures([1] * 4)]
    report = convert(tmp_path / "a.tflite", run, IMAGE, data=data, int8=True)
    assert "TRANSPOSE_CONV" in report.operators and codes(report) == set()
    (index,) = (
        index
        for index, (_, _, operator) in enumerate(flatbuffer.walk(report.model))
        if flatbuffer.op_name(report.model, operator) == "TRANSPOSE_CONV"
    )
    _, graph, operator = list(flatbuffer.walk(report.model))[index]
    graph.tensors[operator.inputs[2]].type = flatbuffer.schema.TensorType.FLOAT32
    assert "float-convolution" in codes(report)


def test_lint_borders(tmp_path):
    spec = tf.TensorSpec([None, 3], tf.float32, name="x")
    report = convert(
        tmp_path / "a.tflite",
        lambda x: {"up": x > 0, "long": tf.cast(x, tf.int64)},
        spec,
    )
    found = [(f.code, f.where) for f in lint(report)]
    assert ("border-type", "run, up") in found
    assert ("border-type", "run, long") in found
    assert ("dynamic-shape", "run, x") in found


def test_lint_custom_operators(tmp_path):
    report = convert(
        tmp_path / "a.tflite", lambda image: {"y": tf.math.cosh(image)}, IMAGE
    )
    (finding,) = lint(report)
    assert finding.code == "custom-op" and "FlexCosh" in str(finding)


def test_lint_kernels_that_are_operands(tmp_path):
    kernel = tf.TensorSpec(WEIGHTS.shape, tf.float32, name="kernel")

    def run(image, kernel):
        return {"y": tf.nn.conv2d(image, kernel, 1, "VALID")}

    report = convert(tmp_path / "a.tflite", run, IMAGE, kernel)
    assert codes(report) == {"variable-kernel"}


def branching(image):
    """Two branches, each a convolution between convolutions."""
    y = tf.nn.relu(tf.nn.conv2d(image, WEIGHTS, 1, "SAME"))
    deep = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype("float32")
    y = tf.cond(
        tf.reshape(image[0, 0, 0, 0] > 0, []),
        lambda: tf.nn.relu(tf.nn.conv2d(y, tf.constant(deep), 1, "SAME")),
        lambda: tf.nn.relu(tf.nn.conv2d(y, tf.constant(-deep), 1, "SAME")),
    )
    return {"y": tf.nn.conv2d(y, tf.constant(deep + 1), 1, "SAME")}


def pictures(signs):
    rng = np.random.default_rng(1)
    for sign in signs:
        image = rng.uniform(0.1, 1.0, (1, 5, 5, 3)).astype("float32")
        image[0, 0, 0, 0] *= sign
        yield {"image": image}


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_lint_int8(tmp_path):
    """The converter's own file: floats at every branch, and a branch left in float32."""
    report = convert(
        tmp_path / "a.tflite",
        branching,
        IMAGE,
        data=[*pictures([1, -1] * 3)],
        int8=True,
    )
    assert codes(report) == {"border-quantize"}
    report = convert(
        tmp_path / "b.tflite", branching, IMAGE, data=[*pictures([1] * 6)], int8=True
    )
    assert "float-convolution" in codes(report)


def test_lint_weights_stored_twice(tmp_path, gated):
    export, _ = gated[1][None]
    model = flatbuffer.read(export_bytes(export))
    readers = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    count = Counter(tensor.buffer for tensor in readers)
    held = {i: b.data for i, b in enumerate(model.buffers) if b.data is not None}
    index = max((i for i in held if count[i] > 1), key=lambda i: len(held[i]))
    again = flatbuffer.schema.BufferT()
    again.data = held[index].copy()
    model.buffers.append(again)
    tensor = next(tensor for tensor in readers if tensor.buffer == index)
    tensor.buffer = len(model.buffers) - 1
    path = tmp_path / "twice.tflite"
    path.write_bytes(flatbuffer.write(model))
    report = inspect_file(path)
    assert report.repeated_bytes == len(again.data)
    assert codes(report) == {"repeated-weights"}


def test_a_graph_that_calls_itself_is_refused(tmp_path, gated):
    export, _ = gated[1][None]
    model = flatbuffer.read(export_bytes(export))
    _, _, operator = next(
        item for item in flatbuffer.walk(model) if flatbuffer.branches(item[2])
    )
    operator.builtinOptions.thenSubgraphIndex = 0
    path = tmp_path / "loop.tflite"
    path.write_bytes(flatbuffer.write(model))
    with pytest.raises(ValueError, match="subgraph 0 calls itself"):
        inspect_file(path)


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_files(tmp_path, content):
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be the bytes of|must be a whole"):
        inspect_file(path)
    with pytest.raises(FileNotFoundError, match="`path` must be a .tflite file"):
        inspect_file(tmp_path / "none.tflite")


def test_hostile_files(tmp_path):
    """2,000 changed files: a report or one error, never anything else."""
    whole = convert(tmp_path / "a.tflite", branching, IMAGE)
    path, refused = tmp_path / "changed.tflite", 0
    for changed in mutations(export_bytes(whole), 2000):
        path.write_bytes(changed)
        try:
            lint(inspect_file(path))
        except ValueError as error:
            refused += 1
            assert "Received: " in str(error)
    assert 200 < refused < 2000
