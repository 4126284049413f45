"""The pass is judged by the float file: same answers, same entry points, same skips."""

import os
import warnings

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: E402

from keras_dyngate.export import int8_borders as borders  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402

SIZE, CHANNELS, GROUPS, BLOCKS = 16, 16, 2, 2
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
IMAGE = tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32)
GATES = tf.TensorSpec([BLOCKS * GROUPS], tf.float32)

pytestmark = pytest.mark.heavy


def int8_borders(content):
    """The pass on the bytes of a file: the new ones, and what it counts."""
    model = flatbuffer.read(content)
    converted, classes = borders.int8_borders(model)
    return flatbuffer.write(model), converted, classes


def normal(seed, *shape):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype("float32")


def image_of(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (1, SIZE, SIZE, 3)).astype("float32")


def gates_of(seed):
    rng = np.random.default_rng(seed)
    return (rng.random(BLOCKS * GROUPS) > 0.5).astype("float32")


INPUTS = 20
IMAGES = [image_of(1000 + i) for i in range(INPUTS)]
MASKS = [gates_of(1000 + i) for i in range(INPUTS)]


def conv(x, seed, *shape):
    return tf.nn.conv2d(x, tf.constant(normal(seed, *shape)), 1, "SAME")


def stem(image):
    return tf.nn.relu(conv(image / 255.0, 1, 3, 3, 3, CHANNELS))


def block(x, gates, seed):
    """Conditional groups; the shift comes last, so that ADD and RELU fuse."""
    total = x
    for group in range(GROUPS):

        def run(total=total, group=group):
            width, name = CHANNELS // GROUPS, seed + 10 * group
            h = conv(x, name, 3, 3, CHANNELS, width) + normal(name + 5, width)
            h = tf.nn.relu(h)
            return total + conv(h, name + 1, 3, 3, width, CHANNELS)

        total = tf.cond(gates[group] > 0, run, lambda total=total: tf.identity(total))
    return tf.nn.relu(total + normal(seed + 2, CHANNELS))


def head(x, seed):
    return tf.reduce_mean(x, [1, 2]) @ tf.constant(normal(seed, CHANNELS, 10))


def gated(image, gates):
    x = stem(image)
    for b in range(BLOCKS):
        x = block(x, gates[b * GROUPS : (b + 1) * GROUPS], 100 * (b + 1))
    return {"logits": head(x, 3)}


def leaving(image):
    """An early exit at a threshold that splits random images in two."""
    x = stem(image)
    first = head(x, 4)
    with tf.init_scope():  # values, not part of the graph
        threshold = np.median([head(stem(i), 4)[0, 0] for i in IMAGES])

    def go_on():
        return head(tf.nn.relu(conv(x, 5, 3, 3, CHANNELS, CHANNELS)), 6), tf.constant(
            [1]
        )

    logits, exit_ = tf.cond(
        first[0, 0] > float(threshold), lambda: (first, tf.constant([0])), go_on
    )
    return {"logits": logits, "exit": exit_}


def convert(folder, functions, data=None, input_type=None):
    """A file with one signature per function; full int8 if there is data."""
    signatures = {
        name: tf.function(function, autograph=False).get_concrete_function(**specs)
        for name, (function, specs) in functions.items()
    }
    tf.saved_model.save(tf.Module(), os.fspath(folder), signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        os.fspath(folder), signature_keys=list(signatures)
    )
    if data is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: iter(data)
    if input_type is not None:
        converter.inference_input_type = input_type
    with warnings.catch_warnings():  # the calibrator's own interpreter
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter")
        return converter.convert()


def run(content, signature, resolver=OpResolverType.AUTO, **inputs):
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=resolver
    )
    runner = interpreter.get_signature_runner(signature)
    return [runner(**{k: v[i] for k, v in inputs.items()}) for i in range(INPUTS)]


def errors(got, expected, name="logits"):
    """Largest deviation of each sample, relative to the largest output of all."""
    scale = max(np.abs(e[name]).max() for e in expected)
    return np.array(
        [
            np.abs(g[name] - e[name]).max() / scale
            for g, e in zip(got, expected, strict=True)
        ]
    )


