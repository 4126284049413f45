"""A first net, heads and exits that combine, in a file: as in Keras, and no more."""

import functools
from collections import Counter

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.export.eight_bit_weights import LEAST  # noqa: E402
from keras_dyngate.export.views import signature  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from keras_dyngate.flatfile.inspection import inspect_file  # noqa: E402
from keras_dyngate.flatfile.lint import lint  # noqa: E402
from keras_dyngate.runtime.chain import chain, image_input  # noqa: E402
from tests.export.nets import (  # noqa: E402
    COMBINED,
    assert_answers,
    cascade,
    column,
    conv_net,
    only_builtins,
    tinted,
    tiny_first,
    with_exits,
)

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

X = tinted(40)
NEVER = [np.inf] * 3
KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
TYPES = flatbuffer.schema.TensorType


def export(model, path, quantization=None, **options):
    """The report of a file, and the file."""
    report = kd.export_tflite(
        model,
        path,
        quantization=quantization,
        representative_data=X if quantization in ("int8", "dynamic") else None,
        parity_data=False,
        calibration_samples=8,
        **options,
    )
    return report, kd.LiteRTModel(path)


@pytest.fixture(scope="module")
def model():
    return cascade(X)


@pytest.fixture(scope="module")
def predicted(model):
    return model.predict(X, verbose=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model):
    """Report and file by quantization and input."""

    @functools.cache
    def make(quantization=None, input_type="float32"):
        path = tmp_path_factory.mktemp("cascade") / "net.tflite"
        return export(model, path, quantization, input_type=input_type)

    return make


def operators(litert, names=None):
    """Operators that some signatures may run, with their subgraphs, and the file."""
    file = flatbuffer.read(litert.path.read_bytes())
    for name in names or litert.signatures:
        root = signature(file, name).subgraphIndex
        for index in flatbuffer.reachable(file, root):
            graph = file.subgraphs[index]
            for operator in graph.operators:
                yield file, graph, operator


def counts(litert, *names):
    return Counter(flatbuffer.op_name(f, o) for f, _, o in operators(litert, names))


@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_float_files_answer_as_keras(exported, predicted, model, input_type):
    assert np.bincount(predicted["exit"]).tolist() == [10] * 4
    _, litert = exported(None, input_type)
    assert only_builtins(litert.path.read_bytes())
    for index, image in enumerate(X):
        found = litert.run("classify", image=image)
        assert_answers(found, predicted, index)
        told = litert.run("explain_at", image=image, thresholds=model.thresholds)
        for name, value in found.items():
            np.testing.assert_array_equal(told[name], value)


@pytest.mark.parametrize(
    "quantization, input_type, labels, score",
    [
        ("float16", "float32", 1.0, 0.01),
        ("dynamic", "float32", 0.95, 0.03),
        ("int8", "float32", 0.85, 0.1),
        ("int8", "uint8", 0.85, 0.1),
    ],
)
def test_other_files_stay_close(
    exported, predicted, quantization, input_type, labels, score
):
    _, litert = exported(quantization, input_type)
    assert only_builtins(litert.path.read_bytes())
    assert not any(
        f.code == "float-convolution" for f in lint(inspect_file(litert.path))
    )
    found = [litert.run("classify", image=image) for image in X]
    same = column(found, "exit") == predicted["exit"]
    assert same.mean() >= labels
    assert (column(found, "label") == predicted["label"])[same].mean() >= 0.95
    difference = np.abs(column(found, "score") - predicted["score"])[same]
    assert difference.mean() < score * predicted["score"].std()


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_stages_hand_on_what_later_ones_want(exported, model, quantization):
    _, litert = exported(quantization)
    inputs = [set(litert.signatures[f"stage_{k}"].inputs) for k in (1, 2, 3, 4)]
    later = {"features", "earlier"}
    assert inputs == [{"image"}, {"image", "earlier"}, later, later]
    outputs = [set(litert.signatures[f"stage_{k}"].outputs) for k in (1, 2, 3, 4)]
    answer = {"logits", "label", "score", "executed_macs"}
    handed = [{"earlier"}, later, later, set()]
    assert outputs == [answer | more for more in handed]
    name, spec = image_input(litert, "stage_4")
    assert (name, spec.shape) == ("image", (1, 12, 12, 3))
    raw = [np.asarray(x) for x in model(X[:6], training=False).values()][:3]
    close = {"atol": 1e-4} if quantization is None else {"atol": 0.4}
    for index, image in enumerate(X[:6]):
        ran, macs = [], 0
        for name, _, out in chain(litert, {"image": image}, "stage_4"):
            ran.append(name)
            macs += out["executed_macs"][0]
            if "earlier" in out:
                rows = np.stack([x[index] for x in raw[: len(ran)]])
                np.testing.assert_allclose(out["earlier"][0], rows, **close)
                mixed = np.float32(COMBINED)[len(ran) - 1, : len(ran)] @ rows
                np.testing.assert_allclose(out["logits"][0], mixed, **close)
        assert ran == [f"stage_{k}" for k in (1, 2, 3, 4)]
        whole = litert.run("classify_at", image=image, thresholds=NEVER)
        # An int8 file's stages are calibrated apart.
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if quantization is None else close
        np.testing.assert_allclose(out["logits"], whole["logits"], **tolerance)
        assert abs(macs - whole["executed_macs"][0]) <= 3


