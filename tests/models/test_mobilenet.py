import inspect

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.weight_files import load_weights
from keras_dyngate.models.weights import trunk_slots
from tests.stubs import images, outputs, randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("module_numpy_initializers"),
]
theirs_takes = keras.applications.mobilenet_v2.preprocess_input
to_numpy = keras.ops.convert_to_numpy
SMALL = {"alpha": 0.25, "input_shape": (41, 38, 3), "classes": 7}


def lively(model):
    """Random weights through which a difference of the input reaches the end."""
    randomize(model)
    for weight in model.weights:
        if "depthwise" in weight.path and len(weight.shape) == 4:
            weight.assign(weight * weight.shape[2] ** 0.5)  # each has one input alone
    return model


def of_keras(**arguments):
    return lively(keras.applications.MobileNetV2(weights=None, **arguments))


@pytest.fixture(scope="module")
def theirs(module_numpy_initializers):
    """At this width the first block has a shortcut; sides are odd and even."""
    return of_keras(**SMALL)


def of_small(classes, alpha=0.25):
    """What a builder has at hand to read files of keras.applications."""
    return keras.applications.MobileNetV2(
        (32, 32, 3), alpha, weights=None, classes=classes
    )


@pytest.fixture(scope="module")
def ours(module_numpy_initializers):
    return kd.mobilenet_v2(**SMALL)


@pytest.fixture(scope="module")
def files(theirs, tmp_path_factory):
    """What keras.applications' net writes, in each form."""
    folder = tmp_path_factory.mktemp("weights")
    theirs.save_weights(folder / "net.weights.h5")
    theirs.save(folder / "net.keras")
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Keras warns of the form; it is what its own weights come in.
        monkeypatch.setattr("absl.logging.warning", lambda *_: None)
        theirs.save(folder / "net.h5")
    return folder


def assert_same(model, theirs):
    height, width, _ = model.input_shape[1:]
    x = images(2, height, width, 3)
    expected = to_numpy(theirs(theirs_takes(x.copy()), training=False))
    found = outputs(model, x)
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-4 * scale
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # within `warns`
class TestAsInKeras:
    def test_wider(self):
        """So wide that the last convolution is wider too."""
        arguments = {"alpha": 1.3, "input_shape": (32, 32, 3), "classes": 3}
        theirs = keras.applications.MobileNetV2(weights=None, **arguments)
        ours = kd.load_trunk_weights(kd.mobilenet_v2(**arguments), theirs)
        found, expected = trunk_slots(ours), trunk_slots(theirs)
        assert list(found) == list(expected) and len(found) == len(theirs.weights)
        assert found["_conv_head.weight"].shape == (1, 1, 416, 1664)
        for name, weight in found.items():
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected[name]))

    def test_from_a_file(self, files, theirs):
        assert_same(kd.mobilenet_v2(weights=files / "net.weights.h5", **SMALL), theirs)

    @pytest.mark.parametrize("name", ["net.keras", "net.h5"])
    def test_from_other_files(self, files, theirs, ours, name):
        randomize(ours, seed=1)
        load_weights(ours, files / name, of_small)
        assert_same(ours, theirs)

    def test_without_the_top(self, tmp_path):
        bare = of_keras(**SMALL, include_top=False, pooling="avg")
        bare.save_weights(tmp_path / "bare.weights.h5")
        with pytest.warns(UserWarning, match="bare.weights.h5 has no classifier"):
            found = kd.mobilenet_v2(weights=tmp_path / "bare.weights.h5", **SMALL)
        assert_same(keras.Model(found.input, found.get_layer("avg_pool").output), bare)

    def test_other_classes(self, files, theirs):
        with pytest.warns(
            UserWarning, match="net.weights.h5 has a classifier for 7 cl"
        ):
            model = kd.mobilenet_v2(
                weights=files / "net.weights.h5", **{**SMALL, "classes": 1000}
            )
        features = [
            keras.Model(net.input, net.get_layer("predictions").input)
            for net in (model, theirs)
        ]
        assert_same(*features)

    def test_gated_with_all_open(self, theirs):
        gates = kd.Gates(groups=2, layer="binary")
        gated = kd.gated_mobilenet_v2(gates=gates, **SMALL)
        kd.load_trunk_weights(gated, theirs)
        with kd.force_open_rate(gated, 1.0):
            assert_same(gated, theirs)
        x = images(2, 41, 38, 3)
        with kd.force_open_rate(gated, 0.0):
            shut = outputs(gated, x)
        assert (abs(shut - outputs(gated, x)) > 1e-4).any()


