import inspect

import keras
import numpy as np
import pytest

from keras_dyngate import NestedDense
from tests import layer_checks
from tests.backend_utils import gradients
from tests.stubs import built, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

to_numpy = keras.ops.convert_to_numpy
X = np.random.default_rng(0).normal(size=(5, 12)).astype("float32")


def make(**options):
    """Four slices of three features each."""
    return NestedDense(7, slices=4, **options)


def reference(layer, last=4):
    """Scores on slices 1..last, float64."""
    kernel = to_numpy(layer.kernel).astype("float64")[: 3 * last]
    scores = X[:, : 3 * last].astype("float64") @ kernel
    return scores + to_numpy(layer.bias) if layer.use_bias else scores


def part(first, last):
    return X[:, 3 * (first - 1) : 3 * last]


@pytest.fixture
def arguments_of_dense(monkeypatch):
    """The checks of layers, of vectors and of Dense's arguments (but LoRA's)."""

    def vectors(*shape):
        return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")

    def arguments(cls):
        names = inspect.signature(keras.layers.Dense.__init__).parameters
        missing = {"self", "kwargs", "lora_rank", "lora_alpha", "activity_regularizer"}
        return {*names, "slices"} - missing

    monkeypatch.setattr(layer_checks, "images", vectors)
    monkeypatch.setattr(layer_checks, "constructor_arguments", arguments)


@pytest.mark.parametrize("options", [{}, {"use_bias": False}])
def test_layer(options, tmp_path, arguments_of_dense):
    layer_checks.run_layer_test(
        lambda: make(**options), (12,), (7,), tmp_path / "head.keras"
    )


@pytest.mark.parametrize("use_bias", [True, False])
def test_heads_on_prefixes(use_bias):
    layer = built(make(use_bias=use_bias), (12,))
    np.testing.assert_allclose(layer(X), reference(layer), rtol=1e-5, atol=1e-5)
    for last in range(1, 5):
        found = layer(part(1, last), last=last)
        np.testing.assert_allclose(found, reference(layer, last), rtol=1e-5, atol=1e-5)


def test_one_slice_is_a_dense_layer():
    layer, dense = NestedDense(7, slices=1), keras.layers.Dense(7)
    for made in (layer, dense):
        built(made, (12,))
    np.testing.assert_array_equal(layer(X), dense(X))