def assert_as_close(before, after, expected):
    """The pass adds no error of its own to that of quantization."""
    before, after = errors(before, expected), errors(after, expected)
    assert before.max() < 0.12  # else the file says nothing about the pass
    assert np.median(after) < 1.3 * np.median(before)
    assert after.max() < 1.3 * before.max()


def calibration(count=12):
    """Data for `gated` that opens every branch, and shuts some."""
    for i in range(count):
        gates = gates_of(i) if i % 4 else np.ones(BLOCKS * GROUPS, "float32")
        yield "classify", {"image": image_of(i), "gates": gates}


def conversions(content):
    counts = flatbuffer.op_counts(content)
    return sum(counts[name] for name in CONVERSIONS)


def float_if_tensors(content):
    """How many operands and results of IFs are float32."""
    model = flatbuffer.read(content)
    return sum(
        subgraph.tensors[t].type == schema.TensorType.FLOAT32
        for _, subgraph, operator in flatbuffer.walk(model)
        if flatbuffer.op_name(model, operator) == "IF"
        for t in operator.inputs + operator.outputs
    )


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    functions = {"classify": (gated, {"image": IMAGE, "gates": GATES})}
    return convert(tmp_path_factory.mktemp("float"), functions)


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory):
    functions = {"classify": (gated, {"image": IMAGE, "gates": GATES})}
    return convert(tmp_path_factory.mktemp("int8"), functions, list(calibration()))


def test_borders_become_int8_and_conversions_go(int8_file):
    assert float_if_tensors(int8_file) > 0
    assert conversions(int8_file) >= 12
    content, converted, classes = int8_borders(int8_file)
    assert converted == classes == BLOCKS
    assert float_if_tensors(content) == 0
    counts = flatbuffer.op_counts(content)
    # What remains is the float interface: image and gates in, logits out.
    assert (counts["QUANTIZE"], counts["DEQUANTIZE"]) == (2, 1)
    before = flatbuffer.op_counts(int8_file)
    for name in CONVERSIONS:
        del counts[name], before[name]
    assert counts == before


def biases(content):
    """Weight bytes of each conv -> (bias, the step of its int32, inputs x weights)."""
    model = flatbuffer.read(content)
    found = {}
    for _, subgraph, operator in flatbuffer.walk(model):
        if flatbuffer.op_name(model, operator) == "CONV_2D":
            source, weights, bias = (subgraph.tensors[t] for t in operator.inputs)
            values = flatbuffer.constant(model, bias, np.int32)
            step = bias.quantization.scale
            product = source.quantization.scale * weights.quantization.scale
            key = bytes(flatbuffer.constant(model, weights, np.int8))
            found[key] = (values * step, step, product)
    return found


def test_biases_follow_the_scale_of_their_input(int8_file):
    before, after = biases(int8_file), biases(int8_borders(int8_file)[0])
    assert set(after) == set(before)
    changed = 0
    for key, (bias, step, product) in after.items():
        np.testing.assert_allclose(step, product, rtol=1e-5)  # what kernels assume
        assert np.all(np.abs(bias - before[key][0]) <= step)
        changed += np.any(np.abs(step / before[key][1] - 1) > 0.01)
    assert changed  # else the file does not put it to the test


@pytest.mark.parametrize(
    "resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF], ids=str
)
def test_answers_stay_as_close_to_float(float_file, int8_file, resolver):
    inputs = {"image": IMAGES, "gates": MASKS}
    expected = run(float_file, "classify", **inputs)
    before = run(int8_file, "classify", resolver, **inputs)
    after = run(int8_borders(int8_file)[0], "classify", resolver, **inputs)
    assert_as_close(before, after, expected)


