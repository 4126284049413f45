"""Segmentation nets against NumPy, SciPy, and the classifier that lends its trunk."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import map_coordinates

import keras_dyngate as kd
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.layers import GatedBottleneckBlock
from keras_dyngate.models.pspnet import apply_pyramid
from keras_dyngate.models.resnet import ARCHITECTURES, Architecture
from tests import reference
from tests.stubs import images, outputs, randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("numpy_initializers", "tiny"),
]

SMALL = {"input_shape": (50, 67, 3), "width": 1 / 32}
NET = {**SMALL, "classes": 5, "bins": (1, 2)}
GATED = {**NET, "gates": kd.Gates(layer="binary", groups=2)}
TINY = Architecture(
    (1, 1, 2, 2), GatedBottleneckBlock, (64, 128, 256, 512), "imagenet", "projection"
)
to_numpy = ops.convert_to_numpy


@pytest.fixture(name="tiny")
def _tiny(monkeypatch):
    """A net of 20 convolutions under the name of depth 50, since JAX compiles each."""
    monkeypatch.setitem(ARCHITECTURES, 50, TINY)


def resized(x, height, width):
    """Linear between the centres of pixels, constant beyond the outermost."""
    rows = (np.arange(height) + 0.5) * x.shape[1] / height - 0.5
    columns = (np.arange(width) + 0.5) * x.shape[2] / width - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    y = np.empty((len(x), height, width, x.shape[-1]))
    for n in range(len(x)):
        for c in range(x.shape[-1]):
            y[n, ..., c] = map_coordinates(x[n, ..., c], grid, order=1, mode="nearest")
    return y


def convolved(model, name, x):
    """A layer `<name>_conv` with its BN and ReLU, in NumPy."""
    norm = model.get_layer(f"{name}_bn")
    names = ("weight", "bias", "running_mean", "running_var")
    variables = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    weights = {f"n.{n}": to_numpy(v) for n, v in zip(names, variables, strict=True)}
    kernel = to_numpy(model.get_layer(f"{name}_conv").kernel).transpose(3, 2, 0, 1)
    return reference.relu(reference.batch_norm(reference.conv(x, kernel), weights, "n"))


def pyramid(model, x, bins):
    """`x` beside the averages over its grids, each convolved and resized."""
    height, width = x.shape[1:3]
    maps = [x]
    for n in bins:
        step = height // n, width // n
        size = height - (n - 1) * step[0], width - (n - 1) * step[1]
        cells = np.empty((len(x), n, n, x.shape[-1]))
        for i in range(n):
            for j in range(n):
                top, left = i * step[0], j * step[1]
                part = x[:, top : top + size[0], left : left + size[1]]
                cells[:, i, j] = part.mean(axis=(1, 2))
        y = convolved(model, f"pyramid{n}", cells)
        maps.append(resized(y, height, width))
    return np.concatenate(maps, axis=-1)


@pytest.mark.parametrize(("height", "width"), [(13, 11), (6, 12)])
def test_pyramid(height, width):
    bins = (1, 2, 3, 6)
    x = keras.Input((height, width, 8))
    model = randomize(keras.Model(x, apply_pyramid(x, bins)))
    assert model.output_shape == (None, height, width, 8 + 4 * 2)
    x = images(2, height, width, 8) / 255
    expected = pyramid(model, x.astype("float64"), bins)
    np.testing.assert_allclose(outputs(model, x), expected, rtol=1e-4, atol=1e-5)


def test_from_the_trunk_to_the_pixels():
    """Pyramid, 3x3 convolution, classifier, interpolation: all after the trunk."""
    model = randomize(kd.pspnet50(**NET))
    trunk = model.get_layer("stage4_block2").output
    assert tuple(trunk.shape) == (None, 7, 9, 64)
    parts = keras.Model(model.input, [trunk, model.output])
    features, logits = map(to_numpy, parts(images(2, 50, 67, 3), training=False))
    x = convolved(model, "head", pyramid(model, features.astype("float64"), (1, 2)))
    assert x.shape == (2, 7, 9, 16)
    classifier = model.get_layer("head_classifier")
    x = x @ to_numpy(classifier.kernel)[0, 0] + to_numpy(classifier.bias)
    assert logits.dtype == np.float32
    expected = resized(x, 50, 67)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (50, 67)])
def test_the_trunk_computes_what_the_classifier_does(size):
    """Every fourth place of the dilated trunk's map is the classifier's map."""
    shape = {"input_shape": (*size, 3), "width": 1 / 32}
    resnet = randomize(kd.resnet50(include_top=False, **shape))
    model = kd.pspnet50(**{**NET, **shape})
    assert kd.load_trunk_weights(model, resnet) is model
    blocks = list(dynamic_layers(model))
    assert [block.name for block in blocks] == [b.name for b in dynamic_layers(resnet)]
    assert [block.dilation_rate for block in blocks] == [1, 1, 1, 2, 2, 4]
    assert [block.strides for block in blocks] == [1, 2, 1, 1, 1, 1]
    trunk = keras.Model(model.input, blocks[-1].output)
    x = images(1, *size, 3)
    found, expected = outputs(trunk, x), outputs(resnet, x)
    assert found.shape[1:3] == tuple(-(-side // 8) for side in size)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found[:, ::4, ::4] / scale, expected / scale, atol=1e-5)


def test_gates_decide_and_cost():
    """The trunk's MACs by hand: stages 3 and 4 keep the map of stage 2."""
    model = randomize(kd.gated_pspnet50(**{**NET, "gates": kd.Gates(groups=2)}))
    profile = kd.count_macs(model)
    first, later = 13 * 17, 7 * 9  # places of the maps: of a quarter, of an eighth
    stem = 25 * 34 * 49 * 3 * 2
    stages = [
        first * (2 * 2 + 9 * 2 * 2 + 2 * 8 + 2 * 8),
        first * 8 * 4 + later * (9 * 4 * 4 + 4 * 16 + 8 * 16),
        later * (16 * 8 + 9 * 8 * 8 + 8 * 32 + 16 * 32),
        later * (32 * 8 + 9 * 8 * 8 + 8 * 32),
        later * (32 * 16 + 9 * 16 * 16 + 16 * 64 + 32 * 64),
        later * (64 * 16 + 9 * 16 * 16 + 16 * 64),
    ]
    cells = (1 + 4) * 64 * 32
    head = later * (9 * (64 + 64) * 16 + 16 * 5)
    assert profile.total == stem + sum(stages) + cells + head
    x = images(3, 50, 67, 3)
    assert kd.summary(model, print_fn=lambda text: None) == profile
    shortcuts = first * 16 + later * (8 * 16 + 16 * 32 + 32 * 64)
    assert profile.ungated == stem + shortcuts + cells + head
    ends = {0.0: profile.ungated, 1.0: profile.total}
    for rate in (0.0, 1.0):
        with kd.force_open_rate(model, rate):
            decisions = kd.decide(model, x)
        assert decisions["stage4_block2/channel_2"].shape == (3, 2)
        assert profile.of(decisions).tolist() == [ends[rate] + profile.controllers] * 3


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # within `warns`
def test_files(tmp_path):
    """A file of its own fills a net; of a classifier, or other classes, what fits."""
    model = randomize(kd.gated_pspnet50(**GATED))
    x = images(1, 50, 67, 3)
    expected = outputs(model, x)
    path = tmp_path / "net.keras"
    model.save(path)
    np.testing.assert_array_equal(outputs(keras.saving.load_model(path), x), expected)
    again = kd.gated_pspnet50(weights=path, **GATED)
    np.testing.assert_array_equal(outputs(again, x), expected)

    with pytest.warns(UserWarning, match="'head_classifier' of .* keeps its new wei"):
        other = kd.pspnet50(weights=path, **{**NET, "classes": 3})
    assert other.output_shape[-1] == 3
    for name in ("head_conv", "pyramid2_conv", "conv1"):
        theirs, ours = other.get_layer(name).kernel, model.get_layer(name).kernel
        np.testing.assert_array_equal(to_numpy(theirs), to_numpy(ours))
    with pytest.raises(ValueError, match="'pyramid3_conv.kernel' must have shape.*no "):
        kd.pspnet50(weights=path, **{**NET, "bins": (1, 3)})
    with pytest.raises(FileNotFoundError, match="`weights` must be a file"):
        kd.pspnet50(weights=tmp_path / "none.keras", **NET)


