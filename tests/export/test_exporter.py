"""An exported file says what Keras says, and does not run what was skipped."""

import os

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate._walk import dynamic_layers  # noqa: E402
from keras_dyngate.export.float_kernels import float_kernels  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import (  # noqa: E402
    SHAPE,
    enliven,
    images,
    only_builtins,
    raw_logits,
    small_net,
)

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

KINDS = {
    "per channel": dict(groups=32),
    "groups of 4": dict(groups=8),
    "two groups": dict(),
    "option A": dict(shortcut="pad"),
    "layers": dict(groups=None, layers=True),
    "layers and channels": dict(layers=True),
    "bottleneck": dict(block=kd.GatedBottleneckBlock),
    "bottleneck layers": dict(block=kd.GatedBottleneckBlock, layers=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_file_agrees_with_keras(tmp_path, kind):
    model = small_net(**KINDS[kind])
    x = images(6)
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(model, path, parity_data=x)
    assert report.parity.max_difference < 1e-5
    assert report.parity.decision_agreement == 1.0
    assert report.bytes == path.stat().st_size
    decisions = kd.decide(model, x)
    flat = np.concatenate([d.ravel() for d in decisions.values()])
    assert 0.05 < flat.mean() < 0.95, "the test must see open and shut gates"

    litert = kd.LiteRTModel(path)
    assert list(report.signatures) == ["classify", "explain"]
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    logits = raw_logits(model, x)
    for index, image in enumerate(x):
        found = litert.run("classify", image=image)
        assert set(found) == {"logits", "label", "executed_macs"}
        assert found["executed_macs"].dtype == np.int32
        assert abs(found["executed_macs"][0] - macs[index] / 1000) <= 1
        assert found["label"].tolist() == [logits[index].argmax()]
        explained = litert.run("explain", image=image)
        np.testing.assert_array_equal(explained["logits"], found["logits"])
        assert set(explained) == {*found, *decisions}
        assert all(explained[name].dtype == np.uint8 for name in decisions)

    assert only_builtins(path.read_bytes())


def test_plain_net_and_foreign_net_have_no_branches(tmp_path):
    plain = small_net(groups=None)
    bottleneck = small_net(kd.GatedBottleneckBlock, groups=None)
    foreign = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=5)
    for model in (plain, bottleneck, foreign):
        x = images(3, model.input_shape[1:])
        report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=x)
        assert report.parity.max_difference < 1e-5
        assert report.branches == ()
        assert "IF" not in flatbuffer.op_counts((tmp_path / "a.tflite").read_bytes())
        found = kd.LiteRTModel(tmp_path / "a.tflite").run("classify", image=x[0])
        macs = kd.count_macs(model).total
        assert abs(found["executed_macs"][0] - macs / 1000) <= 0.5


def _poison(model, key, rate):
    """NaN into the kernels of every unit that `force_open_rate(rate)` shuts."""
    for block in list(dynamic_layers(model)):
        if key == "layer":
            if not block.layer_gate.forced[0]:
                for conv in block.convs:
                    conv.kernel.assign(np.full(conv.kernel.shape, np.nan))
            continue
        parts = np.split(block.channel_gate.forced, block.masks)
        for conv, following, is_open in zip(
            block.convs[:-1], block.convs[1:], parts, strict=True
        ):
            shut = np.repeat(~is_open, block.filters // len(is_open))
            kernel = keras.ops.convert_to_numpy(conv.kernel).copy()
            kernel[..., shut] = np.nan
            conv.kernel.assign(kernel)
            kernel = keras.ops.convert_to_numpy(following.kernel).copy()
            kernel[:, :, shut] = np.nan
            following.kernel.assign(kernel)


@pytest.mark.parametrize(
    "kind, key",
    [
        ("groups of 4", "channel"),
        ("bottleneck", "channel"),
        ("layers", "layer"),
        ("layers and channels", "channel"),
    ],
)
def test_skipped_branches_are_not_executed(tmp_path, kind, key):
    """Weights that must not be used are NaN: the answer stays what it was."""
    model = small_net(**KINDS[kind])
    x = images(2)
    # The default size would join units; Keras masks, and its NaN are not the file's.
    size = kd.GateOptions(group_size=4 if kind == "groups of 4" else None)
    options = dict(options=size, parity_data=False)
    with kd.force_open_rate(model, 0.5):
        kd.export_tflite(model, tmp_path / "clean.tflite", **options)
        _poison(model, key, 0.5)
        kd.export_tflite(model, tmp_path / "nan.tflite", **options)
        assert np.isnan(model.predict(x, verbose=0)).any(), "Keras masks: NaN * 0"
    clean = kd.LiteRTModel(tmp_path / "clean.tflite")
    poisoned = kd.LiteRTModel(tmp_path / "nan.tflite")
    for image in x:
        expected = clean.run("classify", image=image)["logits"]
        assert np.isfinite(expected).all()
        found = poisoned.run("classify", image=image)["logits"]
        np.testing.assert_array_equal(found, expected)


def test_an_executed_branch_does_use_its_weights(tmp_path):
    model = small_net()
    block = list(dynamic_layers(model))[0]
    kernel = keras.ops.convert_to_numpy(block.convs[0].kernel).copy()
    kernel[..., 0] = np.nan
    block.convs[0].kernel.assign(kernel)
    with kd.force_open_rate(model, 1.0):
        kd.export_tflite(model, tmp_path / "a.tflite", parity_data=False)
    found = kd.LiteRTModel(tmp_path / "a.tflite").run("classify", image=images(1)[0])
    assert np.isnan(found["logits"]).any()


def test_group_size_merges_units_and_counts_what_runs(tmp_path):
    model = small_net(groups=32)
    x = images(5)
    decisions = kd.decide(model, x)
    for size in (4, 32):
        report = kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            options=kd.GateOptions(group_size=size),
            parity_data=x,
        )
        assert report.parity.max_difference < 1e-5
        litert = kd.LiteRTModel(tmp_path / "a.tflite")
        macs = [litert.run("classify", image=i)["executed_macs"][0] for i in x]
        expected = kd.count_macs(model).of(decisions, size) / 1000
        np.testing.assert_allclose(macs, expected, atol=1)
    with pytest.raises(ValueError, match="`group_size` must divide.*group_size=12"):
        options = kd.GateOptions(group_size=12)
        kd.export_tflite(model, tmp_path / "b.tflite", options=options)
    assert not (tmp_path / "b.tflite").exists()


