import keras
import numpy as np
import pytest

from keras_dyngate import ChannelPadding
from tests.backend_utils import gradients
from tests.layer_checks import check_config

to_numpy = keras.ops.convert_to_numpy
SHAPE = (4, 3, 6)
X = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype("float32")
CASES = [(6, 12), (6, 7), (6, 6), (3, 6), (2, 5), (2, 2), (1, 3)]


def padded(x, width, count):
    """Channel by channel."""
    found = []
    for start in range(0, x.shape[-1], width):
        found += [x[..., channel] for channel in range(start, start + width)]
        found += [np.zeros_like(x[..., 0])] * (count - width)
    return np.stack(found, axis=-1)


def test_config():
    check_config(ChannelPadding(2, 5, name="wider"))
    check_config(ChannelPadding(2, 5, dtype="mixed_bfloat16"))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("width", "count"), [(6, 12), (2, 5)])
def test_within_a_model(width, count, jit_compile, tmp_path):
    """Trained, the last batch a short one; and out of a file."""
    image = keras.Input(SHAPE)
    y = keras.layers.Conv2D(6, 1, kernel_initializer="ones")(image)
    y = ChannelPadding(width, count, name="wider")(y)
    model = keras.Model(image, y)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    history = model.fit(X, padded(X, width, count), batch_size=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert (to_numpy(model.layers[1].kernel) != 1).all()
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("wider")) is ChannelPadding
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)


@pytest.mark.parametrize(("width", "count"), CASES)
def test_by_loops(width, count):
    layer = ChannelPadding(width, count)
    found = layer(X)
    expected = padded(X, width, count)
    np.testing.assert_array_equal(found, expected)
    assert layer.compute_output_shape(X.shape) == expected.shape
    assert layer(keras.Input(SHAPE)).shape == (None, *expected.shape[1:])
    assert layer.weights == []


def test_zero_padding_between_the_papers_stages():
    """All of the channels at once, new ones at the end; in slices, at each one's end."""
    np.testing.assert_array_equal(ChannelPadding(6, 12)(X)[..., :6], X)
    assert not to_numpy(ChannelPadding(6, 12)(X))[..., 6:].any()
    sliced = to_numpy(ChannelPadding(2, 4)(X))
    for j in range(3):
        expected = to_numpy(ChannelPadding(2, 4)(X[..., 2 * j : 2 * j + 2]))
        np.testing.assert_array_equal(sliced[..., 4 * j : 4 * j + 4], expected)


@pytest.mark.parametrize(("width", "count"), [(6, 8), (2, 3)])
def test_gradient_comes_back(width, count):
    factor = np.random.default_rng(1).normal(size=padded(X, width, count).shape)
    factor = factor.astype("float32")
    layer = ChannelPadding(width, count)
    multiply = keras.ops.multiply
    _, found = gradients(lambda x: keras.ops.sum(multiply(layer(x), factor)), X)
    kept = [c for c in range(factor.shape[-1]) if c % count < width]
    np.testing.assert_array_equal(found, factor[..., kept])


@pytest.mark.parametrize(("width", "count"), [(6, 8), (2, 3)])
def test_number_of_runs_is_free(width, count):
    layer = ChannelPadding(width, count)
    for runs in (1, 2, 5):
        x = np.random.default_rng(runs).normal(size=(2, 1, 2, width * runs))
        np.testing.assert_array_equal(
            layer(x.astype("float32")), padded(x.astype("float32"), width, count)
        )


@pytest.mark.parametrize(("width", "count"), [(6, 8), (2, 3)])
def test_unknown_image_size(width, count):
    """Sizes that change from one call of `predict` to the next."""
    image = keras.Input((None, None, 6))
    model = keras.Model(image, ChannelPadding(width, count)(image))
    assert model.output_shape == (None, None, None, 6 // width * count)
    for height, breadth in ((4, 3), (2, 3), (3, 2), (1, 1)):
        x = X[:, :height, :breadth]
        found = model.predict(x, verbose=0)
        np.testing.assert_array_equal(found, padded(x, width, count))


def test_batches_of_any_size():
    for size in (0, 1, 4):
        found = ChannelPadding(2, 3)(X[:size])
        np.testing.assert_array_equal(found, padded(X[:size], 2, 3))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16"])
def test_lower_precision(policy):
    layer = ChannelPadding(2, 3, dtype=policy)
    found = layer(X)
    name = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(found.dtype) == name
    expected = padded(to_numpy(keras.ops.cast(X, name)), 2, 3)
    np.testing.assert_array_equal(to_numpy(found), expected)
    assert layer(keras.Input(SHAPE)).dtype == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "`width` must be a positive integer. Received: width=0"),
        ((2.0, 4), "`width` must be a positive integer. Received: width=2.0"),
        ((True, 4), "`width` must be a positive integer. Received: width=True"),
        ((2, 0), "`padded` must be a positive integer. Received: padded=0"),
        ((2, "4"), "`padded` must be a positive integer. Received: padded='4'"),
        ((4, 3), "`padded` must be `width` or more. Received: width=4, padded=3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChannelPadding(*arguments)


def test_channels_in_whole_runs():
    layer = ChannelPadding(4, 8)
    message = "`width` must divide the channels. Received: width=4 for 6 channels"
    for call in (
        lambda: layer(X),
        lambda: layer(keras.Input(SHAPE)),
        lambda: layer.compute_output_shape((None, *SHAPE)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