@pytest.fixture
def refuse(ours):
    """What loading a file says; the net stays as it is."""
    before = ours.get_weights()

    def load(path, message, theirs=of_small):
        with pytest.raises(ValueError, match=message):
            load_weights(ours, path, theirs)
        for a, b in zip(before, ours.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    return load


class TestRefused:
    def test_another_width(self, files, refuse):
        message = "net.weights.h5 is not of 'mobilenetv2_0.50_32' of keras.applications"
        refuse(files / "net.weights.h5", message, lambda _: of_small(7, 0.5))

    @pytest.mark.parametrize("keep", [0, 3000])
    def test_damaged(self, files, tmp_path, refuse, keep):
        path = tmp_path / "net.weights.h5"
        path.write_bytes((files / path.name).read_bytes()[:keep])
        refuse(path, "readable HDF5 file. Received: .*weights.h5")

    def test_no_numbers(self, theirs, tmp_path, refuse):
        kernel = theirs.get_layer("block_3_expand").kernel
        before = np.array(to_numpy(kernel))
        kernel.assign(np.full(kernel.shape, np.nan))
        theirs.save_weights(tmp_path / "net.weights.h5")
        kernel.assign(before)
        path = tmp_path / "net.weights.h5"
        refuse(path, "finite .*'_blocks.3._expand_conv.weight'")

    def test_another_kind(self, tmp_path, refuse):
        (tmp_path / "net.pth").touch()
        refuse(tmp_path / "net.pth", ".keras, .weights.h5, .npz or .h5 file. Received")
        resnet = kd.resnet20(input_shape=(8, 8, 3), width=0.25)
        resnet.save(tmp_path / "net.keras")
        refuse(tmp_path / "net.keras", "net.keras is of another architecture")


def test_counts():
    total = 300_774_272  # by the table of the paper; 300 M there
    gated = kd.gated_mobilenet_v2(gates=kd.Gates(layer="binary"))
    profile = kd.count_macs(gated)
    assert profile.total == total
    held = [x for x in gated.layers if isinstance(x, kd.GatedInvertedResidual)]
    assert len(held) == 16
    assert [x.channel_gate.units for x in held[:4]] == [96, 144, 144, 192]
    alone = [x.name for x in held if x.layer_gate is None]
    assert alone == [f"stage{n}_block1" for n in range(2, 8)]

    def share(key):
        rows = [row for row in profile.layers if not row.controller]
        keys = [[gating.key for gating in row.gatings] for row in rows]
        macs = [r.macs for r, under in zip(rows, keys, strict=True) if key in under]
        return round(sum(macs) / total, 3)

    assert (share("channel"), share("layer")) == (0.86, 0.515)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0}, "`alpha` must be a number above 0. Received: alpha=0"),
        ({"pooling": "sum"}, "`pooling` must be None, 'avg' or 'max'. Received: pool"),
        ({"classes": 0}, "`classes` must be a positive integer. Received: classes=0"),
        ({"input_shape": (8, 8)}, r"`input_shape` must be .*Received: .*\(8, 8\)"),
        ({"gates": "binary"}, "`gates` must be a `Gates` or None. Received: gates='b"),
        ({"dropout_rate": 2}, "`dropout_rate` must be a number from 0 to 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.gated_mobilenet_v2(**{**SMALL, **arguments})


def test_signature():
    gated = inspect.signature(kd.gated_mobilenet_v2).parameters
    plain = inspect.signature(kd.mobilenet_v2).parameters
    assert list(gated) == [*plain, "gates"]
    assert gated["gates"].default == kd.Gates()
    assert plain["name"].default == "mobilenet_v2"