def test_a_closed_branch_is_not_executed(int8_file):
    """Damage the weights of one branch: only inputs that open it may notice."""
    content = int8_borders(int8_file)[0]
    model = flatbuffer.read(content)
    ifs = [
        operator
        for _, _, operator in flatbuffer.walk(model)
        if flatbuffer.op_name(model, operator) == "IF"
    ]
    assert len(ifs) == BLOCKS * GROUPS
    for gate, operator in enumerate(ifs):
        damaged = flatbuffer.read(content)
        branch = damaged.subgraphs[flatbuffer.branches(operator)[0]]
        for op in branch.operators:
            if flatbuffer.op_name(damaged, op) == "CONV_2D":
                buffer = damaged.buffers[branch.tensors[op.inputs[1]].buffer]
                buffer.data = np.full_like(buffer.data, 127)
        results = {}
        for is_open in (0.0, 1.0):
            masks = [np.where(np.arange(len(m)) == gate, is_open, m) for m in MASKS]
            inputs = {"image": IMAGES, "gates": np.array(masks, "float32")}
            good = run(content, "classify", **inputs)
            bad = run(flatbuffer.write(damaged), "classify", **inputs)
            results[is_open] = errors(bad, good).max()
        assert results[0.0] == 0
        assert results[1.0] > 0.1


def test_a_second_pass_finds_nothing(int8_file):
    once = int8_borders(int8_file)[0]
    twice, converted, classes = int8_borders(once)
    assert (converted, classes) == (0, 0)
    assert flatbuffer.op_counts(twice) == flatbuffer.op_counts(once)


def test_weights_are_not_copied(int8_file):
    # Tensor descriptions grow, weights do not; these are some hundred bytes.
    assert len(int8_borders(int8_file)[0]) < len(int8_file) + 4096


def test_a_float_file_keeps_its_operators_and_answers(float_file):
    content, converted, classes = int8_borders(float_file)
    assert converted == 0 and classes == BLOCKS
    assert flatbuffer.op_counts(content) == flatbuffer.op_counts(float_file)
    inputs = {"image": IMAGES, "gates": MASKS}
    got = run(content, "classify", **inputs)
    assert errors(got, run(float_file, "classify", **inputs)).max() == 0


def test_several_signatures_and_an_early_exit(tmp_path):
    def features(image):
        return {"features": stem(image)}

    functions = {
        "classify": (leaving, {"image": IMAGE}),
        "gated": (gated, {"image": IMAGE, "gates": GATES}),
        "stage_1": (features, {"image": IMAGE}),
    }
    expected = convert(tmp_path / "float", functions)
    data = [
        *(("classify", {"image": image_of(i)}) for i in range(10)),
        *(("gated", inputs) for _, inputs in calibration()),
        *(("stage_1", {"image": image_of(i)}) for i in range(4)),
    ]
    before = convert(tmp_path / "int8", functions, data)
    content, converted, _ = int8_borders(before)
    assert converted >= BLOCKS
    assert conversions(content) < conversions(before) - 10

    def interface(file):
        interpreter = Interpreter(model_content=file)
        return {
            (name, port, tuple(detail["shape"]), np.dtype(detail["dtype"]))
            for name in interpreter.get_signature_list()
            for details in (
                interpreter.get_signature_runner(name).get_input_details(),
                interpreter.get_signature_runner(name).get_output_details(),
            )
            for port, detail in details.items()
        }

    assert interface(content) == interface(expected)
    truth = run(expected, "classify", image=IMAGES)
    exits = np.array([t["exit"][0] for t in truth])
    assert 0 < exits.sum() < INPUTS  # both exits occur
    got = run(content, "classify", image=IMAGES)
    same = np.array([g["exit"][0] for g in got]) == exits
    assert same.mean() >= 0.9  # int8 scores near the threshold may tip over
    assert np.median(errors(got, truth)[same]) < 0.05
    gated_inputs = {"image": IMAGES, "gates": MASKS}
    files = (before, content, expected)
    assert_as_close(*(run(file, "gated", **gated_inputs) for file in files))
    # No IF there, nothing to change: the same bits.
    stage = [run(file, "stage_1", image=IMAGES) for file in (before, content)]
    assert errors(*stage, "features").max() == 0


