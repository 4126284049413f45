"""A file with early exits leaves where Keras does, and computes nothing beyond."""

import functools
from collections import Counter
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from ai_edge_litert.interpreter import Interpreter  # noqa: E402

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.export.float_kernels import float_kernels  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import (  # noqa: E402
    assert_answers,
    column,
    conv_net,
    images,
    only_builtins,
    raw_logits,
    small_net,
    spread_gates,
    tinted,
    with_exits,
)

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

X = tinted(40)
BLOCKS = ("block1", "block2")
ANSWER = {"logits", "label", "score", "exit", "executed_macs"}


def plain():
    """Without blocks; minus entropy makes negative scores."""
    return with_exits(conv_net(), ("a", "b"), X, "entropy")


def gated():
    return with_exits(spread_gates(small_net(layers=True), X), BLOCKS, X, "margin")


def lc():
    net = small_net(layers=True, gate=kd.SalienceController)
    return with_exits(spread_gates(net, X), BLOCKS, X, "distance")


KINDS = {"plain": plain, "gated": gated, "lc": lc}


class Exported(NamedTuple):
    model: Any
    predicted: dict
    report: Any
    litert: Any

    @property
    def content(self):
        return self.litert.path.read_bytes()


@pytest.fixture(scope="module")
def net():
    """By kind: the model, and what Keras predicts for `X`."""

    @functools.cache
    def make(kind):
        model = KINDS[kind]()
        return model, model.predict(X)

    return make


@pytest.fixture(scope="module")
def exported(tmp_path_factory, net):
    @functools.cache
    def export(kind, quantization=None):
        path = tmp_path_factory.mktemp("exits") / "net.tflite"
        camera = quantization == "int8" and kind == "plain"
        report = kd.export_tflite(
            net(kind)[0],
            path,
            quantization=quantization,
            representative_data=X if quantization == "int8" else None,
            input_type="uint8" if camera else "float32",
            # Of int8 files the tests ask themselves how near they are.
            parity_data=False if quantization == "int8" else X,
        )
        return Exported(*net(kind), report, kd.LiteRTModel(path))

    return export


@pytest.mark.parametrize("kind", KINDS)
def test_file_agrees_with_keras(exported, kind):
    model, predicted, report, litert = exported(kind)
    assert np.bincount(predicted["exit"], minlength=3).min() >= 10, "all exits occur"
    assert report.parity.max_difference < 1e-5
    assert report.parity.argmax_agreement == report.parity.exit_agreement == 1.0
    assert report.parity.decision_agreement == (None if kind == "plain" else 1.0)
    limits = model.thresholds
    for index, image in enumerate(X):
        found = litert.run("classify", image=image)
        assert_answers(found, predicted, index)
        asked = litert.run("classify_at", image=image, thresholds=limits)
        told = litert.run("explain", image=image)
        told_at = litert.run("explain_at", image=image, thresholds=limits)
        assert set(found) == set(asked) == ANSWER and set(told) == set(told_at)
        for other in (asked, told, told_at):
            for name in ANSWER:
                np.testing.assert_array_equal(other[name], found[name])


@pytest.mark.parametrize(
    "kind, quantization",
    [(kind, None) for kind in KINDS] + [("plain", "int8"), ("gated", "int8")],
)
def test_signatures(exported, kind, quantization):
    model, _, report, litert = exported(kind, quantization)
    stages = {"stage_1", "stage_2", "stage_3"}
    classifiers = {"classify", "classify_at", "explain", "explain_at"}
    assert set(report.signatures) == set(litert.signatures) == stages | classifiers
    for name, found in litert.signatures.items():
        inputs = {"image"} if name in classifiers | {"stage_1"} else {"features"}
        inputs |= {"thresholds"} if name.endswith("_at") else set()
        assert set(found.inputs) == inputs, name
    decisions = {n for n in kd.decide(model, X[:1]) if n != "exit"}
    assert set(litert.signatures["explain"].outputs) == ANSWER | decisions
    told = ANSWER - {"exit"}
    assert set(litert.signatures["stage_2"].outputs) == told | {"features"}
    assert set(litert.signatures["stage_3"].outputs) == told
    assert only_builtins(litert.path.read_bytes())

    first = flatbuffer.read(litert.path.read_bytes()).signatureDefs[0]
    assert (first.signatureKey, first.subgraphIndex) == (b"classify", 0)
    interpreter = Interpreter(str(litert.path))  # run without a signature's name
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    interpreter.set_tensor(image["index"], X[:1].astype(image["dtype"]))
    interpreter.invoke()
    expected = litert.run("classify", image=X[0])
    found = [
        interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()
    ]
    assert len(found) == len(expected)
    for value in expected.values():
        assert any(np.array_equal(value, other) for other in found)


