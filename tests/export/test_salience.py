"""Blocks with saliences in a file: scores that decide, and scale what is run."""

import functools

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate._walk import dynamic_layers  # noqa: E402
from keras_dyngate.decisions import DecisionModel  # noqa: E402
from keras_dyngate.export.float_kernels import float_kernels  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from tests.export.nets import (  # noqa: E402
    SHAPE,
    only_builtins,
    raw_logits,
    small_net,
    spread_gates,
    tinted,
)

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

BLOCKS = {
    "basic": dict(),
    "bottleneck": dict(block=kd.GatedBottleneckBlock),
    "last": dict(block=kd.GatedBottleneckBlock, gated_activations="last"),
}
GATES = {
    "channels": dict(),
    "layers": dict(groups=None, layers=True),
    "layers and channels": dict(layers=True),
}
KINDS = {
    f"{block} {gates}": {**BLOCKS[block], **GATES[gates]}
    for block in BLOCKS
    for gates in GATES
} | {"basic per channel": dict(groups=32)}


def lc_net(kind, x):
    net = small_net(gate=kd.SalienceController, **KINDS[kind])
    return spread_gates(net, x)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By kind: model, images, logits and decisions in Keras, report and file."""

    @functools.cache
    def export(kind):
        x = tinted(16)
        model = lc_net(kind, x)
        path = tmp_path_factory.mktemp("salience") / "net.tflite"
        report = kd.export_tflite(model, path)
        found = DecisionModel(model)(x)
        found = keras.tree.map_structure(keras.ops.convert_to_numpy, found)
        found["outputs"] = raw_logits(model, x)
        return model, x, *found.values(), report, kd.LiteRTModel(path)

    return export


@pytest.mark.parametrize("kind", KINDS)
def test_file_agrees_with_keras(exported, kind):
    model, x, logits, decisions, report, litert = exported(kind)
    for name, scores in decisions.items():
        seen = [(scores == 0).any(), (scores == 1).any(), (scores % 1 > 0).any()]
        assert all(seen), f"the test must see all of {name}"
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    for index, image in enumerate(x):
        found = litert.run("explain", image=image)
        difference = np.abs(found["logits"][0] - logits[index]).max()
        assert difference < 1e-5 * np.abs(logits).max()
        assert found["label"] == logits[index].argmax()
        for name in decisions:
            scores = decisions[name][index]
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name][0] > 0, scores > 0)
            np.testing.assert_allclose(found[name][0], scores, atol=1e-5)
        assert abs(found["executed_macs"][0] - macs[index] / 1000) <= 1
        answer = litert.run("classify", image=image)
        assert set(found) == {*answer, *decisions}
        for name, value in answer.items():
            np.testing.assert_array_equal(value, found[name])
    assert only_builtins(litert.path.read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_branches_hold_what_is_gated(exported, kind):
    model, _, _, _, report, _ = exported(kind)
    macs = report.macs
    outer = [b for b in report.branches if b.name.endswith("/layer")]
    inner = [b for b in report.branches if not b.name.endswith("/layer")]
    if outer:
        inside = sum(row.macs for row in macs.layers if row.controller and row.gated)
        assert [b.name for b in outer] == ["block1/layer", "block2/layer"]
        assert sum(b.macs for b in outer) == macs.gateable + inside
    else:
        assert sum(b.macs for b in inner) == macs.gateable
    for block in dynamic_layers(model):
        mine = [b for b in inner if b.name.startswith(f"{block.name}/")]
        if block.channel_gate is None:
            assert not mine
            continue
        assert {b.channels for b in mine} == {report.group_sizes[block.name]}
        assert sum(b.channels for b in mine) == block.filters * block.masks
        assert block.masks == (2 if kind.startswith("bottleneck") else 1)


def _spoil(variable, *index):
    value = keras.ops.convert_to_numpy(variable).copy()
    value[index or ...] = np.nan
    variable.assign(value)


def _poison_layer(block):
    """NaN into all that runs only with the layer, its channel controller included."""
    inside = [*block.convs, *block.norms]
    if block.channel_gate is not None:
        inside.append(block.channel_gate.dense)
    for layer in inside:
        for weight in layer.weights:
            _spoil(weight)


def _poison_group(block, mask, unit):
    """NaN into the slices of one unit of one mask: what makes it, and what reads it."""
    first = block.masked[mask]
    size = block.group_size
    channels = slice(unit * size, (unit + 1) * size)
    _spoil(block.convs[first].kernel, ..., channels)
    for weight in block.norms[first].weights:
        _spoil(weight, channels)
    _spoil(block.convs[first + 1].kernel, slice(None), slice(None), channels)


def _runs(decisions, block, mask, unit):
    """Per image: whether what a unit makes is computed and read, says Keras."""
    keys = [f"{block}/channel", f"{block}/channel_2"]
    runs = decisions[keys[mask]][:, unit] > 0
    if mask == 0 and keys[1] in decisions:  # read by the second mask's open groups
        runs &= (decisions[keys[1]] > 0).any(-1)
    return runs


@pytest.mark.parametrize(
    "kind",
    [
        "basic channels",
        "basic layers and channels",
        "bottleneck layers and channels",
        "last layers and channels",
    ],
)
def test_what_is_skipped_is_not_executed(tmp_path, exported, kind):
    """NaN in one group of block 1 and in block 2's layer: seen where they run, only."""
    _, x, _, decisions, _, clean = exported(kind)
    model = lc_net(kind, x)
    block1, block2 = model.get_layer("block1"), model.get_layer("block2")
    reached = np.zeros(len(x), bool)
    if block2.layer_gate is not None:
        _poison_layer(block2)
        reached |= decisions["block2/layer"][:, 0] > 0
    if block1.channel_gate is not None:
        for mask in range(block1.masks):
            _poison_group(block1, mask, unit=mask)
            reached |= _runs(decisions, "block1", mask, unit=mask)
    kd.export_tflite(model, tmp_path / "nan.tflite", parity_data=False)
    poisoned = kd.LiteRTModel(tmp_path / "nan.tflite")
    assert 0 < reached.sum() < len(x), "the test must see both"
    for image, is_reached in zip(x, reached, strict=True):
        found = poisoned.run("classify", image=image)
        if is_reached:
            assert np.isnan(found["logits"]).any()
            continue
        expected = clean.run("classify", image=image)
        np.testing.assert_array_equal(found["logits"], expected["logits"])
        assert found["executed_macs"] == expected["executed_macs"]