def test_forced_rates_export_so(tmp_path):
    model = small_net()
    x = images(1)[0]
    profile = kd.count_macs(model)
    macs = []
    for rate in (1.0, 0.5, 0.0):
        with kd.force_open_rate(model, rate):
            kd.export_tflite(model, tmp_path / f"{rate}.tflite")
            expected = profile.of(kd.decide(model, x[None]))[0]
        found = kd.LiteRTModel(tmp_path / f"{rate}.tflite").run("classify", image=x)
        macs.append(found["executed_macs"][0])
        assert abs(macs[-1] - expected / 1000) <= 1
    assert macs[0] > macs[1] > macs[2]
    assert abs(macs[0] - (profile.total + profile.controllers) / 1000) <= 1
    assert abs(macs[2] - (profile.ungated + profile.controllers) / 1000) <= 1


def test_weights_are_stored_once(tmp_path):
    model = small_net(filters=128, groups=2)
    report = kd.export_tflite(model, tmp_path / "a.tflite")
    trunk = 4 * sum(np.prod(w.shape) for w in model.weights if "seed" not in w.path)
    assert report.bytes < 1.05 * trunk
    file = flatbuffer.read((tmp_path / "a.tflite").read_bytes())
    held = [
        bytes(b.data) for b in file.buffers if b.data is not None and len(b.data) > 99
    ]
    assert len(held) == len(set(held)), "two buffers hold the same bytes"
    inside = sum(branch.parameters for branch in report.branches)
    blocks = [model.get_layer("block1"), model.get_layer("block2")]
    kernels = sum(np.prod(c.kernel.shape) for b in blocks for c in b.convs)
    assert inside == kernels + sum(b.filters for b in blocks)
    assert sum(b.macs for b in report.branches) == report.macs.gateable


@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8"])
def test_quantized_files_stay_close(tmp_path, quantization):
    model = small_net(filters=64)
    x = images(24)
    float_report = kd.export_tflite(model, tmp_path / "float.tflite")
    with kd.force_open_rate(model, 0.5):
        report = kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            quantization=quantization,
            representative_data=x,
            parity_data=x[:8],
        )
    assert report.parity.decision_agreement == 1.0
    assert report.parity.max_difference < {"float16": 0.01}.get(quantization, 0.2)
    share = report.bytes / float_report.bytes
    assert share < {"float16": 0.6}.get(quantization, 0.4)
    content = (tmp_path / "a.tflite").read_bytes()
    assert only_builtins(content)
    if quantization == "int8":
        assert not float_kernels(flatbuffer.read(content))
        file = flatbuffer.read(content)
        called = {
            index
            for *_, op in flatbuffer.walk(file)
            for index in flatbuffer.branches(op)
        }
        inside = [
            flatbuffer.op_name(file, op)
            for index, _, op in flatbuffer.walk(file)
            if index in called
        ]
        assert inside.count("CONV_2D") == 8
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(inside), "borders must be int8"


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_camera_frames_come_as_bytes(tmp_path, quantization):
    model = small_net()
    x = images(16)
    with kd.force_open_rate(model, 1.0):
        report = kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            quantization=quantization,
            input_type="uint8",
            representative_data=tf.data.Dataset.from_tensor_slices((x, x[:, 0, 0, 0])),
            parity_data=x[:4],
        )
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    assert litert.signatures["classify"].inputs["image"].dtype == np.uint8
    assert report.parity.max_difference < (0.2 if quantization else 1e-5)
    assert list(litert.signatures["explain"].inputs) == ["image"]