@pytest.mark.parametrize("kind", KINDS)
def test_other_thresholds_leave_as_in_keras(exported, kind):
    model, _, _, litert = exported(kind)
    x, inf = X[:12], np.inf
    mixed = model.thresholds + np.float32([0.1, -0.1])
    exits = []
    for limits in ([-inf, -inf], [inf, -inf], [inf, inf], mixed):
        predicted = model.predict(x, thresholds=limits)
        exits.append(set(predicted["exit"].tolist()))
        for index, image in enumerate(x):
            found = litert.run("classify_at", image=image, thresholds=limits)
            assert_answers(found, predicted, index)
    assert exits[:3] == [{0}, {1}, {2}] and len(exits[3]) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_stages_chain_to_the_whole(exported, kind):
    model, _, _, litert = exported(kind)
    never = [np.inf, np.inf]
    expected = model.predict(X[:6], thresholds=never)
    outputs = model(X[:6])  # all exits of all images
    for index, image in enumerate(X[:6]):
        x, macs = {"image": image}, 0
        for number, gate in enumerate([*model.gates, None], 1):
            found = litert.run(f"stage_{number}", **x)
            macs += found["executed_macs"][0]
            if gate is None:
                break
            scores = keras.ops.convert_to_numpy(outputs[gate.name])[index]
            np.testing.assert_allclose(found["logits"][0], scores, atol=1e-4)
            assert found["label"] == scores.argmax()
            confidence = keras.ops.convert_to_numpy(gate.confidence_of(scores[None]))
            np.testing.assert_allclose(found["score"], confidence, atol=1e-4)
            x = {"features": found["features"]}
        logits = expected["logits"][index]
        np.testing.assert_allclose(found["logits"][0], logits, atol=1e-4)
        assert found["score"] == found["logits"].max()
        whole = litert.run("classify_at", image=image, thresholds=never)
        np.testing.assert_allclose(found["logits"], whole["logits"], rtol=1e-5)
        assert abs(macs - expected["macs"][index] / 1000) <= 2


@pytest.mark.parametrize("kind, poisoned", [("plain", 1), ("plain", 2), ("gated", 1)])
def test_what_comes_after_the_exit_is_not_executed(tmp_path, exported, kind, poisoned):
    """All weights from one stage on are NaN: nobody sees it who left before."""
    model = KINDS[kind]()
    for stage in model.stages[poisoned:]:
        for weight in [
            *stage.part.weights,
            *(stage.gate.weights if stage.gate else []),
        ]:
            if keras.backend.is_float_dtype(weight.dtype):
                weight.assign(np.full(weight.shape, np.nan))
    kd.export_tflite(model, tmp_path / "nan.tflite", parity_data=False)
    litert = kd.LiteRTModel(tmp_path / "nan.tflite")
    _, predicted, _, clean = exported(kind)
    for image, exit_ in zip(X, predicted["exit"], strict=True):
        found = litert.run("explain", image=image)
        if exit_ >= poisoned:
            assert np.isnan(found["logits"]).any()
            continue
        expected = clean.run("explain", image=image)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("kind", ["gated", "lc"])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_blocks_after_the_exit_read_0(exported, kind, quantization):
    litert = exported(kind, quantization).litert
    seen = Counter()
    for image in X:
        found = litert.run("explain", image=image)
        later = [value for name, value in found.items() if name.startswith("block2/")]
        assert len(later) == 2
        seen[int(found["exit"][0] > 0), any(value.any() for value in later)] += 1
    assert seen[0, True] == 0
    assert seen[0, False] and seen[1, True]


