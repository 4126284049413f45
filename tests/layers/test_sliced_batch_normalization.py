import keras
import numpy as np
import pytest

from keras_dyngate import SlicedBatchNormalization
from tests import layer_checks
from tests.backend_utils import BACKEND, gradients
from tests.stubs import built, randomize

to_numpy = keras.ops.convert_to_numpy
SHAPE = (4, 3, 8)
X = np.random.default_rng(0).normal(2.0, 3.0, (5, *SHAPE)).astype("float32")
RANGES = [(first, last) for last in range(1, 5) for first in range(1, last + 1)]


def make(**options):
    """Four slices of two channels each."""
    return SlicedBatchNormalization(slices=4, **options)


def part(x, first, last):
    return x[..., 2 * (first - 1) : 2 * last]


def reference(layer, first=1, last=4, x=X):
    """With the moving statistics, float64."""

    def of(variable, default):
        value = default if variable is None else to_numpy(variable)
        return part(np.broadcast_to(value, (8,)).astype("float64"), first, last)

    y = part(x, first, last) - of(layer.moving_mean, 0)
    y = y / np.sqrt(of(layer.moving_variance, 1) + layer.epsilon)
    return y * of(layer.gamma, 1) + of(layer.beta, 0)


@pytest.mark.parametrize("options", [{}, {"scale": False, "epsilon": 1e-5}])
def test_layer(options, tmp_path):
    layer_checks.run_layer_test(
        lambda: make(**options), SHAPE, SHAPE, tmp_path / "bn.keras"
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epsilon": 1e-5},
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
        {"renorm": True},
    ],
)
def test_slices_are_those_of_the_whole(options):
    layer = built(make(**options), SHAPE)
    whole = to_numpy(layer(X))
    np.testing.assert_allclose(whole, reference(layer), rtol=1e-5, atol=1e-5)
    for first, last in RANGES:
        found = layer(part(X, first, last), first=first, last=last)
        expected = part(whole, first, last)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (6, 8), (2, 3, 2, 8)])
def test_any_rank(shape):
    x = np.random.default_rng(1).normal(size=(3, *shape)).astype("float32")
    layer = built(make(), shape)
    for first, last in ((1, 4), (2, 3), (4, 4)):
        found = layer(part(x, first, last), first=first, last=last)
        expected = reference(layer, first, last, x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "rounding"),
    [
        ("mixed_bfloat16", 2.0**-7),
        ("mixed_float16", 2.0**-10),
        ("bfloat16", 2.0**-7),
        ("float16", 2.0**-10),
        pytest.param(
            "float64",
            1e-12,
            marks=pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64"),
        ),
    ],
)
def test_slices_in_any_precision(policy, rounding):
    """Those of the whole, but for one rounding of the outputs."""
    layer = make(dtype=policy)
    layer.build((None, *SHAPE))
    randomize(layer)
    whole = layer(X)
    wide = "float64" if policy == "float64" else "float32"
    for first, last in ((1, 2), (2, 3)):
        found = layer(part(X, first, last), first=first, last=last)
        assert found.dtype == whole.dtype
        image = keras.Input((4, 3, 2 * (last - first + 1)))
        symbolic = layer(image, first=first, last=last)
        assert symbolic.dtype == keras.backend.standardize_dtype(whole.dtype)
        found, expected = (to_numpy(keras.ops.cast(y, wide)) for y in (found, whole))
        np.testing.assert_allclose(found, part(expected, first, last), rtol=rounding)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_training_is_that_of_keras(momentum):
    """Outputs, moving statistics and gradients on all slices."""
    ours = built(make(momentum=momentum), SHAPE)
    theirs = built(keras.layers.BatchNormalization(momentum=momentum), SHAPE)
    found = []
    for layer in (ours, theirs):

        def loss(x, layer=layer):
            return keras.ops.sum(keras.ops.sin(layer(x, training=True)))

        layer(X, training=True)
        slopes = gradients(loss, X, variables=layer.trainable_variables)
        found.append([*slopes, to_numpy(layer.moving_mean)])
        found[-1].append(to_numpy(layer.moving_variance))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        if BACKEND != "tensorflow":  # where it is another operation
            np.testing.assert_array_equal(one, other)


def test_moving_statistics_by_hand():
    layer = make(momentum=0.75)
    layer(X, training=True)
    means, variances = X.mean(axis=(0, 1, 2)), X.var(axis=(0, 1, 2))
    np.testing.assert_allclose(layer.moving_mean, 0.25 * means, rtol=1e-4)
    expected = 0.75 + 0.25 * variances
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-4)


class TestTrainingOnSomeSlices:
    @pytest.mark.parametrize(("first", "last"), [(1, 3), (2, 4), (2, 2)])
    def test_is_refused(self, first, last):
        layer = built(make(), SHAPE)
        before = [to_numpy(w).copy() for w in layer.weights]
        message = f"at inference only. Received: training=True, first={first}, last="
        with pytest.raises(ValueError, match=message):
            layer(part(X, first, last), training=True, first=first, last=last)
        for weight, old in zip(layer.weights, before, strict=True):
            np.testing.assert_array_equal(weight, old)

    def test_is_refused_in_fit(self):
        layer = make()
        layer.build((None, *SHAPE))
        image = keras.Input(SHAPE)
        model = keras.Model(image, layer(part(image, 1, 2), last=2))
        model.compile("sgd", "mse", run_eagerly=True)
        expected = reference(layer, 1, 2)
        found = model.predict(X, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="at inference only. Received: training="):
            model.fit(X, part(X, 1, 2), verbose=0)

    def test_is_inference_when_frozen(self):
        """As in Keras: then the layer trains nothing, and has no batch statistics."""
        layer = built(make(), SHAPE)
        layer.trainable = False
        found = layer(part(X, 2, 3), training=True, first=2, last=3)
        expected = reference(layer, 2, 3)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def test_all_slices_named_are_all_slices(self):
        named, plain = built(make(), SHAPE), built(make(), SHAPE)
        found = named(X, training=True, first=1, last=4)
        np.testing.assert_array_equal(found, plain(X, training=True))
        np.testing.assert_array_equal(named.moving_mean, plain.moving_mean)