def test_uint8_image(tmp_path, float_file):
    functions = {"classify": (gated, {"image": IMAGE, "gates": GATES})}
    image = np.zeros((1, SIZE, SIZE, 3), "float32")
    image[:, :, ::2] = 255.0  # the scale of the input must span 0 to 255
    gates = np.ones(BLOCKS * GROUPS, "float32")
    data = [("classify", {"image": image, "gates": gates}), *calibration()]
    before = convert(tmp_path / "uint8", functions, data, tf.uint8)
    content, converted, classes = int8_borders(before)
    assert converted == classes == BLOCKS
    got = run(
        content,
        "classify",
        image=[image.astype("uint8") for image in IMAGES],
        gates=[(mask * 255).astype("uint8") for mask in MASKS],
    )
    truth = run(float_file, "classify", image=IMAGES, gates=MASKS)
    assert errors(got, truth).max() < 0.06


def test_signature_tensors_at_a_border_stay_float(tmp_path):
    """The image is an IF operand, the IF's result an output and read by a float op."""

    def bare(x, gates):
        width = x.shape[-1]
        y = tf.cond(
            gates[0] > 0,
            lambda: x + conv(tf.nn.relu(conv(x, 7, 3, 3, width, width)), 8, 1, 1, 8, 8),
            lambda: tf.identity(x),
        )
        y = tf.cond(
            gates[1] > 0,
            lambda: (
                y + conv(tf.nn.relu(conv(y, 9, 3, 3, width, width)), 10, 1, 1, 8, 8)
            ),
            lambda: tf.identity(y),
        )
        return {"logits": y, "waves": tf.sin(y)}  # SIN has no int8 form

    specs = {
        "x": tf.TensorSpec([1, 6, 6, 8], tf.float32),
        "gates": tf.TensorSpec([4], tf.float32),
    }
    xs = [np.random.default_rng(i).normal(size=(1, 6, 6, 8)) for i in range(INPUTS)]
    inputs = {"x": [x.astype("float32") for x in xs], "gates": MASKS}
    opened = np.ones(4, "float32")
    data = [("bare", {"x": x, "gates": opened}) for x in inputs["x"]]
    functions = {"bare": (bare, specs)}
    truth = run(convert(tmp_path / "float", functions), "bare", **inputs)
    before = convert(tmp_path / "int8", functions, data)
    content, converted, classes = int8_borders(before)
    assert converted == classes == 1
    assert float_if_tensors(content) == 0
    got = run(content, "bare", **inputs)
    assert got[0]["logits"].dtype == np.float32
    assert errors(got, truth).max() < 0.04
    assert errors(got, truth, "waves").max() < 0.2  # sin of an error of .04 * 5


@pytest.mark.parametrize(("value", "expected"), [(0.0, 1), (-100.0, 0)])
def test_a_constant_beyond_the_scale_keeps_its_class_float(tmp_path, value, expected):
    """-100 was never calibrated: int8 would turn it into the smallest value seen."""

    def function(image, gates):
        x = stem(image)
        instead = tf.fill(x.shape, value)
        y = tf.cond(
            gates[0] > 0,
            lambda: conv(x, 7, 3, 3, CHANNELS, CHANNELS),
            lambda: instead,
        )
        return {"logits": head(tf.nn.relu(conv(y, 8, 3, 3, CHANNELS, CHANNELS)), 3)}

    functions = {"classify": (function, {"image": IMAGE, "gates": GATES})}
    opened = np.ones(BLOCKS * GROUPS, "float32")
    data = [("classify", {"image": image_of(i), "gates": opened}) for i in range(5)]
    content, converted, _ = int8_borders(convert(tmp_path / "m", functions, data))
    model = flatbuffer.read(content)
    results = [
        subgraph.tensors[operator.outputs[0]].type
        for _, subgraph, operator in flatbuffer.walk(model)
        if flatbuffer.op_name(model, operator) == "IF"
    ]
    is_int8 = [t == schema.TensorType.INT8 for t in results]
    assert is_int8 == [bool(expected)]