def test_the_trunk_of_a_classifier(tmp_path):
    resnet = randomize(kd.resnet50(classes=7, **SMALL))
    resnet.save(tmp_path / "trunk.keras")
    model = kd.gated_pspnet50(weights=tmp_path / "trunk.keras", **GATED)
    for ours, theirs in zip(dynamic_layers(model), dynamic_layers(resnet), strict=True):
        for part in ("convs", "norms"):
            for a, b in zip(getattr(ours, part), getattr(theirs, part), strict=True):
                for one, other in zip(a.weights, b.weights, strict=True):
                    np.testing.assert_array_equal(to_numpy(one), to_numpy(other))
    arrays = {
        f"{name}.weight": np.ones((1, 1, 1, 1)) for name in ("conv1", "layer1.0.conv1")
    }
    np.savez(tmp_path / "trunk.npz", **arrays)
    with pytest.raises(ValueError, match="trunk.npz is of another architecture"):
        kd.pspnet50(weights=tmp_path / "trunk.npz", **NET)


def test_packed_blocks_keep_their_dilation():
    options = {**NET, "width": 1 / 16}
    model = randomize(kd.gated_pspnet50(**options))
    x = images(4, 50, 67, 3)
    packed, report = kd.pack_channels(model, x, 2)
    rates = [block.dilation_rate for block in dynamic_layers(packed)]
    assert rates == [1, 1, 1, 2, 2, 4]
    assert report.max_difference < 1e-4 and report.decision_agreement == 1.0


