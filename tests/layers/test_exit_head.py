import json

import keras
import numpy as np
import pytest
from scipy.special import softmax

import keras_dyngate as kd
from keras_dyngate import ExitHead, OneVsAllHinge
from keras_dyngate.losses import ScoreCrossEntropy
from tests.layer_checks import check_config
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy
SHAPE = (7, 5, 3)
X = images(6, *SHAPE) / 255


def body(classes=4, activation=None, shape=SHAPE, name="body"):
    x = image = keras.Input(shape)
    x = layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(classes, activation=activation)(x)
    return randomize(keras.Model(image, x, name=name))


def by_hand(net, x):
    """Of the body above: a convolution by loops over the kernel, in float64."""
    conv, norm, dense = (layer for layer in net.layers if layer.weights)
    kernel = to_numpy(conv.kernel).astype("float64")
    height, width = (-(-side // 2) for side in x.shape[1:3])
    pad = [(0, 0)]
    for side, out in zip(x.shape[1:3], (height, width), strict=True):
        total = (out - 1) * 2 + 3 - side
        pad.append((total // 2, total - total // 2))
    padded = np.pad(x.astype("float64"), [*pad, (0, 0)])
    maps = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            part = padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
            maps += part @ kernel[i, j]
    gamma, beta, mean, variance = (to_numpy(w) for w in norm.weights)
    maps = gamma * (maps - mean) / np.sqrt(variance + norm.epsilon) + beta
    weights, bias = (to_numpy(w) for w in dense.weights)
    return np.maximum(maps, 0).mean((1, 2)) @ weights + bias


class TestScores:
    @pytest.mark.parametrize("activation", [None, "softmax"])
    def test_are_raw(self, activation):
        net = body(activation=activation)
        head = ExitHead(4, net)
        scores = to_numpy(head(X))
        np.testing.assert_allclose(scores, by_hand(net, X), 1e-4, 1e-5)
        said = outputs(net, X)  # the body itself stays as it is
        expected = scores if activation is None else softmax(scores, axis=1)
        np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-6)

    def test_softmax_in_a_nested_model(self):
        net = body(activation="softmax")
        image = keras.Input(SHAPE)
        around = keras.Sequential([image, net])
        np.testing.assert_allclose(
            to_numpy(ExitHead(4, around)(X)), by_hand(net, X), 1e-4, 1e-5
        )

    def test_one_output(self):
        net = body(1, "sigmoid")
        head = ExitHead(1, net)
        scores = to_numpy(head(X))
        np.testing.assert_allclose(scores, by_hand(net, X), 1e-4, 1e-5)
        np.testing.assert_allclose(outputs(net, X), 1 / (1 + np.exp(-scores)), 1e-4)
        sure = to_numpy(head.confidence_of(scores))
        np.testing.assert_allclose(sure, 1 / (1 + np.exp(-np.abs(scores[:, 0]))), 1e-5)

    def test_in_training(self):
        """Normalized by the batch, whose statistics the body keeps."""
        net = body()
        before = to_numpy(net.get_layer("bn").moving_mean).copy()
        head = ExitHead(4, net)
        trained, plain = to_numpy(head(X, training=True)), to_numpy(head(X))
        assert np.abs(trained - plain).max() > 1e-3
        assert (to_numpy(net.get_layer("bn").moving_mean) != before).all()
        assert {id(w) for w in head.trainable_weights} == {
            id(w) for w in net.trainable_weights
        }

    def test_bytes(self):
        net = body()
        bytes_ = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), "uint8")
        found = to_numpy(ExitHead(4, net)(bytes_))
        np.testing.assert_allclose(
            found, by_hand(net, bytes_.astype("float32")), rtol=1e-4, atol=1e-3
        )

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_mixed_precision(self, policy, dtype_policy):
        dtype_policy(policy)
        net = body()
        head = ExitHead(4, net)
        for x in (X, (255 * X).astype("uint8")):
            found = head(x)
            assert keras.backend.standardize_dtype(found.dtype) == "float32"
            expected = by_hand(net, x.astype("float32"))
            np.testing.assert_allclose(
                to_numpy(found), expected, atol=0.03 * np.abs(expected).max()
            )
        assert {w.dtype for w in head.weights} == {"float32"}


def test_options_and_symbols():
    head = ExitHead(4, body())
    assert (head.objective, head.confidence) == ("cross_entropy", "probability")
    assert type(head.loss()) is ScoreCrossEntropy
    assert type(ExitHead(4, body(), objective="hinge").loss()) is OneVsAllHinge
    symbol = head(keras.Input(SHAPE))
    assert symbol.shape == (None, 4) and symbol.dtype == "float32"
    assert head.compute_output_shape((9, *SHAPE)) == (9, 4)


def test_macs_by_hand():
    """Maps of 4x3; the linear layer."""
    head = ExitHead(4, body(), name="exit")
    assert head.kernel_macs((None, *SHAPE)) == 4 * 3 * 9 * 3 * 5 + 5 * 4
    image = keras.Input(SHAPE)
    profile = kd.count_macs(keras.Model(image, head(image)))
    assert (profile.total, profile.per_exit) == (1640, (1640,))


class TestSaving:
    def saved(self, head, tmp_path, **options):
        image = keras.Input(SHAPE)
        keras.Model(image, head(image)).save(tmp_path / "head.keras")
        again = keras.saving.load_model(tmp_path / "head.keras", **options)
        return again.get_layer(head.name)

    def test_round_trip(self, tmp_path):
        head = ExitHead(
            4, body(activation="softmax"), "hinge", "margin", name="my_exit"
        )
        check_config(head)
        again = self.saved(head, tmp_path)
        assert type(again) is ExitHead and again.name == "my_exit"
        assert (again.objective, again.confidence) == ("hinge", "margin")
        assert json.dumps(again.get_config()) == json.dumps(head.get_config())
        np.testing.assert_array_equal(to_numpy(again(X)), to_numpy(head(X)))
        assert [w.trainable for w in again.weights] == [
            w.trainable for w in head.weights
        ]

    def test_what_is_frozen(self, tmp_path):
        net = body()
        net.get_layer("bn").trainable = False
        head = ExitHead(4, net)
        again = self.saved(head, tmp_path)
        assert not again.body.get_layer("bn").trainable and again.trainable
        assert len(again.trainable_weights) == len(head.trainable_weights) == 3
        head.trainable = False
        assert not self.saved(head, tmp_path).trainable_weights

    def test_policy_of_the_body(self, tmp_path, dtype_policy):
        dtype_policy("mixed_float16")
        head = ExitHead(4, body())
        dtype_policy("float32")
        again = self.saved(head, tmp_path)
        policies = [layer.dtype_policy.name for layer in again.body.layers]
        assert policies[1:] == ["mixed_float16"] * (len(policies) - 1)
        np.testing.assert_array_equal(to_numpy(again(X)), to_numpy(head(X)))

    def test_layers_of_the_users_own(self, tmp_path):
        class Twice(layers.Layer):
            def call(self, x):
                return 2 * x

        head = ExitHead(
            3, keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3)])
        )
        own = ExitHead(
            105, keras.Sequential([keras.Input(SHAPE), Twice(), layers.Flatten()])
        )
        again = self.saved(own, tmp_path, custom_objects={"Twice": Twice})
        np.testing.assert_array_equal(to_numpy(again(X)), 2 * X.reshape(len(X), -1))
        assert tuple(self.saved(head, tmp_path)(X).shape) == (6, 3)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def two_inputs():
    pair = [keras.Input((3,)), keras.Input((3,))]
    return keras.Model(pair, layers.Add()(pair))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: None, "`body` must be a functional or Sequential model of one input"),
        (lambda: layers.Dense(4), "`body` must be a functional or Sequential model"),
        (Subclassed, "functional or Sequential model of one input, built. Received: b"),
        (
            lambda: keras.Sequential([layers.Dense(4)]),
            "`body` must be a functional or Sequential model of one input, built",
        ),
        (two_inputs, "`body` must be a functional or Sequential model of one input"),
        (
            lambda: body(5),
            r"`body` must put out \[batch, 4\]. Received: body='body' with outputs of "
            r"shape \[\(None, 5\)\]",
        ),
        (
            lambda: keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 1)]),
            r"`body` must put out \[batch, 4\]",
        ),
    ],
)
def test_bad_bodies(made, message):
    with pytest.raises(ValueError, match=message):
        ExitHead(4, made())


@pytest.mark.parametrize("shape", [(8, 5, 3), (7, 5, 1), (105,)])
def test_other_features(shape):
    message = r"`body` must take features of shape .*Received: body='body' for \(7, 5"
    with pytest.raises(ValueError, match=message):
        ExitHead(4, body()).build((None, *shape))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`classes` must be a positive integer"):
        ExitHead(0, body())
    with pytest.raises(ValueError, match="`objective` must be one of 'hinge', 'cross"):
        ExitHead(4, body(), objective="mse")
