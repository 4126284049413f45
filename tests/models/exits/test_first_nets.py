import keras
import numpy as np
import pytest

from keras_dyngate.cost import count_macs
from keras_dyngate.models.exits import first_nets
from keras_dyngate.models.exits.first_nets import automatic_size, first_net, small_net
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

layers = keras.layers
X = images(3, 8, 6, 3)


def small(shape=(4, 5, 3), classes=4):
    image = keras.Input(shape)
    x = layers.Conv2D(2, 3)(image) if len(shape) == 3 else image
    x = layers.Dense(classes)(layers.Flatten()(x))
    return randomize(keras.Model(image, x, name="small"))


def resized(x, height, width):
    """Bilinear, centres of pixels on centres, by loops; in float64."""
    found = np.zeros((len(x), height, width, x.shape[-1]))
    for row in range(height):
        for column in range(width):
            y = np.clip((row + 0.5) * x.shape[1] / height - 0.5, 0, x.shape[1] - 1)
            z = np.clip((column + 0.5) * x.shape[2] / width - 0.5, 0, x.shape[2] - 1)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, x.shape[1] - 1), min(z0 + 1, x.shape[2] - 1)
            a, b = y - y0, z - z0
            found[:, row, column] = (1 - a) * (
                (1 - b) * x[:, y0, z0] + b * x[:, y0, z1]
            ) + a * ((1 - b) * x[:, y1, z0] + b * x[:, y1, z1])
    return found


class TestFirstNet:
    def test_pictures_are_resized(self):
        net = small()
        body = first_net((None, 8, 6, 3), 4, net)
        assert body.input_shape == (None, 8, 6, 3) and body.name == "small_first"
        expected = outputs(net, resized(X.astype("float64"), 4, 5).astype("float32"))
        np.testing.assert_allclose(outputs(body, X), expected, rtol=1e-3, atol=1e-2)
        assert {id(w) for w in body.weights} == {id(w) for w in net.weights}
        assert count_macs(body).total == 2 * 3 * 27 * 2 + 12 * 4

    def test_larger_than_the_trunks(self):
        net = small((16, 6, 3))
        expected = outputs(net, resized(X.astype("float64"), 16, 6).astype("float32"))
        found = outputs(first_net((None, 8, 6, 3), 4, net), X)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)

    def test_of_the_trunks_size(self):
        net = small((8, 6, 3))
        body = first_net((None, 8, 6, 3), 4, net)
        assert not any(isinstance(x, layers.Resizing) for x in body.layers)
        np.testing.assert_array_equal(outputs(body, X), outputs(net, X))

    def test_of_any_size(self):
        image = keras.Input((None, None, 1))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
        body = first_net((None, 9, 9, 1), 4, keras.Model(image, x))
        assert len(body.layers) == 2 and body.output_shape == (None, 4)

    def test_vectors(self):
        net = small((6,))
        body = first_net((None, 6), 4, net)
        x = np.ones((2, 6), "float32")
        np.testing.assert_array_equal(outputs(body, x), outputs(net, x))

    @pytest.mark.parametrize(
        ("net", "message"),
        [
            (lambda: "small", "`first` must be a functional or Sequential classifier"),
            (
                lambda: keras.Sequential([layers.Dense(4)]),
                "one input and one output, bu",
            ),
            (
                lambda: small(classes=5),
                r"`first` must tell the trunk's 4 classes apart, .*Received: first='small' "
                r"with an output of shape \(None, 5\)",
            ),
            (
                lambda: keras.Sequential([keras.Input((8, 6, 3)), layers.Conv2D(4, 1)]),
                "`first` must tell the trunk's 4 classes apart",
            ),
            (
                lambda: small((4, 5, 1)),
                r"`first` must take inputs of the trunk's kind, \(None, 8, 6, 3\), .*"
                r"Received: first='small' for \(None, 4, 5, 1\)",
            ),
            (lambda: small((3,)), "`first` must take inputs of the trunk's kind"),
        ],
    )
    def test_refused(self, net, message):
        with pytest.raises(ValueError, match=message):
            first_net((None, 8, 6, 3), 4, net())

    def test_other_vectors(self):
        image = keras.Input((5, 4))
        net = keras.Model(image, layers.Dense(4)(layers.Flatten()(image)))
        with pytest.raises(
            ValueError, match=r"`first` must take inputs of shape \(7, 4"
        ):
            first_net((None, 7, 4), 4, net)