def test_a_range_reads_its_slices_alone():
    """NaN in all other statistics and parameters."""
    layer = built(make(), SHAPE)
    expected = reference(layer, 2, 3)
    for weight in layer.weights:
        value = np.full(8, np.nan, "float32")
        value[2:6] = to_numpy(weight)[2:6]
        weight.assign(value)
    found = layer(part(X, 2, 3), first=2, last=3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_mask_is_that_of_keras():
    ours = built(make(), (6, 8))
    theirs = built(keras.layers.BatchNormalization(), (6, 8))
    x = np.random.default_rng(1).normal(size=(3, 6, 8)).astype("float32")
    mask = np.arange(6) < np.array([[2], [6], [4]])
    found, expected = (layer(x, training=True, mask=mask) for layer in (ours, theirs))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ours.moving_mean, theirs.moving_mean)
    assert ours.supports_masking


def test_used_parameters():
    layer = built(make(), SHAPE)
    assert layer.used_parameters((None, *SHAPE)) == 16
    assert layer.used_parameters((None, 4, 3, 2), first=3, last=3) == 4
    assert layer.used_parameters((None, 4, 3, 6), last=3) == 12
    for options in ({"scale": False}, {"center": False}):
        one = built(make(**options), SHAPE)
        assert one.used_parameters((None, 4, 3, 4), first=2, last=3) == 4
        none = built(make(scale=False, center=False), SHAPE)
        assert none.used_parameters((None, *SHAPE)) == 0


def test_file_of_a_model(tmp_path):
    layer = make(name="bn")
    layer.build((None, *SHAPE))
    randomize(layer)
    image = keras.Input(SHAPE)
    ends = [
        layer(part(image, first, last), first=first, last=last)
        for first, last in ((1, 2), (3, 3), (1, 4))
    ]
    model = keras.Model(image, ends)
    assert model.output_shape == [(None, 4, 3, n) for n in (4, 2, 8)]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("bn")) is SlicedBatchNormalization
    for found, expected in zip(loaded(X), model(X), strict=True):
        np.testing.assert_array_equal(found, expected)


class TestMirrorsBatchNormalization:
    def test_defaults(self):
        theirs = keras.layers.BatchNormalization(name="bn").get_config()
        ours = SlicedBatchNormalization(slices=2, name="bn").get_config()
        assert ours == {**theirs, "slices": 2}

    def test_arguments(self):
        options = {
            "axis": -1,
            "momentum": 0.9,
            "epsilon": 1e-5,
            "center": True,
            "scale": True,
            "beta_initializer": "ones",
            "gamma_initializer": keras.initializers.RandomUniform(0.5, 1.5, seed=3),
            "moving_mean_initializer": "ones",
            "moving_variance_initializer": keras.initializers.Constant(2.0),
            "beta_regularizer": "l1",
            "gamma_regularizer": keras.regularizers.L2(0.2),
            "beta_constraint": "non_neg",
            "gamma_constraint": keras.constraints.MaxNorm(1.5),
            "renorm": True,
            "renorm_clipping": {"rmax": 3.0},
            "renorm_momentum": 0.8,
            "name": "bn",
            "trainable": False,
            "dtype": "mixed_bfloat16",
        }
        theirs = keras.layers.BatchNormalization(**options).get_config()
        ours = make(**options).get_config()
        assert ours == {**theirs, "slices": 4}
        assert SlicedBatchNormalization.from_config(ours).get_config() == ours


@pytest.mark.parametrize("slices", [0, -1, 2.0, True, None, "2"])
def test_bad_number_of_slices(slices):
    message = f"`slices` must be a positive integer. Received: slices={slices!r}"
    with pytest.raises(ValueError, match=message):
        SlicedBatchNormalization(slices=slices)


@pytest.mark.parametrize("axis", [1, 3, 0])
def test_last_axis_only(axis):
    with pytest.raises(ValueError, match=f"`axis` must be -1. Received: axis={axis}"):
        make(axis=axis)


def test_channels_in_whole_slices():
    message = "`slices` must divide the channels. Received: slices=4 for 6 channels"
    with pytest.raises(ValueError, match=message):
        make()(X[..., :6])


@pytest.mark.parametrize(
    ("channels", "span", "message"),
    [
        (8, {"last": 5}, "`last` must be from 1 to 4. Received: last=5"),
        (8, {"last": 0}, "`last` must be a positive integer. Received: last=0"),
        (8, {"first": 0}, "`first` must be a positive integer. Received: first=0"),
        (4, {"first": 3, "last": 2}, "`first` must be from 1 to 2. Received: first=3"),
        (8, {"first": 1.0}, "`first` must be a positive integer.*first=1.0"),
        (8, {"last": 2}, "4 channels for first=1, last=2. Received: 8 channels"),
        (4, {"first": 2, "last": 2}, "must have 2 channels for first=2, last=2"),
        (4, {}, "must have 8 channels for first=1, last=4. Received: 4 channels"),
    ],
)
def test_bad_slices(channels, span, message):
    layer = built(make(), SHAPE)
    shape = (4, 3, channels)
    for call in (
        lambda: layer(X[..., :channels], **span),
        lambda: layer(keras.Input(shape), **span),
        lambda: layer.used_parameters((None, *shape), **span),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_rank_is_that_of_the_build():
    layer = built(make(), SHAPE)
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        layer(X[0])