@pytest.mark.parametrize(
    "kind, quantization", [("plain", "dynamic"), ("lc", "dynamic")]
)
def test_dynamic_range_files_stay_close(exported, kind, quantization):
    _assert_close(exported(kind, quantization), exits=0.9, score=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_files_stay_close(exported, kind):
    found = exported(kind, "int8")
    _assert_close(found, exits=0.85, score=0.1)
    dtype = found.litert.signatures["classify"].inputs["image"].dtype
    assert dtype == (np.uint8 if kind == "plain" else np.float32)


def _assert_close(found, exits, score):
    """A share of equal exits; and scores, where all blocks decide as in Keras."""
    model, predicted, _, litert = found
    answers = [litert.run("explain", image=image) for image in X]
    decisions = kd.decide(model, X)
    assert (column(answers, "exit") == predicted["exit"]).mean() >= exits
    same = np.ones(len(X), bool)
    for name, ours in decisions.items():
        theirs = np.concatenate([answer[name].reshape(1, -1) for answer in answers])
        equal = (theirs == ours) if name == "exit" else (theirs > 0) == (ours > 0)
        same &= equal.all(-1)
    assert same.mean() > exits - 0.15
    difference = np.abs(column(answers, "score") - predicted["score"])[same]
    assert difference.mean() < score * predicted["score"].std()
    assert (column(answers, "label") == predicted["label"])[same].mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_gates_of_int8_files_are_float32(exported, kind):
    model, _, _, litert = found = exported(kind, "int8")
    assert float_kernels(flatbuffer.read(found.content)) == {"FULLY_CONNECTED": 4}
    file, kernels = flatbuffer.read(found.content), []
    for _, graph, operator in flatbuffer.walk(file):
        if flatbuffer.op_name(file, operator) == "FULLY_CONNECTED":
            weights = graph.tensors[operator.inputs[1]]
            if weights.type == flatbuffer.schema.TensorType.FLOAT32:
                values = flatbuffer.constant(file, weights, np.float32)
                kernels.append(values.reshape(weights.shape).T)
    for gate in model.gates:
        kernel = keras.ops.convert_to_numpy(gate.dense.kernel)
        assert sum(np.array_equal(kernel, other) for other in kernels) == 2
    gate = model.gates[0]
    for image in X[:6]:
        answer = litert.run("stage_1", image=image)
        scores = gate(answer["features"])
        np.testing.assert_allclose(answer["logits"], scores, rtol=1e-5, atol=1e-5)
        # The rest of the net is calibrated apart, so that its ranges may differ a bit.
        whole = litert.run("classify_at", image=image, thresholds=[-np.inf, 0])
        np.testing.assert_allclose(answer["logits"], whole["logits"], atol=0.3)


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_are_compared_in_float32(exported, kind, quantization):
    """The next float above a gate's score is too much for it, the score is not."""
    litert = exported(kind, quantization).litert
    inf = np.float32(np.inf)

    def run(image, *thresholds):
        limits = np.array(thresholds, "float32")
        return litert.run("classify_at", image=image, thresholds=limits)

    for image in X[:8]:
        first = run(image, -inf, inf)["score"][0]
        second = run(image, inf, -inf)["score"][0]
        assert run(image, first, inf)["exit"] == 0
        assert run(image, np.nextafter(first, -inf), inf)["exit"] == 0
        assert run(image, np.nextafter(first, inf), -inf)["exit"] == 1
        assert run(image, inf, second)["exit"] == 1
        assert run(image, inf, np.nextafter(second, -inf))["exit"] == 1
        assert run(image, inf, np.nextafter(second, inf))["exit"] == 2
        assert run(image, inf, inf)["exit"] == 2
        assert run(image, 0.0, inf)["exit"] == run(image, -0.0, inf)["exit"]


def test_int8_calibration_leaves_predictions_alone(tmp_path):
    """It runs the stages, and must not compile the head with its softmax for them."""
    model, never = plain(), [np.inf, np.inf]
    model.predict(X[:9], thresholds=never)
    kd.export_tflite(
        model, tmp_path / "a.tflite", quantization="int8", representative_data=X[:4]
    )
    logits = model.predict(X[:5], thresholds=never)["logits"]
    expected = raw_logits(model.trunk, X[:5])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic", "int8"])
def test_an_image_with_a_nan_leaves_at_the_head(exported, tmp_path, quantization):
    """Whatever kernels make of a NaN; also one with a sign, which 0 / 0 gives."""
    model = exported("plain").model
    kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization=quantization,
        representative_data=X,
        parity_data=False,
    )
    litert, everybody = kd.LiteRTModel(tmp_path / "a.tflite"), [-np.inf, -np.inf]
    for bits in (0x7FC00000, 0xFFC00000):
        image = X[0].copy()
        image[3, 4, 1] = np.array([bits], np.uint32).view(np.float32)[0]
        assert litert.run("classify", image=image)["exit"] == 2
        assert np.isnan(litert.run("stage_1", image=image)["score"])
        for picture, expected in ((image, 2), (X[0], 0)):
            found = litert.run("classify_at", image=picture, thresholds=everybody)
            assert found["exit"] == expected