@pytest.mark.parametrize("steps", [(1, 2, 3, 4), (2, 3, 4), (1, 4), (3, 4), (4,)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_carried_scores_go_on(steps, use_bias):
    """Ends of steps: of one slice each, or of several at once."""
    layer = built(make(use_bias=use_bias), (12,))
    scores, first = None, 1
    for last in steps:
        options = {"first": first, "last": last}
        if scores is None:
            scores = layer(part(first, last), **options)
        else:
            scores = layer(part(first, last), scores, **options)
        np.testing.assert_allclose(scores, reference(layer, last), rtol=1e-5, atol=1e-5)
        first = last + 1


def test_a_step_reads_its_slices_alone():
    """NaN in all other rows, and in the bias that was added before."""
    layer = built(make(), (12,))
    carried = to_numpy(layer(part(1, 1), last=1))
    expected = to_numpy(layer(part(2, 3), carried, first=2, last=3))
    kernel = np.full((12, 7), np.nan, "float32")
    kernel[3:9] = to_numpy(layer.kernel)[3:9]
    layer.kernel.assign(kernel)
    layer.bias.assign(np.full(7, np.nan, "float32"))
    found = to_numpy(layer(part(2, 3), carried, first=2, last=3))
    np.testing.assert_array_equal(found, expected)


def test_gradients():
    layer = built(make(), (12,))

    def loss(x, carried):
        return keras.ops.sum(layer(x, carried, first=2, last=3))

    carried = np.ones((5, 7), "float32")
    _, by_x, by_carried, by_kernel, by_bias = gradients(
        loss, part(2, 3), carried, variables=[layer.kernel, layer.bias]
    )
    kernel = to_numpy(layer.kernel)
    np.testing.assert_allclose(by_x[0], kernel[3:9].sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(by_carried, carried)
    expected = np.zeros((12, 7))
    expected[3:9] = part(2, 3).astype("float64").sum(axis=0)[:, None]
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-5, atol=1e-6)
    assert not by_bias.any()


def test_counts():
    layer = built(make(), (12,))
    assert layer.kernel_macs((None, 12)) == 84
    assert layer.used_parameters((None, 12)) == 84 + 7 == layer.count_params()
    assert [layer.kernel_macs((None, 3 * k), last=k) for k in range(1, 5)] == [
        21,
        42,
        63,
        84,
    ]
    assert layer.used_parameters((None, 6), last=2) == 2 * 21 + 7
    steps = [layer.kernel_macs((None, 3), first=k, last=k) for k in range(1, 5)]
    assert steps == [21, 21, 21, 21]
    without = built(make(use_bias=False), (12,))
    assert without.used_parameters((None, 9), first=2) == 63


def chain():
    """A model of all four heads, each made from the one before; and the layer."""
    layer = make(name="head")
    layer.build((None, 12))
    features = keras.Input((12,))
    scores = [layer(features[:, :3], first=1, last=1)]
    for k in range(2, 5):
        step = features[:, 3 * k - 3 : 3 * k]
        scores.append(layer(step, scores[-1], first=k, last=k))
    return keras.Model(features, scores), layer


def test_file_of_a_model(tmp_path):
    model, layer = chain()
    randomize(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("head")) is NestedDense
    for last, (found, expected) in enumerate(zip(loaded(X), model(X), strict=True), 1):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, reference(layer, last), rtol=1e-5, atol=1e-5)
    assert len(loaded.weights) == 2


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_all_heads_at_once(jit_compile):
    """One step of gradient descent on the sum of four mean squares."""
    model, layer = chain()
    randomize(layer)
    kernel = to_numpy(layer.kernel).astype("float64")
    expected, bias_step = kernel.copy(), np.zeros(7)
    for last in range(1, 5):
        slope = 2 * (reference(layer, last) - 1) / (5 * 7)
        expected[: 3 * last] -= 0.1 * X[:, : 3 * last].astype("float64").T @ slope
        bias_step -= 0.1 * slope.sum(axis=0)
    expected_bias = to_numpy(layer.bias) + bias_step
    model.compile(keras.optimizers.SGD(0.1), 4 * ["mse"], jit_compile=jit_compile)
    model.fit(X, 4 * [np.ones((5, 7))], batch_size=5, verbose=0)
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.bias, expected_bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16"])
def test_lower_precision(policy):
    layer = make(dtype=policy)
    layer.build((None, 12))
    randomize(layer)
    name = policy.removeprefix("mixed_")
    first = layer(part(1, 1), last=1)
    second = layer(part(2, 4), first, first=2)
    for found, last in ((first, 1), (second, 4)):
        assert keras.backend.standardize_dtype(found.dtype) == name
        found = to_numpy(keras.ops.cast(found, "float32"))
        np.testing.assert_allclose(found, reference(layer, last), rtol=0.05, atol=0.05)
    assert layer(keras.Input((3,)), last=1).dtype == name


class TestMirrorsDense:
    def test_defaults(self):
        theirs = keras.layers.Dense(7, name="head").get_config()
        ours = NestedDense(7, slices=4, name="head").get_config()
        assert ours == {**theirs, "slices": 4}

    def test_arguments(self):
        options = {
            "activation": "linear",
            "use_bias": True,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "bias_initializer": "ones",
            "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.2),
            "bias_regularizer": "l2",
            "activity_regularizer": "l1",
            "kernel_constraint": keras.constraints.MaxNorm(1.5),
            "bias_constraint": "non_neg",
            "name": "head",
            "trainable": False,
            "dtype": "mixed_bfloat16",
        }
        theirs = keras.layers.Dense(7, **options).get_config()
        ours = NestedDense(7, slices=4, **options).get_config()
        assert ours == {**theirs, "slices": 4}
        assert NestedDense.from_config(ours).get_config() == ours


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 0}, "`slices` must be a positive integer. Received: slices=0"),
        ({"slices": 2.0}, "`slices` must be a positive integer. Received: slices=2.0"),
        ({"slices": True}, "`slices` must be a positive integer"),
        ({"slices": 2, "activation": "relu"}, "`activation` must be .*='relu'"),
        ({"slices": 2, "units": 0}, "Received: units=0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        NestedDense(**{"units": 7, **options})


def test_features_in_whole_slices():
    message = "`slices` must divide the features. Received: slices=4 for 10 features"
    with pytest.raises(ValueError, match=message):
        make()(X[:, :10])


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (12, {"last": 5}, "`last` must be from 1 to 4. Received: last=5"),
        (12, {"last": 0}, "`last` must be a positive integer. Received: last=0"),
        (12, {"first": 0}, "`first` must be a positive integer. Received: first=0"),
        (3, {"first": 3, "last": 2}, "`first` must be from 1 to 2. Received: first=3"),
        (3, {"first": 1.0}, "`first` must be a positive integer. Received: first=1.0"),
        (12, {"first": 2}, "must have 9 features for first=2, .*Received: 12 features"),
        (6, {"last": 1}, "must have 3 features for first=1, last=1. Received: 6"),
        (6, {}, "must have 12 features for first=1, last=4. Received: 6 features"),
    ],
)
def test_bad_slices(features, options, message):
    layer = built(make(), (12,))
    for call in (
        lambda: layer(X[:, :features], **options),
        lambda: layer(keras.Input((features,)), **options),
        lambda: layer.kernel_macs((None, features), **options),
        lambda: layer.used_parameters((None, features), **options),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_vectors_only():
    layer = built(make(), (12,))
    with pytest.raises(ValueError, match="expected ndim=2, found ndim=3"):
        layer(X[:, None])