def test_ops_that_need_equal_scales_keep_them(tmp_path):
    """Pools before and after classes whose joint scale is not the pool's own."""

    def pool(x):
        return tf.nn.avg_pool2d(x, 2, 1, "SAME")

    def function(image, gates):
        x = pool(stem(image))
        wide = tf.cond(
            gates[0] > 0,
            lambda: x + conv(5.0 * x, 7, 3, 3, CHANNELS, CHANNELS),
            lambda: tf.identity(x),
        )
        x = pool(wide)
        narrow = tf.cond(
            gates[1] > 0,
            lambda: conv(0.1 * x, 8, 3, 3, CHANNELS, CHANNELS),
            lambda: tf.identity(x),
        )
        return {"logits": head(conv(pool(narrow), 9, 1, 1, CHANNELS, CHANNELS), 3)}

    functions = {"classify": (function, {"image": IMAGE, "gates": GATES})}
    opened = np.ones(BLOCKS * GROUPS, "float32")
    data = [("classify", {"image": image_of(i), "gates": opened}) for i in range(8)]
    before = convert(tmp_path / "int8", functions, data)
    content, converted, classes = int8_borders(before)
    assert converted == classes == 2
    model = flatbuffer.read(content)
    pools = [
        [
            flatbuffer.scale_and_zero_point(subgraph.tensors[t])
            for t in operator.inputs + operator.outputs
        ]
        for _, subgraph, operator in flatbuffer.walk(model)
        if flatbuffer.op_name(model, operator) == "AVERAGE_POOL_2D"
    ]
    assert len(pools) == 3
    assert all(source == target for source, target in pools)
    inputs = {"image": IMAGES, "gates": [opened] * INPUTS}
    truth = run(convert(tmp_path / "float", functions), "classify", **inputs)
    assert errors(run(content, "classify", **inputs), truth).max() < 0.1


def test_ops_between_branches_and_shared_constants(tmp_path):
    """A float CONCATENATION joins a class; a captured constant does not join IFs."""
    shape = (1, SIZE, SIZE, CHANNELS)
    filler = np.abs(normal(11, *shape)) / 10

    def function(image, gates):
        x, instead = stem(image), tf.constant(filler)

        def gated_conv(x, gate, seed):
            return tf.cond(
                gates[gate] > 0,
                lambda: tf.nn.relu(conv(x, seed, 3, 3, CHANNELS, CHANNELS)),
                lambda: tf.identity(instead),
            )

        x = gated_conv(x, 0, 7)
        x = tf.concat([x, x], 1)[:, :SIZE]  # the converter leaves the first in float
        x = gated_conv(x, 1, 8)
        x = tf.nn.relu(conv(x, 9, 3, 3, CHANNELS, CHANNELS))
        return {"logits": head(gated_conv(x, 2, 10), 3)}

    functions = {"classify": (function, {"image": IMAGE, "gates": GATES})}
    opened = np.ones(BLOCKS * GROUPS, "float32")
    data = [("classify", {"image": image_of(i), "gates": opened}) for i in range(4)]
    data += [("classify", {"image": image_of(i), "gates": gates_of(i)}) for i in (4, 9)]
    before = convert(tmp_path / "int8", functions, data)
    content, converted, classes = int8_borders(before)
    assert converted == classes == 6  # three operands, three results
    assert float_if_tensors(content) == 0
    # The float constant is gone from the file, not only out of use.
    assert before.count(filler.tobytes()) == 1
    assert filler.tobytes() not in content
    forms = []
    for model in map(flatbuffer.read, (before, content)):
        forms += [
            (
                subgraph.tensors[operator.outputs[0]].type,
                model.operatorCodes[operator.opcodeIndex].version,
            )
            for _, subgraph, operator in flatbuffer.walk(model)
            if flatbuffer.op_name(model, operator) == "CONCATENATION"
        ]
    # Version 2 is the first that may be int8.
    assert forms == [(schema.TensorType.FLOAT32, 1), (schema.TensorType.INT8, 2)]
    inputs = {"image": IMAGES, "gates": MASKS}
    truth = run(convert(tmp_path / "float", functions), "classify", **inputs)
    files = (before, content)
    assert_as_close(*(run(file, "classify", **inputs) for file in files), truth)