@pytest.mark.parametrize("quantization", [None, "dynamic", "int8"])
def test_a_series_leaves_where_keras_says(tmp_path, quantization):
    """[steps, channels] instead of an image."""
    keras.utils.set_random_seed(0)
    layers, x = keras.layers, np.random.default_rng(0).normal(size=(30, 20, 3))
    x = x.astype("float32") * np.linspace(0.2, 2, 30, dtype="float32")[:, None, None]
    image = h = keras.Input((20, 3))
    h = layers.Conv1D(8, 3, padding="same", activation="relu", name="a")(h)
    h = layers.Conv1D(8, 3, strides=2, activation="relu", name="b")(h)
    h = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling1D()(h))
    model = with_exits(keras.Model(image, h), ["a", "b"], x)
    report = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization=quantization,
        representative_data=x,
        parity_data=x,
    )
    assert report.parity.exit_agreement >= (0.9 if quantization == "int8" else 1.0)
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    assert "[1, 20, 3]" in litert.metadata["input"]
    if quantization is None:
        predicted = model.predict(x)
        for index, series in enumerate(x):
            found = litert.run("classify", image=series)
            assert_answers(found, predicted, index)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_gates_of_one_score_tell_two_classes(tmp_path, quantization):
    keras.utils.set_random_seed(0)
    layers, rng = keras.layers, np.random.default_rng(0)
    image = h = keras.Input((12, 12, 3))
    h = layers.Conv2D(8, 3, activation="relu", name="a")(h)
    h = layers.Conv2D(8, 3, activation="relu", name="b")(h)
    head = layers.Dense(1, activation="sigmoid")
    trunk = keras.Model(image, head(layers.GlobalAveragePooling2D()(h)))
    model = kd.add_decision_gates(trunk, ["a"])
    gate, features = model.gates[0], model.stages[0].part(X)
    gate.dense.kernel.assign(0.02 * rng.normal(size=(8, 1)))
    scores = keras.ops.convert_to_numpy(gate(features))
    gate.dense.bias.assign(-np.median(scores, 0))
    middle = np.median(raw_logits(trunk, X))
    head.bias.assign(head.bias - middle)
    model.thresholds = [np.median(np.abs(scores - np.median(scores, 0)))]
    report = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization=quantization,
        representative_data=X,
        labels=["no", "yes"],
        parity_data=False if quantization else X,
    )
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    found = [litert.run("classify", image=image) for image in X]
    step = max(abs(answer["logits"][0, 0]) for answer in found) / 127
    seen = set()
    for answer in found:
        logit, exit_ = answer["logits"][0, 0], int(answer["exit"][0])
        assert answer["label"] == (logit > 0)
        # At the head of an int8 file the size of a logit has eight bits of its own.
        atol = step if quantization and exit_ else 0.0
        np.testing.assert_allclose(answer["score"], abs(logit), 1e-6, atol)
        seen.add((exit_, bool(logit > 0)))
    assert seen == {(0, False), (0, True), (1, False), (1, True)}
    predicted = model.predict(X)
    least = 0.85 if quantization else 1.0
    assert quantization or report.parity.argmax_agreement == 1.0
    assert (column(found, "label") == predicted["label"]).mean() >= least
    assert (column(found, "exit") == predicted["exit"]).mean() >= least


