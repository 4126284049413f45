import inspect

import keras
import numpy as np
import pytest

from keras_dyngate import SlicedDense
from tests import layer_checks
from tests.backend_utils import gradients
from tests.stubs import built, randomize

pytestmark = [pytest.mark.usefixtures("numpy_initializers"), pytest.mark.heavy]

to_numpy = keras.ops.convert_to_numpy
X = np.random.default_rng(0).normal(size=(5, 12)).astype("float32")
EXECUTIONS = ("masked", "sliced")
RANGES = [(1, 4), (1, 1), (2, 3), (3, 3)]
UNITS = {"equal": 8, "unequal": [3, 1, 5, 2]}


def make(units=8, **options):
    """Four slices of three features each."""
    return SlicedDense(units, slices=4, **options)


def widths(units):
    return [units // 4] * 4 if isinstance(units, int) else units


def reference(layer, units, first=1, last=4):
    """Slices first..last, a product of their own each, float64."""
    kernel, found = to_numpy(layer.kernel).astype("float64"), []
    for j in range(first, last + 1):
        start, stop = sum(widths(units)[: j - 1]), sum(widths(units)[:j])
        y = X[:, : 3 * j].astype("float64") @ kernel[: 3 * j, start:stop]
        found.append(y + to_numpy(layer.bias)[start:stop] if layer.use_bias else y)
    found = np.concatenate(found, axis=-1)
    return found.clip(0) if layer.activation is keras.activations.relu else found


def masked(layer, units):
    """True where a weight must not matter."""
    columns = np.repeat(np.arange(4), widths(units))
    found = np.arange(12)[:, None] // 3 > columns
    assert found.shape == tuple(layer.kernel.shape)
    return found


@pytest.fixture
def arguments_of_dense(monkeypatch):
    """The checks of layers, of vectors and of Dense's arguments (but LoRA's)."""

    def vectors(*shape):
        return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")

    def arguments(cls):
        names = inspect.signature(keras.layers.Dense.__init__).parameters
        missing = {"self", "kwargs", "lora_rank", "lora_alpha", "activity_regularizer"}
        return {*names, "slices", "execution"} - missing

    monkeypatch.setattr(layer_checks, "images", vectors)
    monkeypatch.setattr(layer_checks, "constructor_arguments", arguments)


@pytest.mark.parametrize(
    ("execution", "options", "outputs"),
    [
        ("masked", {"units": [3, 1, 5, 2]}, 11),
        ("sliced", {"units": 8, "activation": "tanh", "use_bias": False}, 8),
    ],
)
def test_layer(execution, options, outputs, tmp_path, arguments_of_dense):
    layer_checks.run_layer_test(
        lambda: make(execution=execution, **options),
        (12,),
        (outputs,),
        tmp_path / "dense.keras",
    )


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("options", [{}, {"use_bias": False, "activation": "relu"}])
def test_by_products(units, options):
    """Both executions, every range of slices; a kernel without zeros of its own."""
    for execution in EXECUTIONS:
        layer = built(make(units, execution=execution, **options), (12,))
        assert to_numpy(layer.kernel).all()
        for first, last in RANGES:
            x = X[:, : 3 * last]
            found = layer(x, first=first, last=last)
            expected = reference(layer, units, first, last)
            assert tuple(found.shape) == expected.shape
            shape = layer.compute_output_shape(x.shape, first=first, last=last)
            assert shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_one_slice_is_a_dense_layer(execution):
    layer = SlicedDense(7, slices=1, execution=execution)
    dense = keras.layers.Dense(7)
    for made in (layer, dense):
        built(made, (12,))
    np.testing.assert_array_equal(layer(X), dense(X))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_later_features_do_not_matter(execution):
    layer = built(make(execution=execution), (12,))
    before = to_numpy(layer(X))
    for j in range(1, 4):
        x = X.copy()
        x[:, 3 * j :] = 50.0 - 3.0 * x[:, 3 * j :]
        after = to_numpy(layer(x))
        np.testing.assert_array_equal(after[:, : 2 * j], before[:, : 2 * j])
        assert (after[:, 2 * j :] != before[:, 2 * j :]).all()
        _, slope = gradients(
            lambda x, j=j: keras.ops.sum(keras.ops.square(layer(x)[:, : 2 * j])), X
        )
        assert not slope[:, 3 * j :].any() and slope[:, : 3 * j].all()


def test_sliced_execution_never_touches_what_is_masked():
    """NaN in later features, and NaN for every masked weight."""
    layer = built(make(UNITS["unequal"], execution="sliced"), (12,))
    before = to_numpy(layer(X))
    x = X.copy()
    x[:, 6:] = np.nan
    after = to_numpy(layer(x))
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert np.isnan(after[:, 4:]).all()
    kernel = to_numpy(layer.kernel)
    layer.kernel.assign(np.where(masked(layer, UNITS["unequal"]), np.nan, kernel))
    np.testing.assert_array_equal(layer(X), before)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_gradient_of_masked_weights_is_zero(units, execution):
    """Exactly, though the weights themselves are not zero here."""
    layer = built(make(units, execution=execution), (12,))
    for first, last in ((1, 4), (1, 2), (2, 3), (3, 3)):

        def loss(x, first=first, last=last):
            return keras.ops.sum(keras.ops.square(layer(x, first=first, last=last)))

        _, _, found = gradients(loss, X[:, : 3 * last], variables=[layer.kernel])
        used = ~masked(layer, units)
        used[:, : sum(widths(units)[: first - 1])] = False
        used[:, sum(widths(units)[:last]) :] = False
        np.testing.assert_array_equal(found != 0, used)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda: keras.optimizers.Adam(0.01, weight_decay=0.01, use_ema=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
}


def trained(layer, optimizer, units, **compile_options):
    """Kernels before and after some steps of `fit`."""
    model = keras.Sequential([keras.Input((12,)), layer])
    before = to_numpy(layer.kernel).copy()
    np.testing.assert_array_equal(before == 0, masked(layer, units))
    model.compile(optimizer, "mse", **compile_options)
    y = np.ones((5, sum(widths(units))))
    model.fit(X, y, batch_size=3, epochs=2, verbose=0)
    after = to_numpy(layer.kernel)
    assert np.isfinite(after).all()
    return before, after


@pytest.mark.parametrize(
    ("optimizer", "execution", "jit_compile"),
    [
        ("sgd", "masked", False),
        ("sgd", "sliced", True),
        ("adam", "masked", True),
        ("adamw", "sliced", True),
    ],
)
def test_masked_weights_stay_zero(optimizer, execution, jit_compile):
    """Through momentum, decay, a regularizer and a constraint; the others all move."""
    units = UNITS["unequal"]
    layer = make(
        units,
        execution=execution,
        kernel_regularizer="l2",
        kernel_constraint=keras.constraints.MaxNorm(2.0, axis=0),
    )
    optimizer = OPTIMIZERS[optimizer]()
    before, after = trained(layer, optimizer, units, jit_compile=jit_compile)
    np.testing.assert_array_equal(after == 0, masked(layer, units))
    assert (after != before)[~masked(layer, units)].all()


@pytest.mark.parametrize("regularizer", ["l1", "orthogonal_regularizer"])
def test_regularizers_leave_masked_weights_alone(regularizer):
    """Those whose slope at zero need not be zero."""
    layer = make(kernel_regularizer=regularizer)
    _, after = trained(layer, keras.optimizers.SGD(0.1), 8)
    assert not after[masked(layer, 8)].any()


class TestInitialKernel:
    @pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "ones"])
    def test_zero_where_masked_alone(self, initializer):
        units = UNITS["unequal"]
        layer = make(units, kernel_initializer=initializer)
        layer.build((None, 12))
        np.testing.assert_array_equal(to_numpy(layer.kernel) == 0, masked(layer, units))

    def test_initializer_stays_the_users(self):
        given = keras.initializers.HeNormal(seed=3)
        layer = make(kernel_initializer=given)
        config = layer.get_config()
        layer.build((None, 12))
        assert layer.kernel_initializer is given and layer.get_config() == config


