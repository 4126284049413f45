import inspect
import math

import keras
import numpy as np
import pytest

from keras_dyngate import SlicedConv2D
from keras_dyngate.layers.slices import TriangularInitializer
from tests import layer_checks
from tests.backend_utils import gradients
from tests.stubs import built, randomize

pytestmark = [pytest.mark.usefixtures("numpy_initializers"), pytest.mark.heavy]

to_numpy = keras.ops.convert_to_numpy
SHAPE = (7, 6, 8)
X = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype("float32")
OWN = {"slices", "sliced_inputs", "execution"}
EXECUTIONS = ("masked", "sliced")
RANGES = [(1, 4), (1, 1), (2, 3), (2, 4), (3, 3)]


def make(filters=12, kernel_size=3, **options):
    """Four slices: of 8 channels two each, of 12 filters three each."""
    return SlicedConv2D(filters, kernel_size, slices=4, **options)


def inputs_of(layer, first, last, x=X):
    """The channels that the layer wants for slices first..last."""
    if not layer.sliced_inputs:
        return x
    part = x.shape[-1] // 4
    start = 0 if layer.groups == 1 else (first - 1) * part
    return x[..., start : last * part]


def convolve(x, kernel, strides, padding, dilation):
    """A convolution by loops over the window, float64."""
    x, spans = x.astype("float64"), []
    for axis in (0, 1):
        spans.append((kernel.shape[axis] - 1) * dilation[axis] + 1)
    if padding == "same":
        pads = [(0, 0)]
        for axis in (0, 1):
            side, stride = x.shape[axis + 1], strides[axis]
            total = (math.ceil(side / stride) - 1) * stride + spans[axis] - side
            pads.append((max(total, 0) // 2, max(total, 0) - max(total, 0) // 2))
        x = np.pad(x, [*pads, (0, 0)])
    tall, wide = ((x.shape[a + 1] - spans[a]) // strides[a] + 1 for a in (0, 1))
    found = np.zeros((len(x), tall, wide, kernel.shape[-1]))
    for i, j in np.ndindex(*kernel.shape[:2]):
        rows = slice(i * dilation[0], i * dilation[0] + tall * strides[0], strides[0])
        columns = slice(
            j * dilation[1], j * dilation[1] + wide * strides[1], strides[1]
        )
        found += x[:, rows, columns][:, :tall, :wide] @ kernel[i, j].astype("float64")
    return found


def reference(layer, first=1, last=4, x=X):
    """Slices first..last, each from the inputs that it reads and no others."""
    kernel = to_numpy(layer.kernel)
    channels, filters, found = x.shape[-1], layer.filters, []
    for j in range(first, last + 1):
        own = range((j - 1) * filters // 4, j * filters // 4)
        for filter_ in own:
            if layer.groups > 1:
                group = filter_ * layer.groups // filters
                rows = channels // layer.groups
                read = x[..., group * rows : (group + 1) * rows]
            else:
                rows = channels * j // 4 if layer.sliced_inputs else channels
                read = x[..., :rows]
            y = convolve(
                read,
                kernel[:, :, :rows, [filter_]],
                layer.strides,
                layer.padding,
                layer.dilation_rate,
            )
            found.append(y + to_numpy(layer.bias)[filter_] if layer.use_bias else y)
    found = np.concatenate(found, axis=-1)
    return found.clip(0) if layer.activation is keras.activations.relu else found


def masked(layer, channels=8):
    """True where a weight must not matter."""
    rows = np.arange(channels) // (channels // 4)
    columns = np.arange(layer.filters) // (layer.filters // 4)
    return np.broadcast_to(rows[:, None] > columns, layer.kernel.shape)


@pytest.fixture
def arguments_of_conv2d(monkeypatch):
    """What `get_config` must hold: the arguments of Conv2D (but LoRA's) and its own."""

    def arguments(cls):
        names = inspect.signature(keras.layers.Conv2D.__init__).parameters
        return {*names, *OWN} - {"self", "kwargs"}

    monkeypatch.setattr(layer_checks, "constructor_arguments", arguments)


CASES = {
    "plain": {},
    "same, strides": {"kernel_size": (2, 3), "padding": "same", "strides": 2},
    "strides 3 and 1": {"strides": (3, 1), "activation": "relu"},
    "dilated": {"dilation_rate": (2, 1), "padding": "same"},
    "1x1": {"kernel_size": 1, "use_bias": False},
    "first layer": {"sliced_inputs": False, "padding": "same"},
    "group per slice": {"groups": 4, "padding": "same", "use_bias": False},
    "two groups per slice": {"groups": 8, "filters": 16, "strides": 2},
}


@pytest.mark.parametrize(
    ("execution", "options", "output_shape"),
    [
        ("masked", {"padding": "same", "activation": "tanh"}, (7, 6, 12)),
        ("sliced", {"sliced_inputs": False, "use_bias": False}, (5, 4, 12)),
        ("masked", {"groups": 4, "kernel_regularizer": "l2"}, (5, 4, 12)),
    ],
)
def test_layer(execution, options, output_shape, tmp_path, arguments_of_conv2d):
    layer_checks.run_layer_test(
        lambda: make(execution=execution, **options),
        SHAPE,
        output_shape,
        tmp_path / "conv.keras",
    )


@pytest.mark.parametrize("case", CASES)
def test_by_loops(case):
    """Both executions, every range of slices; a kernel without zeros of its own."""
    for execution in EXECUTIONS:
        layer = built(make(execution=execution, **CASES[case]), SHAPE)
        assert to_numpy(layer.kernel).all()
        for first, last in RANGES:
            x = inputs_of(layer, first, last)
            found = layer(x, first=first, last=last)
            expected = reference(layer, first, last)
            assert tuple(found.shape) == expected.shape
            shape = layer.compute_output_shape(x.shape, first=first, last=last)
            assert shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(layer(X), layer(X, first=1, last=4))


def test_reference_against_keras():
    """The loops of this file, where there is nothing to mask."""
    for options in CASES.values():
        if options.get("groups"):
            continue
        options = {"filters": 12, "kernel_size": 3, **options, "sliced_inputs": False}
        layer = built(make(**options), SHAPE)
        del options["sliced_inputs"]
        conv = built(keras.layers.Conv2D(**options), SHAPE)
        np.testing.assert_allclose(conv(X), reference(layer), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("groups", [1, 4])
def test_one_slice_after_the_other(execution, groups):
    """Steps on what earlier steps had, and all at once: numbers, MACs, parameters."""
    layer = built(make(execution=execution, groups=groups), SHAPE)
    steps, macs, parameters = [], 0, 0
    for k in range(1, 5):
        x = inputs_of(layer, k, k)
        steps.append(to_numpy(layer(x, first=k, last=k)))
        macs += layer.kernel_macs(x.shape, first=k, last=k)
        parameters += layer.used_parameters(x.shape, first=k, last=k)
    whole = np.concatenate(steps, axis=-1)
    np.testing.assert_allclose(layer(X), whole, rtol=1e-5, atol=1e-6)
    assert macs == layer.kernel_macs(X.shape)
    assert parameters == layer.used_parameters(X.shape)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("groups", [1, 4])
def test_later_inputs_do_not_matter(execution, groups):
    layer = built(make(execution=execution, groups=groups), SHAPE)
    before = to_numpy(layer(X))
    for j in range(1, 4):
        x = X.copy()
        x[..., 2 * j :] = 50.0 - 3.0 * x[..., 2 * j :]
        after = to_numpy(layer(x))
        np.testing.assert_array_equal(after[..., : 3 * j], before[..., : 3 * j])
        assert (after[..., 3 * j :] != before[..., 3 * j :]).all()
        _, slope = gradients(
            lambda x, j=j: keras.ops.sum(keras.ops.square(layer(x)[..., : 3 * j])), X
        )
        assert not slope[..., 2 * j :].any()
        first = 2 * j - 2 if groups > 1 else 0
        assert slope[..., first : 2 * j].all()


def test_sliced_execution_never_touches_what_is_masked():
    """NaN in later inputs, and NaN for every masked weight."""
    layer = built(make(execution="sliced"), SHAPE)
    before = to_numpy(layer(X))
    x = X.copy()
    x[..., 4:] = np.nan
    after = to_numpy(layer(x))
    np.testing.assert_array_equal(after[..., :6], before[..., :6])
    assert np.isnan(after[..., 6:]).all()
    layer.kernel.assign(np.where(masked(layer), np.nan, to_numpy(layer.kernel)))
    np.testing.assert_array_equal(layer(X), before)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_gradient_of_masked_weights_is_zero(execution):
    """Exactly, though the weights themselves are not zero here."""
    layer = built(make(execution=execution), SHAPE)
    for first, last in ((1, 4), (1, 2), (2, 3), (3, 3)):

        def loss(x, first=first, last=last):
            return keras.ops.sum(keras.ops.square(layer(x, first=first, last=last)))

        x = inputs_of(layer, first, last)
        _, _, found = gradients(loss, x, variables=[layer.kernel])
        used = ~masked(layer)
        used[..., : 3 * (first - 1)] = False
        used[..., 3 * last :] = False
        np.testing.assert_array_equal(found != 0, used)


@pytest.mark.parametrize("case", ["plain", "first layer", "group per slice"])
def test_executions_have_the_same_gradients(case):
    found = []
    for execution in EXECUTIONS:
        layer = built(make(execution=execution, **CASES[case]), SHAPE)

        def loss(x, layer=layer):
            return keras.ops.mean(keras.ops.square(layer(x)))

        found.append(gradients(loss, X, variables=layer.trainable_variables))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def regression(layer):
    image = keras.Input(SHAPE)
    y = keras.layers.GlobalAveragePooling2D(dtype="float32")(layer(image))
    return keras.Model(image, keras.layers.Dense(1, dtype="float32")(y))


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda: keras.optimizers.Adam(0.01, weight_decay=0.01, use_ema=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
}


def trained(layer, optimizer, **compile_options):
    """Kernels before and after some steps of `fit`."""
    model = regression(layer)
    before = to_numpy(layer.kernel).copy()
    np.testing.assert_array_equal(before == 0, masked(layer))
    model.compile(optimizer, "mse", **compile_options)
    model.fit(X, np.arange(3.0), batch_size=2, epochs=2, verbose=0)
    after = to_numpy(layer.kernel)
    assert np.isfinite(after).all()
    return before, after


@pytest.mark.parametrize(
    ("optimizer", "execution", "jit_compile"),
    [
        ("sgd", "masked", True),
        ("sgd", "sliced", True),
        ("adam", "masked", True),
        ("adamw", "sliced", "auto"),
    ],
)
def test_masked_weights_stay_zero(optimizer, execution, jit_compile):
    """Through momentum, decay, a regularizer and a constraint; the others all move."""
    layer = make(
        execution=execution,
        kernel_regularizer="l2",
        kernel_constraint=keras.constraints.MaxNorm(2.0, axis=(0, 1, 2)),
    )
    optimizer = OPTIMIZERS[optimizer]()
    before, after = trained(layer, optimizer, jit_compile=jit_compile)
    np.testing.assert_array_equal(after == 0, masked(layer))
    assert (after != before)[~masked(layer)].all()


def test_l1_regularizer_leaves_masked_weights_alone():
    """Where |w| has no slope of its own, and a backend may choose one."""
    layer = make(kernel_regularizer="l1")
    _, after = trained(layer, keras.optimizers.SGD(0.1))
    assert not after[masked(layer)].any()


def test_masked_weights_stay_zero_in_mixed_precision():
    """With the loss scaling that goes with float16."""
    layer = make(dtype="mixed_float16")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    before, after = trained(layer, optimizer)
    np.testing.assert_array_equal(after == 0, masked(layer))
    assert (after != before).any()


class TestInitialKernel:
    @pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "ones"])
    def test_zero_where_masked_alone(self, initializer):
        layer = make(kernel_initializer=initializer)
        layer.build((None, *SHAPE))
        np.testing.assert_array_equal(to_numpy(layer.kernel) == 0, masked(layer))

    @pytest.mark.parametrize("options", [{"sliced_inputs": False}, {"groups": 4}])
    def test_no_zeros_without_a_triangle(self, options):
        layer = make(**options)
        layer.build((None, *SHAPE))
        assert to_numpy(layer.kernel).all()

    def test_initializer_stays_the_users(self):
        given = keras.initializers.HeNormal(seed=3)
        layer = make(kernel_initializer=given)
        config = layer.get_config()
        layer.build((None, *SHAPE))
        assert layer.kernel_initializer is given and layer.get_config() == config
        layer = make(kernel_initializer=given)
        with pytest.raises(ValueError, match="negative"):
            layer.build((None, 1, 1, 8))
        assert layer.kernel_initializer is given


class TestCounts:
    @pytest.mark.parametrize(
        ("options", "first", "last", "macs", "parameters"),
        [
            # 5 x 4 outputs of 3 x 3 windows; slices of 2 channels and 3 filters
            ({}, 1, 1, 20 * 9 * 2 * 3, 9 * 2 * 3 + 3),
            ({}, 3, 3, 20 * 9 * 6 * 3, 9 * 6 * 3 + 3),
            ({}, 2, 4, 20 * 9 * (4 + 6 + 8) * 3, 9 * 18 * 3 + 9),
            ({}, 1, 4, 20 * 9 * (2 + 4 + 6 + 8) * 3, 9 * 20 * 3 + 12),
            ({"use_bias": False}, 1, 2, 20 * 9 * (2 + 4) * 3, 9 * 6 * 3),
            ({"sliced_inputs": False}, 2, 3, 20 * 9 * 8 * 6, 9 * 8 * 6 + 6),
            ({"groups": 4}, 2, 4, 20 * 9 * 2 * 9, 9 * 2 * 9 + 9),
            ({"groups": 8, "filters": 16}, 1, 1, 20 * 9 * 1 * 4, 9 * 4 + 4),
            ({"padding": "same", "strides": 2}, 4, 4, 12 * 9 * 8 * 3, 9 * 8 * 3 + 3),
            ({"kernel_size": (1, 2)}, 1, 1, 35 * 2 * 2 * 3, 2 * 2 * 3 + 3),
        ],
    )
    def test_by_hand(self, options, first, last, macs, parameters):
        layer = built(make(**options), SHAPE)
        shape, span = (
            inputs_of(layer, first, last).shape,
            {"first": first, "last": last},
        )
        for layer.execution in EXECUTIONS:
            assert layer.kernel_macs(shape, **span) == macs
            assert layer.used_parameters(shape, **span) == parameters

    @pytest.mark.parametrize("groups", [1, 4])
    def test_used_parameters_are_those_not_masked(self, groups):
        layer = built(make(groups=groups), SHAPE)
        zeros = masked(layer).sum() if groups == 1 else 0
        assert layer.used_parameters(X.shape) == layer.count_params() - zeros

    def test_table_of_the_paper(self, monkeypatch):
        """Trunk MACs of sub-networks 1 to 8 at the sizes of the paper's experiment."""
        monkeypatch.setattr(  # counts need no numbers
            TriangularInitializer,
            "__call__",
            lambda self, shape, dtype: np.zeros(shape),
        )

        def conv(side, channels, filters, size, groups=1, **options):
            layer = SlicedConv2D(
                filters,
                size,
                slices=8,
                groups=groups,
                padding="same",
                use_bias=False,
                kernel_initializer="zeros",
                **options,
            )
            layer.build((None, side, side, channels))
            return layer

        stem = conv(32, 3, 64, 3, sliced_inputs=False)
        macs = np.array(
            [stem.kernel_macs((None, 32, 32, 3), last=k) for k in range(1, 9)]
        )
        steps = np.array(
            [stem.kernel_macs((None, 32, 32, 3), first=k, last=k) for k in range(1, 9)]
        )
        for stage in range(3):
            side, width, inner = 32 >> stage, 64 << stage, 32 << stage
            for channels, filters, size, groups in (
                (width, inner, 1, 1),
                (inner, inner, 3, 8),
                (inner, width, 1, 1),
            ):
                layer = conv(side, channels, filters, size, groups)
                for k in range(1, 9):
                    shape = (None, side, side, channels * k // 8)
                    macs[k - 1] += 7 * layer.kernel_macs(shape, last=k)
                    if groups > 1:
                        shape = (None, side, side, channels // 8)
                    span = {"first": k, "last": k}
                    steps[k - 1] += 7 * layer.kernel_macs(shape, **span)
        assert macs.tolist() == [
            4_694_016,
            10_764_288,
            18_210_816,
            27_033_600,
            37_232_640,
            48_807_936,
            61_759_488,
            76_087_296,
        ]
        assert np.cumsum(steps).tolist() == macs.tolist()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_file_of_a_model(execution, tmp_path):
    """Ranges are arguments of the calls; masked weights stay zero."""
    layer = make(execution=execution, name="sliced")
    layer.build((None, *SHAPE))
    image = keras.Input(SHAPE)
    ends = [
        layer(inputs_of(layer, first, last, image), first=first, last=last)
        for first, last in ((1, 2), (3, 3), (1, 4))
    ]
    model = keras.Model(image, ends)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.get_layer("sliced")
    assert type(again) is SlicedConv2D and again.get_config() == layer.get_config()
    np.testing.assert_array_equal(to_numpy(again.kernel) == 0, masked(layer))
    for found, expected in zip(loaded(X), model(X), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert keras.models.clone_model(model).output_shape == model.output_shape


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_lower_precision(policy, execution):
    layer = make(dtype=policy, execution=execution)
    layer.build((None, *SHAPE))
    randomize(layer)
    name = policy.removeprefix("mixed_")
    for first, last in ((1, 4), (2, 3)):
        x = inputs_of(layer, first, last)
        found = layer(x, first=first, last=last)
        assert keras.backend.standardize_dtype(found.dtype) == name
        found = to_numpy(keras.ops.cast(found, "float32"))
        expected = reference(layer, first, last)
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)
        image = keras.Input(x.shape[1:])
        assert layer(image, first=first, last=last).dtype == name


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_unknown_image_size(execution):
    layer = make(padding="same", strides=2, execution=execution)
    image = keras.Input((None, None, 8))
    model = keras.Model(image, layer(image))
    assert model.output_shape == (None, None, None, 12)
    assert layer(keras.Input((None, None, 4)), last=2).shape == (None, None, None, 6)
    for side in (3, 5, 6):
        x = X[:, :side, :side]
        found = model.predict(x, verbose=0)
        expected = reference(layer, x=x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


class TestMirrorsConv2D:
    def test_defaults(self):
        theirs = keras.layers.Conv2D(8, 3, name="conv").get_config()
        ours = SlicedConv2D(8, 3, slices=2, name="conv").get_config()
        own = {"slices": 2, "sliced_inputs": True, "execution": "masked"}
        assert ours == {**theirs, **own}

    def test_arguments(self):
        options = {
            "strides": (2, 1),
            "padding": "same",
            "data_format": "channels_last",
            "dilation_rate": 1,
            "groups": 2,
            "activation": "relu",
            "use_bias": True,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "bias_initializer": "ones",
            "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.2),
            "bias_regularizer": "l2",
            "activity_regularizer": "l1",
            "kernel_constraint": keras.constraints.MaxNorm(1.5, axis=(0, 1, 2)),
            "bias_constraint": "non_neg",
            "name": "conv",
            "trainable": False,
            "dtype": "mixed_bfloat16",
        }
        theirs = keras.layers.Conv2D(8, (3, 2), **options).get_config()
        layer = SlicedConv2D(8, (3, 2), slices=2, execution="sliced", **options)
        ours = layer.get_config()
        own = {"slices": 2, "sliced_inputs": True, "execution": "sliced"}
        assert ours == {**theirs, **own}
        assert SlicedConv2D.from_config(ours).get_config() == ours


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"filters": 10},
            "`slices` must divide the filters. Received: slices=4 for 10",
        ),
        ({"groups": 6}, "`slices` must divide the groups. Received: slices=4 for 6"),
        (
            {"groups": 4, "sliced_inputs": False},
            "`groups` above 1 need `sliced_inputs=True`. Received: groups=4",
        ),
        ({"execution": "dense"}, "`execution` must be one of 'masked', .*='dense'"),
        ({"execution": None}, "`execution` must be one of 'masked', .*=None"),
        ({"data_format": "channels_first"}, "`data_format` must be 'channels_last'"),
        ({"filters": 0}, "Received filters=0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("slices", [0, -1, 2.0, True, None, "2"])
def test_bad_number_of_slices(slices):
    message = f"`slices` must be a positive integer. Received: slices={slices!r}"
    with pytest.raises(ValueError, match=message):
        SlicedConv2D(8, 3, slices=slices)


def test_global_data_format():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            make()
        assert make(data_format="channels_last").data_format == "channels_last"
    finally:
        keras.config.set_image_data_format("channels_last")


def test_channels_in_whole_slices():
    message = "`slices` must divide the channels. Received: slices=4 for 6 channels"
    with pytest.raises(ValueError, match=message):
        make()(X[..., :6])
    assert make(sliced_inputs=False)(X[..., :3]).shape == (3, 5, 4, 12)


@pytest.mark.parametrize(
    ("options", "channels", "span", "message"),
    [
        ({}, 8, {"last": 5}, "`last` must be from 1 to 4. Received: last=5"),
        ({}, 8, {"last": 0}, "`last` must be a positive integer. Received: last=0"),
        ({}, 8, {"first": 0}, "`first` must be a positive integer.*first=0"),
        ({}, 4, {"first": 3, "last": 2}, "`first` must be from 1 to 2.*first=3"),
        ({}, 8, {"first": True}, "`first` must be a positive integer.*first=True"),
        ({}, 8, {"last": 2}, "4 channels for first=1, last=2. Received: 8 channels"),
        ({}, 2, {"first": 2, "last": 2}, "must have 4 channels for first=2, last=2"),
        ({}, 4, {}, "must have 8 channels for first=1, last=4. Received: 4 channels"),
        (
            {"groups": 4},
            4,
            {"first": 2, "last": 2},
            "must have 2 channels for first=2, last=2. Received: 4 channels",
        ),
        (
            {"sliced_inputs": False},
            2,
            {"last": 1},
            "(must have 8 channels|to have value 8).*([Rr]eceived)",
        ),
    ],
)
def test_bad_slices(options, channels, span, message):
    layer = built(make(**options), SHAPE)
    shape = (7, 6, channels)
    for call in (
        lambda: layer(X[..., :channels], **span),
        lambda: layer(keras.Input(shape), **span),
        lambda: layer.compute_output_shape((None, *shape), **span),
        lambda: layer.kernel_macs((None, *shape), **span),
        lambda: layer.used_parameters((None, *shape), **span),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_images_only():
    layer = built(make(), SHAPE)
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        layer(X[0])
