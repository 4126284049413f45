import inspect

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models import efficientnet_lite
from tests import reference
from tests.stubs import images, outputs

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("module_numpy_initializers"),
]

# Kernel, channels in, wide, out, strides: every block of Lite0, written out.
LITE0 = [
    (3, 32, 32, 16, 1),
    (3, 16, 96, 24, 2),
    (3, 24, 144, 24, 1),
    (5, 24, 144, 40, 2),
    (5, 40, 240, 40, 1),
    (3, 40, 240, 80, 2),
    (3, 80, 480, 80, 1),
    (3, 80, 480, 80, 1),
    (5, 80, 480, 112, 1),
    (5, 112, 672, 112, 1),
    (5, 112, 672, 112, 1),
    (5, 112, 672, 192, 2),
    (5, 192, 1152, 192, 1),
    (5, 192, 1152, 192, 1),
    (5, 192, 1152, 192, 1),
    (3, 192, 1152, 320, 1),
]
SMALL = {"input_shape": (40, 34, 3), "classes": 5, "classifier_activation": None}


def torch_arrays(classes, seed=0):
    """Lite0 with random weights, as the PyTorch package would save it."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def conv(name, *shape):
        scale = (2.0 / np.prod(shape[1:])) ** 0.5
        arrays[f"{name}.weight"] = rng.normal(0, scale, shape).astype("float32")

    def norm(name, channels):
        for part, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            value = rng.uniform(low, high, channels)
            arrays[f"{name}.{part}"] = value.astype("float32")
        arrays[f"{name}.num_batches_tracked"] = np.array(7)

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for index, (size, channels, wide, out, _) in enumerate(LITE0):
        name = f"_blocks.{index}"
        if wide != channels:
            conv(f"{name}._expand_conv", wide, channels, 1, 1)
            norm(f"{name}._bn0", wide)
        conv(f"{name}._depthwise_conv", wide, 1, size, size)
        norm(f"{name}._bn1", wide)
        conv(f"{name}._project_conv", out, wide, 1, 1)
        norm(f"{name}._bn2", out)
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    arrays["_fc.weight"] = rng.normal(0, 0.1, (classes, 1280)).astype("float32")
    arrays["_fc.bias"] = rng.normal(0, 0.5, classes).astype("float32")
    return arrays


@pytest.fixture(scope="module")
def arrays():
    return torch_arrays(5)


@pytest.fixture(scope="module")
def npz(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite0.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def lite0(npz):
    return kd.efficientnet_lite0(weights=npz, **SMALL)


class TestNpz:
    def test_computes_what_numpy_does(self, lite0, arrays):
        x = images(2, 40, 34, 3)
        expected = reference.efficientnet_lite(
            x, arrays, [block[-1] for block in LITE0]
        )
        found, scale = outputs(lite0, x), np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=2e-5)
        assert np.ptp(found, axis=0).max() > 1e-2 * scale

    def test_gated_with_all_open_is_the_plain_net(self, lite0, npz):
        gated = kd.gated_efficientnet_lite0(
            weights=npz, gates=kd.Gates(groups=2, layer="binary"), **SMALL
        )
        x = images(2, 40, 34, 3)
        expected = outputs(lite0, x)
        with kd.force_open_rate(gated, 1.0):
            np.testing.assert_allclose(
                outputs(gated, x), expected, rtol=1e-4, atol=1e-4
            )
        held = [x for x in gated.layers if isinstance(x, kd.GatedInvertedResidual)]
        assert [x.channel_gate.units for x in held] == [2] * 15
        assert sum(x.layer_gate is not None for x in held) == 9

    def test_other_classes(self, npz, lite0):
        with pytest.warns(
            UserWarning, match="lite0.npz has a classifier for 5 classes"
        ):
            other = kd.efficientnet_lite0(weights=npz, **{**SMALL, "classes": 3})
        for ours, theirs in zip(other.weights[:-2], lite0.weights, strict=False):
            np.testing.assert_array_equal(
                *(keras.ops.convert_to_numpy(w) for w in (ours, theirs))
            )

    def test_another_size(self, npz):
        message = (
            r"lite0.npz is of another architecture: '_blocks.3._depthwise_conv.weight' "
            r"must have shape \(144, 1, 3, 3\). Received: \(144, 1, 5, 5\)"
        )
        with pytest.raises(ValueError, match=message):
            kd.efficientnet_lite1(weights=npz, **SMALL)


def test_lite0_is_counted_by_hand():
    height, total = 112, 112 * 112 * 27 * 32
    for size, channels, wide, out, strides in LITE0:
        if wide != channels:
            total += height**2 * channels * wide
        height //= strides
        total += height**2 * wide * (size**2 + out)
    total += 49 * 320 * 1280 + 1280 * 1000
    model = kd.efficientnet_lite0()
    assert kd.count_macs(model).total == total == 385_187_552
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trained == 4_652_008


SIZES = {  # blocks and channels per stage, side of the images, dropout
    0: ([1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320], 224, 0.2),
    1: ([1, 3, 3, 4, 4, 5, 1], [16, 24, 40, 80, 112, 192, 320], 240, 0.2),
    2: ([1, 3, 3, 4, 4, 5, 1], [16, 24, 48, 88, 120, 208, 352], 260, 0.3),
    3: ([1, 3, 3, 5, 5, 6, 1], [24, 32, 48, 96, 136, 232, 384], 280, 0.3),
    4: ([1, 4, 4, 6, 6, 8, 1], [24, 32, 56, 112, 160, 272, 448], 300, 0.3),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["", "gated_"])
def test_sizes(monkeypatch, kind, size):
    asked = {}

    def build(stem, stages, head, **arguments):
        asked.update(arguments, stages=stages, ends=(stem, head))

    monkeypatch.setattr(efficientnet_lite, "build_inverted_residuals", build)
    make = getattr(kd, f"{kind}efficientnet_lite{size}")
    make(classes=3, pooling="max", input_shape=(8, 8, 3), include_top=False)
    blocks, widths, side, rate = SIZES[size]
    assert [stage.blocks for stage in asked["stages"]] == blocks
    assert [stage.filters for stage in asked["stages"]] == widths
    assert asked["ends"] == (32, 1280)
    assert (asked["side"], asked["dropout_rate"]) == (side, rate)
    assert asked["name"] == f"{kind}efficientnet_lite{size}"
    assert asked["gates"] == (kd.Gates() if kind else None)
    assert (asked["classes"], asked["pooling"]) == (3, "max")
    assert asked["input_shape"] == (8, 8, 3) and asked["include_top"] is False
    make(weights="net.npz", classifier_activation=None, include_preprocessing=False)
    assert asked["weights"] == "net.npz" and asked["include_preprocessing"] is False
    assert asked["classifier_activation"] is None


def test_a_larger_one():
    model = kd.efficientnet_lite2(classes=3)
    assert model.input_shape == (None, 260, 260, 3)
    assert model.output_shape == (None, 3)
    assert (
        len([x for x in model.layers if isinstance(x, kd.GatedInvertedResidual)]) == 20
    )


def test_signatures():
    gated = inspect.signature(kd.gated_efficientnet_lite3).parameters
    plain = inspect.signature(kd.efficientnet_lite3).parameters
    assert list(gated) == [*plain, "gates"]
    assert gated["gates"].default == kd.Gates()
    model = kd.efficientnet_lite3(input_shape=(32, 32, 3), classes=3)
    assert model.name == "efficientnet_lite3"
    rates = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.3]
    with pytest.raises(ValueError, match="`gates` must be .*Received: gates='binary'"):
        kd.gated_efficientnet_lite0(gates="binary")
    with pytest.raises(ValueError, match="`dropout_rate` must be .*dropout_rate=-1"):
        kd.efficientnet_lite0(dropout_rate=-1, **SMALL)
    with pytest.raises(ValueError, match="`groups` must divide the 144 chan.*'stage2_"):
        kd.gated_efficientnet_lite0(gates=kd.Gates(groups=32), **SMALL)