def two_exits(mixing=((0.7, 0, 0), (0.4, 0.6, 0), (0.3, 0.1, 0.6)), **options):
    """A first net and a head."""
    options = {"head": "conv", "first": tiny_first(), "mixing": mixing, **options}
    return with_exits(conv_net(), ("b",), X, "probability", **options)


@pytest.mark.parametrize("poisoned", [0, 1])
def test_what_comes_after_the_exit_is_not_executed(tmp_path, poisoned):
    """All weights from one exit on are NaN: nobody sees it who left before."""
    model = two_exits()
    predicted = model.predict(X[:12], verbose=0)
    for index, stage in enumerate(model.stages):
        weights = stage.gate.weights if stage.gate is not None else []
        for weight in [*stage.part.weights, *weights] if index > poisoned else ():
            weight.assign(np.full(weight.shape, np.nan))
    _, litert = export(model, tmp_path / "nan.tflite")
    assert len(set(predicted["exit"])) == 3
    for index, exit_ in enumerate(predicted["exit"]):
        found = litert.run("explain", image=X[index])
        if exit_ <= poisoned:
            assert_answers(found, predicted, index)
        else:
            assert np.isnan(found["logits"]).any()


def kernels(litert, *names):
    """(operator, type of its input, type and size of its kernel) of signatures."""
    found = []
    for file, graph, operator in operators(litert, names):
        name = flatbuffer.op_name(file, operator)
        if name in KERNELS:
            x, kernel = (graph.tensors[i] for i in operator.inputs[:2])
            found.append((name, x.type, kernel.type, int(np.prod(kernel.shape))))
    return found


def test_a_first_net_of_an_int8_file_has_8_bit_weights_alone(exported):
    first = kernels(exported("int8")[1], "stage_1")
    assert {x for _, x, _, _ in first} == {TYPES.FLOAT32}
    found = [(name, kind) for name, _, kind, _ in first]
    assert found == [
        ("CONV_2D", TYPES.INT8),
        ("DEPTHWISE_CONV_2D", TYPES.FLOAT32),
        ("CONV_2D", TYPES.INT8),
        ("FULLY_CONNECTED", TYPES.INT8),
        ("FULLY_CONNECTED", TYPES.FLOAT32),
    ]
    assert all(size >= LEAST for *_, kind, size in first if kind == TYPES.INT8)


def test_a_first_net_in_int8_is_as_a_head(exported, model, predicted, tmp_path):
    options = kd.GateOptions(first_net="int8")
    _, litert = export(model, tmp_path / "int8.tflite", "int8", options=options)
    first = kernels(litert, "stage_1")
    assert [(x, kind) for _, x, kind, _ in first] == [
        *[(TYPES.INT8, TYPES.INT8)] * 4,
        (TYPES.FLOAT32, TYPES.FLOAT32),
    ]
    others = [kernels(exported("int8")[1], f"stage_{k}") for k in (2, 3, 4)]
    assert [kernels(litert, f"stage_{k}") for k in (2, 3, 4)] == others
    found = [litert.run("classify", image=image) for image in X]
    same = column(found, "exit") == predicted["exit"]
    assert same.mean() >= 0.85
    assert (column(found, "label") == predicted["label"])[same].mean() >= 0.95
    broken = np.full_like(X[0], np.nan)
    assert litert.run("classify", image=broken)["exit"] == 3