class TestCounts:
    @pytest.mark.parametrize("execution", EXECUTIONS)
    @pytest.mark.parametrize(
        ("units", "options", "first", "last", "macs", "biases"),
        [
            (8, {}, 1, 1, 3 * 2, 2),
            (8, {}, 3, 3, 9 * 2, 2),
            (8, {}, 1, 4, (3 + 6 + 9 + 12) * 2, 8),
            (8, {"use_bias": False}, 2, 3, (6 + 9) * 2, 0),
            ([3, 1, 5, 2], {}, 3, 3, 9 * 5, 5),
            ([3, 1, 5, 2], {}, 1, 4, 3 * 3 + 6 * 1 + 9 * 5 + 12 * 2, 11),
        ],
    )
    def test_by_hand(self, units, options, first, last, macs, biases, execution):
        layer = built(make(units, execution=execution, **options), (12,))
        span = {"first": first, "last": last}
        assert layer.kernel_macs((None, 3 * last), **span) == macs
        assert layer.used_parameters((None, 3 * last), **span) == macs + biases

    @pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
    def test_sums(self, units):
        """Steps add up to the whole, which is what is not masked."""
        layer = built(make(units), (12,))
        for count in (layer.kernel_macs, layer.used_parameters):
            steps = [count((None, 3 * k), first=k, last=k) for k in range(1, 5)]
            assert sum(steps) == count((None, 12))
        used = layer.count_params() - masked(layer, units).sum()
        assert layer.used_parameters((None, 12)) == used

    def test_heads_of_the_papers_net(self):
        """Eight heads of ten classes on 32, 64, .., 256 features."""
        layer = SlicedDense(8 * [10], slices=8, kernel_initializer="ones")
        layer.build((None, 256))
        for k in range(1, 9):
            macs = layer.kernel_macs((None, 32 * k), first=k, last=k)
            assert macs == 320 * k
        assert layer.kernel_macs((None, 256)) == 320 * 36


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_file_of_a_model(execution, tmp_path):
    """Ranges are arguments of the calls; masked weights stay zero."""
    units = UNITS["unequal"]
    layer = make(units, execution=execution, name="heads")
    layer.build((None, 12))
    features = keras.Input((12,))
    ends = [
        layer(features[:, : 3 * last], first=first, last=last)
        for first, last in ((1, 2), (3, 3), (1, 4))
    ]
    model = keras.Model(features, ends)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.get_layer("heads")
    assert type(again) is SlicedDense and again.get_config() == layer.get_config()
    np.testing.assert_array_equal(to_numpy(again.kernel) == 0, masked(layer, units))
    for found, expected in zip(loaded(X), model(X), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert keras.models.clone_model(model).output_shape == model.output_shape


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_lower_precision(policy, execution):
    layer = make(dtype=policy, execution=execution)
    layer.build((None, 12))
    randomize(layer)
    name = policy.removeprefix("mixed_")
    for first, last in ((1, 4), (2, 3), (4, 4)):
        found = layer(X[:, : 3 * last], first=first, last=last)
        assert keras.backend.standardize_dtype(found.dtype) == name
        found = to_numpy(keras.ops.cast(found, "float32"))
        expected = reference(layer, 8, first, last)
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)
        features = keras.Input((3 * last,))
        assert layer(features, first=first, last=last).dtype == name


