"""Blocks with saliences in a file: scores that decide, and scale what is run."""

import functools

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate._walk import dynamic_layers  # noqa: E402
from keras_dyngate.export.conversion import float_kernels  # noqa: E402
from tests.export.nets import (  # noqa: E402
    SHAPE,
    enliven,
    only_builtins,
    small_net,
    spread_saliences,
    tinted,
)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)

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
    return spread_saliences(net, x)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By kind: model, images, decisions in Keras, report and file."""

    @functools.cache
    def export(kind):
        x = tinted(16)
        model = lc_net(kind, x)
        path = tmp_path_factory.mktemp("salience") / "net.tflite"
        report = kd.export_tflite(model, path, parity_data=x)
        return model, x, kd.decide(model, x), report, kd.LiteRTModel(path)

    return export


@pytest.mark.parametrize("kind", KINDS)
def test_file_agrees_with_keras(exported, kind):
    model, x, decisions, report, litert = exported(kind)
    assert report.parity.max_difference < 1e-5
    assert report.parity.decision_agreement == 1.0
    assert report.parity.max_score_difference < 1e-5
    for name, scores in decisions.items():
        seen = [(scores == 0).any(), (scores == 1).any(), (scores % 1 > 0).any()]
        assert all(seen), f"the test must see all of {name}"

    assert only_builtins(litert.path.read_bytes())
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    for index, image in enumerate(x):
        found = litert.run("classify", image=image)
        assert abs(found["executed_macs"][0] - macs[index] / 1000) <= 1
        explained = litert.run("explain", image=image)
        assert set(explained) == {*found, *decisions}
        for name in decisions:
            assert explained[name].dtype == np.float32
            np.testing.assert_allclose(
                explained[name], decisions[name][index : index + 1], atol=1e-5
            )


@pytest.mark.parametrize("kind", KINDS)
def test_branches_hold_what_is_gated(exported, kind):
    model, _, _, report, _ = exported(kind)
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


def _runs(decisions, block, mask, unit, size):
    """Per image: whether the branch of one unit is run, by the decisions in Keras."""
    keys = [f"block{block}/channel", f"block{block}/channel_2"]
    mine = decisions[keys[mask]]
    group = unit // size * size
    is_open = (mine[:, group : group + size] > 0).any(-1)
    if keys[1] in decisions and mask == 0:  # what the first mask lets through is read
        is_open &= (decisions[keys[1]] > 0).any(-1)  # where the second is open
    return is_open


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_skipped_is_not_executed(tmp_path, exported, kind):
    """NaN in one group of block 1 and in block 2's layer: seen where they run, only."""
    _, x, decisions, report, clean = exported(kind)
    model = lc_net(kind, x)
    block1, block2 = model.get_layer("block1"), model.get_layer("block2")
    reached = np.zeros(len(x), bool)
    if block2.layer_gate is not None:
        _poison_layer(block2)
        reached |= decisions["block2/layer"][:, 0] > 0
    if block1.channel_gate is not None:
        size = report.group_sizes["block1"] // block1.group_size  # units per branch
        for mask in range(block1.masks):
            _poison_group(block1, mask, unit=mask)
            reached |= _runs(decisions, 1, mask, mask, size)
    kd.export_tflite(model, tmp_path / "nan.tflite")
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
    report = kd.export_tflite(model, tmp_path / "a.tflite")
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    kernel = keras.ops.convert_to_numpy(block.shortcut_conv.kernel)[0, 0]
    controllers = sum(row.macs for row in report.macs.layers if row.name.endswith("r_gate"))
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
    model, x, _, full, _ = exported(f"{block} layers and channels")
    path = tmp_path / "a.tflite"
    report = kd.export_tflite(
        model, path, quantization=quantization, representative_data=x, parity_data=x
    )
    print(block, quantization, report.parity, report.bytes / full.bytes)
    content = path.read_bytes()
    assert only_builtins(content)
    if quantization == "int8":
        assert not float_kernels(content)


def test_a_layer_that_calibration_never_opens_still_opens(tmp_path):
    """Its score and what it scales need ranges all the same."""
    x = tinted(40)
    model = spread_saliences(
        small_net(groups=None, layers=True, gate=kd.SalienceController), x
    )
    shut = kd.decide(model, x)["block2/layer"][:, 0] == 0
    assert 8 <= shut.sum() <= 32
    report = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization="int8",
        representative_data=x[shut],
        parity_data=x[~shut],
    )
    print(report.parity)
    assert report.parity.decision_agreement > 0.9
    assert report.parity.max_difference < 0.2