def test_a_block_skipped_for_all_is_its_shortcut(tmp_path):
    image = x = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 64, -2.0)(x)
    never = dict(bias_initializer=-0.5)
    for name, kind, filters, strides in (
        ("identity", kd.GatedBasicBlock, 3, 1),
        ("projection", kd.GatedBottleneckBlock, 2, 2),
    ):
        x = kind(
            filters,
            strides=strides,
            channel_gate="salience",
            layer_gate=kd.SalienceController(1, **never),
            name=name,
        )(x)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    block = model.get_layer("projection")
    norm = {}
    for weight in block.shortcut_norm.weights:
        norm[weight.name] = rng.uniform(0.5, 1.5, 8)
        weight.assign(norm[weight.name])
    for name in ("identity", "projection"):
        _poison_layer(model.get_layer(name))
    report = kd.export_tflite(model, tmp_path / "a.tflite", parity_data=False)
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    kernel = keras.ops.convert_to_numpy(block.shortcut_conv.kernel)[0, 0]
    controllers = sum(
        row.macs for row in report.macs.layers if row.name.endswith("r_gate")
    )
    for picture in tinted(4):
        h = np.maximum(picture.astype("float64") / 64 - 2, 0)
        h = h[::2, ::2] @ kernel
        h = (h - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-5)
        h = np.maximum(h * norm["gamma"] + norm["beta"], 0)
        found = litert.run("explain", image=picture)
        np.testing.assert_allclose(found["logits"][0], h.mean((0, 1)), rtol=1e-5)
        macs = controllers + 6 * 6 * 3 * 8
        assert abs(found["executed_macs"][0] - macs / 1000) <= 0.5
        for name in ("identity/channel", "projection/channel", "projection/channel_2"):
            assert not found[name].any()


@pytest.mark.parametrize("quantization", ["dynamic", "int8"])
@pytest.mark.parametrize("block", BLOCKS)
def test_quantized_files_stay_close(tmp_path, exported, block, quantization):
    model, x, _, _, full, _ = exported(f"{block} layers and channels")
    path = tmp_path / "a.tflite"
    report = kd.export_tflite(
        model, path, quantization=quantization, representative_data=x, parity_data=x
    )
    dynamic = quantization == "dynamic"
    assert report.parity.max_difference < (0.03 if dynamic else 0.1)
    assert report.parity.argmax_agreement >= (1.0 if dynamic else 0.9)
    assert report.parity.decision_agreement > 0.95
    assert report.parity.max_score_difference < (0.04 if dynamic else 0.15)
    assert report.bytes < 0.7 * full.bytes
    assert only_builtins(path.read_bytes())
    if not dynamic:
        assert not float_kernels(flatbuffer.read(path.read_bytes()))


def test_a_layer_that_calibration_never_opens_still_opens(tmp_path):
    """Its score and what it scales need ranges all the same."""
    x = tinted(40)
    model = spread_gates(
        small_net(groups=None, layers=True, gate=kd.SalienceController), x
    )
    bias = model.get_layer("block2").layer_gate.dense.bias
    bias.assign(bias - np.median(kd.decide(model, x)["block2/layer"]))
    shut = kd.decide(model, x)["block2/layer"][:, 0] == 0
    assert 10 <= shut.sum() <= 30
    report = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization="int8",
        representative_data=x[shut],
        parity_data=x[~shut],
    )
    assert report.parity.decision_agreement > 0.9
    assert report.parity.max_difference < 0.2
