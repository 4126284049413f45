import inspect
import re

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.densenet import build_densenet
from tests import reference
from tests.stubs import images, outputs, randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("module_numpy_initializers"),
]

PREACTIVATED = ("bn1", "conv1", "bn2", "conv2")


def tiny(blocks=(2, 1), growth=4, **arguments):
    return build_densenet(
        blocks, growth, **{"stem": "cifar", "input_shape": (8, 8, 3), **arguments}
    )


def torchvision_arrays(blocks, growth, classes, seed=0):
    """A random net as torchvision names it, built by hand."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def conv(name, *shape):
        scale = (2.0 / np.prod(shape[1:])) ** 0.5
        arrays[f"features.{name}.weight"] = rng.normal(0, scale, shape)

    def norm(name, channels):
        for part, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            arrays[f"features.{name}.{part}"] = rng.uniform(low, high, channels)

    channels = 2 * growth
    conv("conv0", channels, 3, 7, 7)
    norm("norm0", channels)
    for number, layers in enumerate(blocks, 1):
        for index in range(1, layers + 1):
            name = f"denseblock{number}.denselayer{index}"
            norm(f"{name}.norm1", channels)
            conv(f"{name}.conv1", 4 * growth, channels, 1, 1)
            norm(f"{name}.norm2", 4 * growth)
            conv(f"{name}.conv2", growth, 4 * growth, 3, 3)
            channels += growth
        if number < len(blocks):
            norm(f"transition{number}.norm", channels)
            conv(f"transition{number}.conv", channels // 2, channels, 1, 1)
            channels //= 2
    norm("norm5", channels)
    arrays["classifier.weight"] = rng.normal(0, 0.5, (classes, channels))
    arrays["classifier.bias"] = rng.normal(0, 0.5, classes)
    return {name: value.astype("float32") for name, value in arrays.items()}


def macs_to(model, *names):
    """MACs from the image to the end of each of these layers."""
    return [
        kd.count_macs(keras.Model(model.input, model.get_layer(name).output)).total
        for name in names
    ]


@pytest.fixture(scope="module")
def cifar201(module_numpy_initializers):
    return kd.densenet201(stem="cifar")


@pytest.fixture(scope="module")
def imagenet121(module_numpy_initializers):
    return kd.densenet121()


class TestCounts:
    def test_cifar(self, cifar201):
        total = kd.count_macs(cifar201).total
        assert total == 1_363_888_896
        ends = macs_to(cifar201, "block1_out", "block2_out", "block3_out")
        assert [round(macs / total, 4) for macs in ends] == [0.2504, 0.4457, 0.8439]
        assert cifar201.input_shape == (None, 32, 32, 3)
        assert cifar201.output_shape == (None, 10)

    def test_imagenet(self):
        model = kd.densenet201()
        assert kd.count_macs(model).total == 4_291_365_888
        assert model.count_params() == 20_242_984
        assert model.output_shape == (None, 1000)

    def test_169(self):
        model = kd.densenet169()
        assert kd.count_macs(model).total == 3_359_843_328
        assert model.count_params() == 14_307_880

    def test_121(self, imagenet121):
        assert kd.count_macs(imagenet121).total == 2_834_161_664
        assert imagenet121.count_params() == 8_062_504
        assert imagenet121.name == "densenet121"


def test_shapes_of_the_blocks(cifar201):
    shapes = [cifar201.get_layer(f"block{b}_out").output.shape for b in (1, 2, 3, 4)]
    assert shapes == [
        (None, 32, 32, 256),
        (None, 16, 16, 512),
        (None, 8, 8, 1792),
        (None, 4, 4, 1920),
    ]


def test_same_net_as_keras_applications(imagenet121):
    theirs = keras.applications.DenseNet121(weights=None)
    shapes = [[tuple(w.shape) for w in m.weights] for m in (imagenet121, theirs)]
    assert shapes[0] == shapes[1]
    assert theirs.count_params() == 8_062_504


def test_same_outputs_as_keras_applications():
    arguments = {"include_top": False, "pooling": "avg", "input_shape": (32, 32, 3)}
    ours = randomize(kd.densenet121(include_preprocessing=False, **arguments))
    theirs = keras.applications.DenseNet121(weights=None, **arguments)
    theirs.set_weights(ours.get_weights())
    x = images(2, 32, 32, 3) / 255.0
    np.testing.assert_allclose(
        ours.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-3, atol=1e-3
    )


def test_names():
    model = tiny()
    names = [layer.name for layer in model.layers if layer.weights]
    assert names == [
        "conv1",
        "bn1",
        *(f"block1_layer{i}_{kind}" for i in (1, 2) for kind in PREACTIVATED),
        "transition1_bn",
        "transition1_conv",
        *(f"block2_layer1_{kind}" for kind in PREACTIVATED),
        "final_bn",
        "predictions",
    ]
    concats = [
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.Concatenate)
    ]
    assert concats == ["block1_layer1_concat", "block1_out", "block2_out"]
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-5, 0.9)}


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (None, 10)),
        ({"classes": 3}, (None, 3)),
        ({"stem": "imagenet", "input_shape": (32, 32, 3)}, (None, 1000)),
        ({"include_top": False}, (None, 4, 4, 12)),
        ({"include_top": False, "reduction": 1.0}, (None, 4, 4, 20)),
        ({"include_top": False, "pooling": "avg"}, (None, 12)),
        ({"include_top": False, "pooling": "max"}, (None, 12)),
        (
            {
                "include_top": False,
                "stem": "imagenet",
                "input_shape": (None, 30, 1),
                "include_preprocessing": False,
            },
            (None, None, 4, 12),
        ),
    ],
)
def test_heads_and_stems(arguments, shape):
    assert tiny(**arguments).output_shape == shape


def test_forward():
    model = randomize(tiny())
    x = images(3, 8, 8, 3)
    y = outputs(model, x)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(y, axis=0).max() > 1e-3
    raw = kd.load_trunk_weights(tiny(include_preprocessing=False), model)
    normal = (x / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(
        outputs(raw, normal.astype("float32")), y, rtol=1e-4, atol=1e-6
    )


class TestWeights:
    @pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
    def test_round_trip(self, tmp_path, suffix):
        path = tmp_path / f"net{suffix}"
        model = randomize(tiny())
        (model.save if suffix == ".keras" else model.save_weights)(path)
        found = tiny(weights=path)
        x = images(3, 8, 8, 3)
        np.testing.assert_array_equal(outputs(found, x), outputs(model, x))

    def test_whole_net(self, tmp_path):
        model = randomize(tiny())
        model.save(tmp_path / "net.keras")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        x = images(3, 8, 8, 3)
        np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))
        assert kd.count_macs(loaded) == kd.count_macs(model)

    @pytest.mark.filterwarnings("ignore:__array__ implementation")  # within `warns`
    def test_other_classes_keep_their_classifier(self, tmp_path):
        model = randomize(tiny())
        model.save(tmp_path / "net.keras")
        with pytest.warns(UserWarning, match="has a classifier for 10 classes"):
            found = tiny(classes=3, weights=tmp_path / "net.keras")
        for name in ("conv1", "block1_layer2_conv2", "transition1_conv", "final_bn"):
            for ours, theirs in zip(
                found.get_layer(name).get_weights(),
                model.get_layer(name).get_weights(),
                strict=True,
            ):
                np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("old", [False, True])
    def test_npz_of_torchvision(self, tmp_path, old):
        """`old`: as its files spell the layers, "norm.1" for "norm1"."""
        arrays = torchvision_arrays((2, 1), growth=4, classes=5)
        options = {"stem": "imagenet", "input_shape": (38, 44, 3), "classes": 5}
        named = arrays
        if old:
            pattern = r"(denselayer\d+\.(?:norm|conv))(\d)"
            named = {re.sub(pattern, r"\1.\2", n): v for n, v in arrays.items()}
        np.savez(tmp_path / "net.npz", **named)
        model = tiny(
            weights=tmp_path / "net.npz", classifier_activation=None, **options
        )
        x = images(2, 38, 44, 3)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        expected = reference.densenet(x, arrays, (2, 1), mean, std)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            outputs(model, x) / scale, expected / scale, rtol=0, atol=2e-5
        )
        name = f"features.denseblock1.denselayer2.conv{'.' if old else ''}1.weight"
        message = rf"'{name}' must have shape \(16, 12, 1, 1\). Received: \(2, 3\)"
        np.savez(tmp_path / "net.npz", **{**named, name: np.zeros((2, 3), "float32")})
        with pytest.raises(ValueError, match=message):
            tiny(weights=tmp_path / "net.npz", **options)

    def test_from_a_net_with_an_exit(self):
        model = randomize(tiny())
        x = model.get_layer("block1_out").output
        x = keras.layers.Conv2D(2, 1, name="exit_conv")(x)
        both = keras.Model(model.input, [x, model.output])
        found = kd.load_trunk_weights(tiny(), both)
        x = images(3, 8, 8, 3)
        np.testing.assert_array_equal(outputs(found, x), outputs(model, x))

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"growth": 2}, r"'conv1.weight' must .*3, 8\). Received: .*3, 4\)"),
            ({"blocks": (1, 1)}, "another architecture: 'block1_layer2_bn1.weight'"),
            (
                {"blocks": (3, 1)},
                "architecture: 'transition1_bn.weight' must have",
            ),
        ],
    )
    def test_another_architecture(self, other, message):
        with pytest.raises(ValueError, match=message):
            kd.load_trunk_weights(tiny(), tiny(**other))

    @pytest.mark.filterwarnings("ignore:Skipping nested container")
    def test_h5_of_another_net(self, tmp_path):
        path = tmp_path / "net.weights.h5"
        tiny().save_weights(path)
        with pytest.raises(ValueError, match="net.weights.h5 does not fit 'mine'"):
            tiny((3, 1), weights=path, name="mine")

    def test_a_resnet(self):
        resnet = kd.resnet20(input_shape=(8, 8, 3), width=0.25)
        with pytest.raises(ValueError, match="another architecture"):
            kd.load_trunk_weights(tiny(), resnet)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"stem": "mnist"},
            "`stem` must be one of 'imagenet', 'cifar'. Received: stem",
        ),
        ({"stem": None}, "`stem` must be one of .*stem=None"),
        ({"pooling": "sum"}, "`pooling` must be None, 'avg' or 'max'. Received: pool"),
        ({"classes": 0}, "`classes` must be a positive integer. Received: classes=0"),
        ({"input_shape": (8, 8)}, r"`input_shape` must be .*Received: .*\(8, 8\)"),
        ({"input_shape": (8, 8, None)}, "`input_shape` must be .*known channels"),
        ({"weights": "imagenet"}, "a .keras, .weights.h5 or .npz file. .*'imagenet'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.densenet121(**arguments)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="`weights` must be a file"):
        tiny(weights=tmp_path / "net.keras")


def test_signature():
    parameters = inspect.signature(kd.densenet169).parameters
    assert list(parameters)[:3] == ["stem", "include_top", "weights"]
    assert "growth" not in parameters and "blocks" not in parameters
    assert kd.densenet201.__doc__.startswith("DenseNet-201")
    assert kd.densenet121(stem="cifar").name == "densenet121"
    with pytest.raises(TypeError, match=r"densenet\(\) got .*'growth'"):
        kd.densenet121(growth=12)
    with pytest.raises(TypeError):
        kd.densenet121("cifar")


def test_channels_first_is_refused():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            tiny()
    finally:
        keras.config.set_image_data_format(before)