def test_mixed_precision_nets_are_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_net()
    finally:
        keras.config.set_dtype_policy("float32")
    x = images(2)
    kd.export_tflite(model, tmp_path / "a.tflite")
    assert model.get_layer("stem").compute_dtype == "bfloat16", "put back afterwards"
    clean = small_net()
    clean.set_weights(model.get_weights())
    expected = raw_logits(clean, x)
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    for image, logits in zip(x, expected, strict=True):
        found = litert.run("classify", image=image)["logits"][0]
        np.testing.assert_allclose(found, logits, atol=1e-5 * np.abs(logits).max())


def test_metadata_and_report(tmp_path):
    model = small_net()
    labels = [f"class {i}" for i in range(7)]
    report = kd.export_tflite(model, tmp_path / "a.tflite", labels=labels)
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    assert litert.labels == labels
    assert litert.metadata["macs"] == kd.count_macs(model).total
    assert "thousands" in litert.metadata["executed_macs"]
    text = str(report)
    assert f"{report.macs.total:,} MACs" in text and " ms " in text
    with pytest.raises(ValueError, match="`labels` must name the model's 7"):
        kd.export_tflite(model, tmp_path / "a.tflite", labels=labels[:3])


def test_head_is_left_as_it_was(tmp_path):
    model = small_net()
    before = model.predict(images(2), verbose=0)
    kd.export_tflite(model, tmp_path / "a.tflite")
    np.testing.assert_array_equal(model.predict(images(2), verbose=0), before)
    assert np.allclose(before.sum(-1), 1)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(quantization="int4"), "`quantization` must be one of.*'int4'"),
        (dict(quantization="int8"), "`representative_data`.*None"),
        (
            dict(quantization="int8", representative_data=images(2, (8, 8, 3))),
            r"`representative_data` must hold images of shape \(12, 12, 3\).*8, 8, 3",
        ),
        (dict(input_type="int8"), "`input_type` must be one of"),
        (dict(calibration_samples=0), "`calibration_samples` must be a positive int"),
        (dict(path="missing/a.tflite"), "`path` must be a file in an existing"),
        (dict(path="."), "`path` must be a file in an existing"),
    ],
)
def test_bad_arguments_leave_the_old_file(tmp_path, change, message):
    old = tmp_path / "a.tflite"
    old.write_bytes(b"precious")
    options = {"path": "a.tflite", **change}
    path = os.path.join(tmp_path, options.pop("path"))
    with pytest.raises(ValueError, match=message):
        kd.export_tflite(small_net(), path, **options)
    assert old.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.tflite"]


def test_unknown_image_size_and_foreign_objects(tmp_path):
    model = kd.gated_resnet20(input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="static shapes.*None, None, 3"):
        kd.export_tflite(model, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match="`model` must be a built.*Received: str"):
        kd.export_tflite("model.keras", tmp_path / "a.tflite")
    two = keras.Model(
        [keras.Input((8, 8, 3)), other := keras.Input((8, 8, 3))],
        keras.layers.Flatten()(other),
    )
    with pytest.raises(ValueError, match="`model` must have one input.*2 inputs"):
        kd.export_tflite(two, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_a_block_called_twice_is_refused(tmp_path):
    image = keras.Input((8, 8, 4))
    block = kd.GatedBasicBlock(4, channel_gate="binary", name="twice")
    x = keras.layers.GlobalAveragePooling2D()(block(block(image)))
    model = keras.Model(image, x)
    with pytest.raises(ValueError, match="second call of 'twice'"):
        kd.export_tflite(model, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_pruned_nets_are_exported_with_what_is_left(tmp_path):
    """Blocks whose gated convolutions are thinner than their output."""
    image = x = keras.Input(SHAPE)
    x = keras.layers.Conv2D(32, 3, padding="same")(x)
    x = kd.GatedBasicBlock(32, channel_gate=kd.BinaryGate(8), inner_filters=16)(x)
    x = kd.GatedBottleneckBlock(8, channel_gate=kd.BinaryGate(4), inner_filters=4)(x)
    x = keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(x))
    model = enliven(keras.Model(image, x))
    report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=images(4))
    assert report.parity.max_difference < 1e-5
    assert report.parity.decision_agreement == 1.0


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_only_the_signatures_that_are_wanted(tmp_path, quantization):
    model, x = small_net(), images(8)
    options = dict(quantization=quantization, representative_data=x, parity_data=x)
    whole = kd.export_tflite(model, tmp_path / "whole.tflite", **options)
    path = tmp_path / "part.tflite"
    part = kd.export_tflite(model, path, signatures=["classify"], **options)
    assert list(part.signatures) == ["classify"]
    assert part.bytes < whole.bytes and part.parity == whole.parity
    assert part.latency_ms > 0
    both = [kd.LiteRTModel(report.path) for report in (whole, part)]
    for image in x:
        ours, theirs = (litert.run("classify", image=image) for litert in both)
        for name, value in ours.items():
            np.testing.assert_array_equal(theirs[name], value)


@pytest.mark.parametrize("wanted", ["classify", [], ["classify", "guess"]])
def test_signatures_that_are_not_there(tmp_path, wanted):
    with pytest.raises(ValueError, match=r"`signatures` must be a list .*'classify'"):
        kd.export_tflite(small_net(), tmp_path / "a.tflite", signatures=wanted)
    assert not list(tmp_path.iterdir())