class TestMirrorsDense:
    def test_defaults(self):
        theirs = keras.layers.Dense(8, name="dense").get_config()
        ours = SlicedDense(8, slices=2, name="dense").get_config()
        own = {"units": [4, 4], "slices": 2, "execution": "masked"}
        assert ours == {**theirs, **own}

    def test_arguments(self):
        options = {
            "activation": "relu",
            "use_bias": True,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "bias_initializer": "ones",
            "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.2),
            "bias_regularizer": "l2",
            "activity_regularizer": "l1",
            "kernel_constraint": keras.constraints.MaxNorm(1.5),
            "bias_constraint": "non_neg",
            "name": "dense",
            "trainable": False,
            "dtype": "mixed_bfloat16",
        }
        theirs = keras.layers.Dense(8, **options).get_config()
        ours = SlicedDense([2, 6], slices=2, execution="sliced", **options).get_config()
        own = {"units": [2, 6], "slices": 2, "execution": "sliced"}
        assert ours == {**theirs, **own}
        assert SlicedDense.from_config(ours).get_config() == ours

    def test_units_are_all_outputs(self):
        assert make(UNITS["unequal"]).units == 11 and make(8).units == 8
        assert make((1, 2, 3, 4)).get_config()["units"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (10, "`slices` must divide the units. Received: slices=4 for 10 units"),
        (0, "Received: units=0"),
        ([1, 2, 3], r"one per slice \(4\). Received: units=\[1, 2, 3\]"),
        ([], r"one per slice \(4\). Received: units=\[\]"),
        ([1, 2, 0, 3], "`units` must be a positive integer. Received: units=0"),
        ([1, 2, 2.5, 3], "`units` must be a positive integer. Received: units=2.5"),
        ("8888", "`units` must be .*Received: units="),
        (8.0, "`units` must be .*Received: units=8.0"),
        (None, "`units` must be .*Received: units=None"),
    ],
)
def test_bad_units(units, message):
    with pytest.raises(ValueError, match=message):
        make(units)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 0}, "`slices` must be a positive integer. Received: slices=0"),
        ({"slices": True}, "`slices` must be a positive integer"),
        ({"slices": 2.0}, "`slices` must be a positive integer. Received: slices=2.0"),
        ({"execution": "dense"}, "`execution` must be one of 'masked', .*='dense'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SlicedDense(8, **{"slices": 4, **options})


def test_features_in_whole_slices():
    message = "`slices` must divide the features. Received: slices=4 for 10 features"
    with pytest.raises(ValueError, match=message):
        make()(X[:, :10])


@pytest.mark.parametrize(
    ("features", "span", "message"),
    [
        (12, {"last": 5}, "`last` must be from 1 to 4. Received: last=5"),
        (12, {"last": 0}, "`last` must be a positive integer. Received: last=0"),
        (12, {"first": 0}, "`first` must be a positive integer. Received: first=0"),
        (6, {"first": 3, "last": 2}, "`first` must be from 1 to 2. Received: first=3"),
        (12, {"first": True}, "`first` must be a positive integer.*first=True"),
        (12, {"last": 2}, "must have 6 features for last=2. Received: 12 features"),
        (3, {"first": 2, "last": 2}, "must have 6 features for last=2. Received: 3"),
        (6, {}, "must have 12 features for last=4. Received: 6 features"),
    ],
)
def test_bad_slices(features, span, message):
    layer = built(make(), (12,))
    for call in (
        lambda: layer(X[:, :features], **span),
        lambda: layer(keras.Input((features,)), **span),
        lambda: layer.compute_output_shape((None, features), **span),
        lambda: layer.kernel_macs((None, features), **span),
        lambda: layer.used_parameters((None, features), **span),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_vectors_only():
    layer = built(make(), (12,))
    with pytest.raises(ValueError, match="expected ndim=2, found ndim=3"):
        layer(X[:, None])