def test_auxiliary_head():
    """One step on both outputs, and the net that was given has moved."""
    model = kd.pspnet50(**NET)
    training = kd.add_auxiliary_head(model)
    assert training.output["aux"].shape == (None, 50, 67, 5)
    assert kd.count_macs(model).total < kd.count_macs(training).total
    assert "aux_classifier" not in [layer.name for layer in model.layers]
    loss = kd.SegmentationCrossentropy()
    training.compile(
        keras.optimizers.SGD(0.1),
        loss={"logits": loss, "aux": loss},
        loss_weights={"logits": 1.0, "aux": 0.4},
    )
    maps = np.random.default_rng(0).integers(0, 5, (2, 50, 67))
    before = [to_numpy(v).copy() for v in model.trainable_variables]
    history = training.fit(
        images(2, 50, 67, 3), {"logits": maps, "aux": maps}, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(
        history["logits_loss"][0] + 0.4 * history["aux_loss"][0], rel=1e-5
    )
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert (to_numpy(variable) != old).any(), variable.path
    with pytest.raises(ValueError, match="`model` must be a segmentation net"):
        kd.add_auxiliary_head(kd.resnet50(**SMALL))


def test_logits_of_a_net_with_softmax():
    """Probabilities for the user; its auxiliary twin still puts out logits."""
    model = randomize(kd.pspnet50(classifier_activation="softmax", **NET))
    x = images(1, 50, 67, 3)
    found = outputs(model, x)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    logits = to_numpy(kd.add_auxiliary_head(model)(x, training=False)["logits"])
    np.testing.assert_allclose(
        to_numpy(ops.softmax(logits)), found, rtol=1e-4, atol=1e-6
    )


def test_mixed_precision(dtype_policy):
    dtype_policy("mixed_bfloat16")
    model = kd.gated_pspnet50(**GATED)
    assert model.get_layer("head_conv").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    logits = model(images(1, 50, 67, 3), training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(to_numpy(logits)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": (1, 8)}, r"large enough.*8x8.*Received: bins=\(1, 8\) on .* 7x9"),
        ({"bins": (1, 1)}, "`bins` must be one or more different integers"),
        ({"bins": ()}, "`bins` must be one or more different integers"),
        ({"bins": (0,)}, "`bins` must be a positive integer"),
        ({"input_shape": (None, 64, 3)}, "`input_shape` must have a known height"),
        ({"classes": 0}, "`classes` must be a positive integer"),
        ({"width": 0}, "`width` must be positive"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        kd.pspnet50(**{**NET, **change})


def test_constructors():
    for make in (kd.pspnet50, kd.pspnet101, kd.gated_pspnet50, kd.gated_pspnet101):
        gated = make.__name__.startswith("gated_")
        arguments = inspect.signature(make).parameters
        assert ("gates" in arguments) is gated is ("gates: " in make.__doc__)
        assert arguments["input_shape"].default == (713, 713, 3)
        assert arguments["classes"].default == 19
    resnet = inspect.signature(kd.gated_resnet50).parameters
    assert set(inspect.signature(kd.gated_pspnet50).parameters) <= {"bins", *resnet}
    assert kd.gated_pspnet50(**NET).name == "gated_pspnet50"
    assert kd.pspnet50(name="scene", **NET).name == "scene"
    with pytest.raises(TypeError, match=r"pspnet\(\) got .*'gate_groups'"):
        kd.pspnet50(gate_groups=2)