@pytest.fixture
def tiny(monkeypatch):
    """In MobileNetV2's place a net of a convolution; what it was asked for."""
    asked = []

    def mobile_net(input_shape, **arguments):
        asked.append((input_shape, arguments))
        image = keras.Input(input_shape)
        x = layers.BatchNormalization()(layers.Conv2D(2, 3, 32, use_bias=False)(image))
        return keras.Model(image, x, name=arguments["name"])

    monkeypatch.setattr(keras.applications, "MobileNetV2", mobile_net)
    return asked


class TestSmallNet:
    def test_what_it_is(self, tiny):
        net = small_net(96, 7, weights="imagenet")
        ((shape, arguments),) = tiny
        assert shape == (96, 96, 3) and arguments == {
            "alpha": 0.35,
            "include_top": False,
            "weights": "imagenet",
            "name": "mobilenetv2_035",
        }
        assert net.input_shape == (None, 96, 96, 3) and net.output_shape == (None, 7)
        (norm,) = (
            x
            for x in net.get_layer("mobilenetv2_035").layers
            if isinstance(x, layers.BatchNormalization)
        )
        assert norm.momentum == 0.97

    def test_bytes_or_not(self, tiny):
        randomize(first := small_net(96, 2, weights=None), 1)
        randomize(second := small_net(96, 2, weights=None, scales=False), 1)
        x = images(2, 96, 96, 3)
        found = outputs(first, x), outputs(second, x / 127.5 - 1)
        np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)

    def test_weights_from_a_file(self, tiny, tmp_path):
        base = small_net(96, 2, weights=None).get_layer("mobilenetv2_035")
        randomize(base, 5).save_weights(tmp_path / "base.weights.h5")
        net = small_net(128, 2, weights=tmp_path / "base.weights.h5")
        assert tiny[-1][1]["weights"] is None
        found = net.get_layer("mobilenetv2_035").get_weights()
        for a, b in zip(found, base.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_no_such_file(self, tiny):
        message = "`first_weights` must be 'imagenet', None or the path .*'none.h5'"
        with pytest.raises(ValueError, match=message):
            small_net(96, 2, weights="none.h5")
        assert not tiny  # nothing was made first


class TestAutomaticSize:
    @pytest.fixture
    def costs(self, monkeypatch):
        """160 pixels cost 25 MACs, 128 cost 16, 96 cost 9."""

        class Profile:
            def __init__(self, size):
                self.total = (size // 32) ** 2

        monkeypatch.setattr(first_nets, "small_net", lambda size, *_, **__: size)
        monkeypatch.setattr(first_nets, "count_macs", Profile)

    @pytest.mark.parametrize(
        ("shape", "macs", "size"),
        [
            ((None, 224, 224, 3), 209, 160),
            ((None, 224, 224, 3), 208, 128),
            ((None, 224, 224, 3), 134, 128),
            ((None, 224, 224, 3), 133, 96),
            ((None, 224, 224, 3), 75, 96),
            ((None, 224, 224, 3), 74, None),
            ((None, 160, 128, 3), 10**9, 128),
            ((None, 96, 160, 3), 10**9, 96),
            ((None, 95, 160, 3), 10**9, None),
            ((None, 224, 224, 1), 10**9, None),
            ((None, None, 224, 3), 10**9, None),
            ((None, 224), 10**9, None),
        ],
    )
    def test_rules(self, costs, shape, macs, size):
        assert automatic_size(shape, macs) == size


@pytest.mark.heavy
def test_the_real_one():
    """MobileNetV2 .35 at 96 pixels: about 11 MMACs."""
    net = small_net(96, 10, weights=None)
    assert 10e6 < count_macs(net).total < 12e6
    assert automatic_size((None, 96, 96, 3), 100_000_000) == 96
    assert automatic_size((None, 96, 96, 3), 80_000_000) is None


def test_weights_that_keras_cannot_load(monkeypatch):
    def offline(**arguments):
        raise OSError("no network")

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(ValueError, match="cannot load those of ImageNet .OSError."):
        small_net(96, 2)
    with pytest.raises(OSError, match="no network"):
        small_net(96, 2, weights=None)