def test_a_first_net_of_a_float_file_is_float(exported, model, tmp_path):
    options = kd.GateOptions(first_net="int8")
    _, litert = export(model, tmp_path / "float.tflite", options=options)
    same = exported()[1]
    assert kernels(litert, "classify") == kernels(same, "classify")
    for image in X[:8]:
        for name, value in litert.run("classify", image=image).items():
            np.testing.assert_array_equal(
                same.run("classify", image=image)[name], value
            )


def test_a_quantize_aware_first_net_stays_in_float(model, tmp_path):
    rounded = kd.quantize_aware(model, X)
    options = kd.GateOptions(first_net="int8")
    with pytest.raises(ValueError, match="`first_net` must be 'dynamic' for a quan"):
        export(rounded, tmp_path / "net.tflite", "int8", options=options)
    assert not list(tmp_path.iterdir())


def test_heads_of_an_int8_file_are_int8_but_for_their_last_layer(exported, model):
    _, litert = exported("int8")
    for name, convolutions in (("stage_2", 5), ("stage_3", 2)):
        found = Counter((kind, x) for kind, x, _, _ in kernels(litert, name))
        assert found.pop(("FULLY_CONNECTED", TYPES.FLOAT32)) == 1
        assert {x for _, x in found} == {TYPES.INT8}
        assert sum(found.values()) == convolutions
    held = [
        flatbuffer.constant(file, graph.tensors[operator.inputs[1]], np.float32)
        for file, graph, operator in operators(litert, ["classify"])
        if flatbuffer.op_name(file, operator) == "FULLY_CONNECTED"
        and graph.tensors[operator.inputs[1]].type == TYPES.FLOAT32
    ]
    for gate in model.gates:
        kernel = keras.ops.convert_to_numpy(gate.graph.calls[-1].operation.kernel)
        assert any(np.array_equal(kernel.T.ravel(), other) for other in held)


def test_nothing_between_scores_and_threshold_is_in_8_bits(exported):
    """Of the four confidences that need only scores (a linear gate's is "score")."""
    _, litert = exported("int8")
    file, seen = flatbuffer.read(litert.path.read_bytes()), 0
    for graph in file.subgraphs:
        names = [flatbuffer.op_name(file, operator) for operator in graph.operators]
        if "ARG_MAX" in names:
            seen += 1
            assert not {"QUANTIZE", "DEQUANTIZE"} & set(names)
    assert seen == 8  # of all exits, at once and in stages
    inf = np.float32(np.inf)
    for image in X[:6]:
        for gate in range(3):
            limits = np.full(3, inf)
            limits[gate] = -inf
            score = litert.run("classify_at", image=image, thresholds=limits)["score"]
            for limit, exit_ in (
                (score[0], gate),
                (np.nextafter(score[0], -inf), gate),
                (np.nextafter(score[0], inf), 3),
            ):
                limits[gate] = limit
                found = litert.run("classify_at", image=image, thresholds=limits)
                assert found["exit"] == exit_


def test_exits_that_answer_alone_are_not_combined(tmp_path):
    """A unit matrix adds nothing to a file; factors add a product each, at most."""
    files, factors = {}, np.diag([1.0, 2.0])
    for name, mixing in (("alone", None), ("unit", np.eye(2)), ("factors", factors)):
        model = with_exits(conv_net(), ("a",), X, mixing=mixing)
        _, files[name] = export(model, tmp_path / f"{name}.tflite")
    whole = {name: counts(litert, "classify") for name, litert in files.items()}
    assert whole["alone"] == whole["unit"]
    assert whole["factors"] - whole["alone"] in (Counter(), Counter(MUL=1))
    assert all("earlier" not in s.outputs for s in files["factors"].signatures.values())
    limits = [np.inf]
    alone, scaled = (
        files[name].run("classify_at", image=X[0], thresholds=limits)["logits"]
        for name in ("alone", "factors")
    )
    np.testing.assert_allclose(2 * alone, scaled, rtol=1e-5)