def test_a_files_baked_thresholds_are_the_models(tmp_path, net):
    model = net("plain")[0]
    before = model.thresholds
    try:
        model.thresholds = [np.inf, -np.inf]
        kd.export_tflite(model, tmp_path / "a.tflite")
    finally:
        model.thresholds = before
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    assert all(litert.run("classify", image=image)["exit"] == 1 for image in X[:5])


def test_weights_are_stored_once(tmp_path):
    trunk, x = small_net(filters=96, groups=None), tinted(12)
    kd.export_tflite(trunk, tmp_path / "trunk.tflite")
    model = with_exits(trunk, BLOCKS, x)
    weights = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert 4 * weights > 2_000_000
    sizes = {}
    for quantization in (None, "int8"):
        report = kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            quantization=quantization,
            representative_data=x,
        )
        sizes[quantization] = report.bytes
        file = flatbuffer.read((tmp_path / "a.tflite").read_bytes())
        held = [bytes(b.data) for b in file.buffers if b.data is not None]
        held = [data for data in held if len(data) > 99]
        assert len(held) == len(set(held)), "two buffers hold the same bytes"
    assert sizes[None] < 1.05 * 4 * weights
    assert sizes["int8"] < 1.15 * weights  # of so small a net
    assert sizes[None] < 1.05 * (tmp_path / "trunk.tflite").stat().st_size


def test_nets_of_mixed_precision_are_exported_in_float32(tmp_path, dtype_policy):
    dtype_policy("mixed_bfloat16")
    model = plain()
    dtype_policy("float32")
    kd.export_tflite(model, tmp_path / "a.tflite")
    assert {layer.compute_dtype for layer in model.trunk.layers} == {"bfloat16"}
    clean = plain()
    clean.set_weights(model.get_weights())
    predicted = clean.predict(X)
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    for index, image in enumerate(X):
        assert_answers(litert.run("classify", image=image), predicted, index)

    kd.export_tflite(  # calibrated with features in bfloat16
        model, tmp_path / "a.tflite", quantization="int8", representative_data=X
    )
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    exits = column([litert.run("classify", image=image) for image in X], "exit")
    assert (exits == predicted["exit"]).mean() > 0.85


@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_report_and_metadata(exported, kind):
    model, _, report, litert = exported(kind)
    assert len(report.exit_ms) == 3 and min(report.exit_ms) > 0
    text = str(report)
    assert "to each exit: " in text
    for macs, ms in zip(report.macs.per_exit, report.exit_ms, strict=True):
        assert f"{macs:,} MACs, {ms:.2f} ms" in text
    written = litert.metadata["thresholds"]  # JSON knows no infinity
    assert written == np.nan_to_num(model.thresholds).tolist()
    assert litert.metadata["confidence"] == [g.confidence for g in model.gates]
    assert litert.metadata["macs_per_exit"] == list(report.macs.per_exit)
    exits = [b for b in report.branches if b.name.endswith("/exit")]
    assert [b.name for b in exits] == [f"{g.name}/exit" for g in model.gates]
    per_exit = report.macs.per_exit
    assert [b.macs for b in exits] == [per_exit[2] - macs for macs in per_exit[:2]]


def test_an_exits_branch_holds_all_that_comes_later(tmp_path):
    model = plain()
    model.trunk.trainable = False  # as one has it while the gates are trained
    report = kd.export_tflite(model, tmp_path / "a.tflite")
    last = (9 * 24 * 32 + 32) + (32 * 7 + 7)
    second = (9 * 16 * 24 + 24) + (24 * 7 + 7)
    assert [b.parameters for b in report.branches] == [second + last, last]
    assert [b.channels for b in report.branches] == [16, 24]


def test_uncalibrated_nets_are_refused(tmp_path):
    layers = keras.layers
    trunk = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="first"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    model = kd.add_decision_gates(trunk, after=["first"])
    with pytest.raises(ValueError, match=r"`model` must have thresholds.*\[inf\]"):
        kd.export_tflite(model, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())
    model.thresholds = [0.0]
    x = images(4, (8, 8, 3))
    report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=x)
    assert report.parity.max_difference < 1e-5 and len(report.exit_ms) == 2
    assert "stage_3" not in report.signatures