def test_what_does_not_count_is_not_handed_on(tmp_path):
    """Only the head's own neighbour is wanted, not the first net."""
    model = two_exits(((1, 0, 0), (0, 1, 0), (0, 0.5, 1)))
    _, litert = export(model, tmp_path / "a.tflite")
    given = [litert.signatures[f"stage_{k}"].inputs for k in (1, 2, 3)]
    assert [set(found) for found in given] == [
        {"image"},
        {"image"},
        {"features", "earlier"},
    ]
    assert given[2]["earlier"].shape == (1, 1, 7)
    predicted = model.predict(X[:6], thresholds=NEVER[:2], verbose=0)
    for index, image in enumerate(X[:6]):
        found = litert.run("classify_at", image=image, thresholds=NEVER[:2])
        assert_answers(found, predicted, index)
        calls = list(chain(litert, {"image": image}, "stage_3"))
        assert [name for name, *_ in calls] == ["stage_2", "stage_3"]
        np.testing.assert_allclose(calls[-1][2]["logits"], found["logits"], atol=1e-4)


@pytest.mark.parametrize(
    "quantization, mixing",
    [
        ("dynamic", np.diag([2.0, 0.25, 3.0])),  # the converter puts these into kernels
        ("int8", [[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.4, 1]]),
    ],
)
def test_linear_gates_combine_too(tmp_path, quantization, mixing):
    model = with_exits(conv_net(), ("a", "b"), X, mixing=mixing)
    _, litert = export(model, tmp_path / "a.tflite", quantization)
    predicted = model.predict(X, verbose=0)
    found = [litert.run("classify", image=image) for image in X]
    same = column(found, "exit") == predicted["exit"]
    assert same.mean() >= 0.85
    difference = np.abs(column(found, "score") - predicted["score"])[same]
    assert difference.mean() < 0.1 * predicted["score"].std()


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_an_image_with_a_nan_leaves_at_the_head(exported, quantization):
    _, litert = exported(quantization)
    image = X[0].copy()
    image[3, 4, 1] = np.nan
    everybody = [-np.inf] * 3
    assert litert.run("classify_at", image=X[0], thresholds=everybody)["exit"] == 0
    assert litert.run("classify_at", image=image, thresholds=everybody)["exit"] == 3
    for name, _, out in chain(litert, {"image": image}, "stage_2"):
        assert np.isnan(out["score"]), name


def test_weights_are_stored_once(exported):
    for quantization in (None, "int8"):
        _, litert = exported(quantization)
        file = flatbuffer.read(litert.path.read_bytes())
        held = [bytes(b.data) for b in file.buffers if b.data is not None]
        held = [data for data in held if len(data) > 99]
        assert len(held) == len(set(held)), "two buffers hold the same bytes"


def test_report_and_metadata(exported, model):
    for quantization in (None, "int8"):
        report, litert = exported(quantization)
        exits = litert.metadata["exits"]
        assert [e["name"] for e in exits] == ["first", "gate_1", "gate_2", "head"]
        assert [e["after"] for e in exits] == ["input", "a", "b", None]
        per_exit = report.macs.per_exit
        assert [e["macs"] for e in exits] == list(per_exit)
        assert [e["macs_share"] for e in exits] == [m / per_exit[-1] for m in per_exit]
        assert len(report.exit_ms) == 4 and min(report.exit_ms) > 0
        names = [f"{gate.name}/exit" for gate in model.gates]
        assert [branch.name for branch in report.branches] == names
        later = [per_exit[-1] - macs for macs in per_exit[:-1]]
        assert [branch.macs for branch in report.branches] == later


def test_a_first_net_alone(tmp_path):
    """Without other exits; in bfloat16, which a file is not."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        first, trunk = tiny_first(), conv_net()
    finally:
        keras.config.set_dtype_policy(policy)
    model = with_exits(trunk, (), X, "probability", first=first)
    clean = with_exits(conv_net(), (), X, "probability", first=tiny_first())
    clean.set_weights(model.get_weights())
    predicted = clean.predict(X, verbose=0)
    _, litert = export(model, tmp_path / "a.tflite")
    for index, image in enumerate(X):
        assert_answers(litert.run("classify", image=image), predicted, index)
