import inspect

import keras
import numpy as np
import pytest

from keras_dyngate import NestedConv2D, _hooks
from tests import layer_checks
from tests.backend_utils import gradients
from tests.stubs import built, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

to_numpy = keras.ops.convert_to_numpy
SHAPE = (7, 6, 8)
X = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype("float32")
OWN = {"subnetworks", "nested"}


def make(nested="both", filters=12, kernel_size=3, **options):
    return NestedConv2D(filters, kernel_size, subnetworks=4, nested=nested, **options)


def sizes(layer, k, channels=SHAPE[-1]):
    """Input channels and filters of sub-network k of 4."""
    rows = channels if layer.nested == "filters" else channels * k // 4
    columns = layer.filters if layer.nested == "inputs" else layer.filters * k // 4
    return rows, columns


def plain(layer, k):
    """`keras.layers.Conv2D` with the sub-kernel as its kernel."""
    rows, columns = sizes(layer, k)
    groups = layer.groups * k // 4 if layer.groups > 1 else 1
    conv = keras.layers.Conv2D(
        columns,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        groups=groups,
        activation=layer.activation,
        use_bias=layer.use_bias,
    )
    conv.build((None, *SHAPE[:2], rows))
    conv.kernel.assign(to_numpy(layer.kernel)[:, :, : rows // groups, :columns])
    if layer.use_bias:
        conv.bias.assign(to_numpy(layer.bias)[:columns])
    return conv, X[..., :rows]


@pytest.fixture
def arguments_of_conv2d(monkeypatch):
    """What `get_config` must hold: the arguments of Conv2D (but LoRA's) and its own."""

    def arguments(cls):
        names = inspect.signature(keras.layers.Conv2D.__init__).parameters
        return {*names, *OWN} - {"self", "kwargs"}

    monkeypatch.setattr(layer_checks, "constructor_arguments", arguments)


CASES = {
    "filters": {"nested": "filters"},
    "filters, same": {"nested": "filters", "padding": "same", "use_bias": False},
    "inputs": {"nested": "inputs", "strides": 2},
    "inputs, dilated": {"nested": "inputs", "dilation_rate": 2, "padding": "same"},
    "both": {"kernel_size": (3, 1), "strides": (2, 1), "activation": "relu"},
    "both, 1x1": {"kernel_size": 1, "use_bias": False},
    "groups": {"groups": 4, "padding": "same"},
    "depthwise": {"groups": 8, "filters": 16, "strides": 2, "padding": "same"},
}


@pytest.mark.parametrize(
    ("options", "output_shape"),
    [
        ({"nested": "filters", "padding": "same", "strides": 2}, (4, 3, 12)),
        ({"nested": "inputs", "kernel_regularizer": "l2"}, (5, 4, 12)),
        ({"groups": 4, "activation": "tanh", "use_bias": False}, (5, 4, 12)),
    ],
)
def test_layer(options, output_shape, tmp_path, arguments_of_conv2d):
    layer_checks.run_layer_test(
        lambda: make(**options), SHAPE, output_shape, tmp_path / "conv.keras"
    )


@pytest.mark.parametrize("case", CASES)
def test_subnetworks_are_plain_convolutions(case):
    layer = built(make(**CASES[case]), SHAPE)
    for k in range(1, 5):
        conv, x = plain(layer, k)
        found, expected = layer(x, k=k), conv(x)
        assert found.shape == expected.shape
        assert layer.compute_output_shape(x.shape, k=k) == tuple(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer(X), layer(X, k=4))


def test_one_subnetwork_is_a_convolution():
    layer = NestedConv2D(12, 3, subnetworks=1)
    conv = keras.layers.Conv2D(12, 3)
    for made in (layer, conv):
        built(made, SHAPE)
    np.testing.assert_array_equal(layer(X), conv(X))


@pytest.mark.parametrize(
    ("nested", "groups"), [("filters", 1), ("inputs", 1), ("both", 1), ("both", 4)]
)
def test_reads_no_more_than_its_prefix(nested, groups):
    """NaN everywhere else, and gradients inside the prefix only."""
    layer = built(make(nested, groups=groups), SHAPE)
    kernel, bias = to_numpy(layer.kernel), to_numpy(layer.bias)
    for k in (1, 3):
        rows, columns = sizes(layer, k)
        height = rows if groups == 1 else 2
        own, own_bias = np.full_like(kernel, np.nan), np.full_like(bias, np.nan)
        own[:, :, :height, :columns] = kernel[:, :, :height, :columns]
        own_bias[:columns] = bias[:columns]
        expected = to_numpy(layer(X[..., :rows], k=k))
        layer.kernel.assign(own)
        layer.bias.assign(own_bias)
        np.testing.assert_array_equal(layer(X[..., :rows], k=k), expected)
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)

        def loss(x, k=k):
            return keras.ops.sum(keras.ops.square(layer(x, k=k)))

        _, _, by_kernel, by_bias = gradients(
            loss, X[..., :rows], variables=[layer.kernel, layer.bias]
        )
        np.testing.assert_array_equal(by_kernel != 0, np.isfinite(own))
        np.testing.assert_array_equal(by_bias != 0, np.isfinite(own_bias))


@pytest.mark.parametrize("options", [{"groups": 12}, {"groups": 48, "use_bias": False}])
def test_many_groups(options):
    """More than one dense convolution can stand for: outputs and gradients."""
    layer = make(filters=96, **options)
    shape = (5, 4, 48)
    built(layer, shape)
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    for k in (1, 4):
        groups = layer.groups * k // 4
        conv = keras.layers.Conv2D(24 * k, 3, groups=groups, use_bias=layer.use_bias)
        conv.build((None, 5, 4, 12 * k))
        for ours, theirs in zip(layer.weights, conv.weights, strict=True):
            theirs.assign(to_numpy(ours)[..., : 24 * k])
        found = []
        for call in (lambda x, k=k: layer(x, k=k), conv):
            variables = (conv if call is conv else layer).trainable_variables
            part = x[..., : 12 * k]
            slopes = gradients(
                lambda x, call=call: keras.ops.sum(keras.ops.sin(call(x))),
                part,
                variables=variables,
            )
            found.append([to_numpy(call(part)), *slopes])
        for index, (one, other) in enumerate(zip(*found, strict=True)):
            one = one[..., : 24 * k] if index > 2 else one  # of a variable
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pieces", [(1, 3), (2, 4)])
@pytest.mark.parametrize("case", ["filters", "inputs", "both", "groups"])
def test_pieces_of_the_kernel_make_the_same(case, pieces):
    """As an exporter cuts it; also for sub-networks between two cuts."""
    layer = built(make(**CASES[case]), SHAPE)
    for k in (2, 4):
        x = X[..., : sizes(layer, k)[0]]
        expected = to_numpy(layer(x, k=k))
        with _hooks.in_pieces(pieces):
            np.testing.assert_allclose(layer(x, k=k), expected, rtol=1e-5, atol=1e-6)


def test_narrower_filters_are_the_first_of_the_wider():
    layer = built(make("filters"), SHAPE)
    whole = to_numpy(layer(X))
    for k in range(1, 4):
        found = to_numpy(layer(X, k=k))
        np.testing.assert_allclose(found, whole[..., : 3 * k], rtol=1e-5, atol=1e-6)


class TestCounts:
    @pytest.mark.parametrize(
        ("options", "macs", "parameters"),
        [
            # 5 x 4 outputs of 3 x 3 windows
            ({"nested": "filters"}, 20 * 9 * 8 * 3, 9 * 8 * 3 + 3),
            ({"nested": "inputs"}, 20 * 9 * 2 * 12, 9 * 2 * 12 + 12),
            ({"nested": "both"}, 20 * 9 * 2 * 3, 9 * 2 * 3 + 3),
            ({"use_bias": False}, 20 * 9 * 2 * 3, 9 * 2 * 3),
            ({"groups": 4}, 20 * 9 * 2 * 3, 9 * 2 * 3 + 3),
            ({"groups": 8, "filters": 16}, 20 * 9 * 1 * 4, 9 * 4 + 4),
            ({"padding": "same", "strides": 2}, 12 * 9 * 2 * 3, 9 * 2 * 3 + 3),
            ({"kernel_size": (1, 2)}, 35 * 2 * 2 * 3, 2 * 2 * 3 + 3),
        ],
    )
    def test_first_subnetwork(self, options, macs, parameters):
        layer = built(make(**options), SHAPE)
        shape = (None, *SHAPE[:2], sizes(layer, 1)[0])
        assert layer.kernel_macs(shape, k=1) == macs
        assert layer.used_parameters(shape, k=1) == parameters
        assert layer.used_parameters((None, *SHAPE)) == layer.count_params()

    @pytest.mark.parametrize(
        ("options", "growth"),
        [
            ({"nested": "filters"}, [1, 2, 3, 4]),
            ({"nested": "inputs"}, [1, 2, 3, 4]),
            ({"nested": "both"}, [1, 4, 9, 16]),
            ({"groups": 4}, [1, 2, 3, 4]),
        ],
    )
    def test_growth(self, options, growth):
        layer = built(make(use_bias=False, **options), SHAPE)
        shapes = [(None, *SHAPE[:2], sizes(layer, k)[0]) for k in range(1, 5)]
        for count in (layer.kernel_macs, layer.used_parameters):
            found = [count(shape, k=k) for k, shape in enumerate(shapes, 1)]
            assert found == [n * found[0] for n in growth]

    def test_table_of_the_paper(self):
        """All convolutions of the I-ResNeXt of the paper: MACs and parameters of k."""
        macs = np.full(8, 32 * 32 * 27 * 64 + 256 * 10)  # stem and head
        parameters = np.full(8, 27 * 64 + 257 * 10 + 2 * 256)  # last BN too
        for stage in range(3):
            side, width, inner = 32 >> stage, 64 << stage, 32 << stage
            convs = [
                (width, inner, 1, "filters", 1),
                (inner, inner, 3, "both", 8),
                (inner, width, 1, "inputs", 1),
            ]
            for channels, filters, size, nested, groups in convs:
                conv = NestedConv2D(
                    filters,
                    size,
                    subnetworks=8,
                    nested=nested,
                    groups=groups,
                    padding="same",
                    use_bias=False,
                    kernel_initializer="zeros",
                )
                conv.build((None, side, side, channels))
                for k in range(1, 9):
                    used = channels if nested == "filters" else channels * k // 8
                    shape = (None, side, side, used)
                    macs[k - 1] += 7 * conv.kernel_macs(shape, k=k)
                    normed = 2 * used
                    parameters[k - 1] += 7 * (conv.used_parameters(shape, k=k) + normed)
        assert macs.tolist() == [
            15_878_656,
            29_985_280,
            44_091_904,
            58_198_528,
            72_305_152,
            86_411_776,
            100_518_400,
            114_625_024,
        ]
        assert parameters.tolist() == [
            108_298,
            205_514,
            302_730,
            399_946,
            497_162,
            594_378,
            691_594,
            788_810,
        ]


def two_subnetworks(layer):
    """A model of sub-networks 1 and 4 of one layer."""
    image = keras.Input(SHAPE)
    layer.build((None, *SHAPE))
    means = keras.layers.GlobalAveragePooling2D(dtype="float32")
    narrow = layer(image[..., : sizes(layer, 1)[0]], k=1)
    return keras.Model(image, [means(narrow), means(layer(image))])


@pytest.mark.parametrize("nested", ["filters", "inputs", "both"])
def test_file_of_a_model(nested, tmp_path):
    layer = make(nested, name="nested")
    model = two_subnetworks(layer)
    randomize(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("nested")) is NestedConv2D
    for found, expected in zip(loaded(X), model(X), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert loaded.output_shape == model.output_shape
    copy = keras.models.clone_model(model)
    assert copy.output_shape == model.output_shape


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("options", [{"nested": "filters"}, {"groups": 4}])
def test_training_a_subnetwork_moves_its_prefix_alone(options, jit_compile):
    layer = make(**options)
    model = two_subnetworks(layer)
    narrow = keras.Model(model.input, model.outputs[0])
    narrow.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    before = to_numpy(layer.kernel).copy()
    narrow.fit(X, np.ones((3, 3)), batch_size=2, verbose=0)
    moved = to_numpy(layer.kernel) != before
    assert moved[..., :3].all() and not moved[..., 3:].any()
    assert (to_numpy(layer.bias) != 0).tolist() == 3 * [True] + 9 * [False]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize("options", [{"nested": "inputs"}, {"groups": 4}])
def test_lower_precision(policy, options):
    exact = built(make(**options), SHAPE)
    layer = make(dtype=policy, **options)
    layer.build((None, *SHAPE))
    layer.set_weights(exact.get_weights())
    x = X[..., :4]
    found = layer(x, k=2)
    name = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(found.dtype) == name
    found = to_numpy(keras.ops.cast(found, "float32"))
    np.testing.assert_allclose(found, exact(x, k=2), rtol=0.05, atol=0.05)
    assert layer(keras.Input((7, 6, 4)), k=2).dtype == name


def test_unknown_image_size():
    layer = make(padding="same", strides=2)
    layer.build((None, None, None, 8))
    assert layer(keras.Input((None, None, 4)), k=2).shape == (None, None, None, 6)
    assert layer.compute_output_shape((None, 9, None, 2), k=1) == (None, 5, None, 3)
    for side in (4, 5):
        half = (side + 1) // 2
        assert tuple(layer(X[:, :side, :side]).shape) == (3, half, half, 12)


class TestMirrorsConv2D:
    def test_defaults(self):
        theirs = keras.layers.Conv2D(8, 3, name="conv").get_config()
        ours = NestedConv2D(8, 3, subnetworks=2, name="conv").get_config()
        assert ours == {**theirs, "subnetworks": 2, "nested": "both"}

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
        ours = NestedConv2D(8, (3, 2), subnetworks=2, **options).get_config()
        assert ours == {**theirs, "subnetworks": 2, "nested": "both"}
        again = NestedConv2D.from_config(ours)
        assert again.get_config() == ours

    def test_regularizer_and_constraint_see_the_whole_kernel(self):
        layer = make(
            kernel_regularizer=keras.regularizers.L2(0.5),
            kernel_constraint=keras.constraints.NonNeg(),
        )
        built(layer, SHAPE)
        layer(X[..., :2], k=1)
        kernel = to_numpy(layer.kernel).astype("float64")
        assert (kernel < 0).any()
        np.testing.assert_allclose(
            to_numpy(layer.losses[0]), 0.5 * np.square(kernel).sum(), rtol=1e-5
        )
        model = keras.Sequential([keras.Input(SHAPE), layer])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.fit(X, np.zeros((3, 5, 4, 12)), verbose=0)
        np.testing.assert_array_equal(layer.kernel, kernel.clip(0).astype("float32"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 10}, "`subnetworks` must divide the filters. Received: .*=4 for"),
        ({"filters": 10, "nested": "filters"}, "`subnetworks` must divide the filters"),
        ({"groups": 6}, "must divide the groups. Received: subnetworks=4 for 6 groups"),
        (
            {"groups": 4, "nested": "filters"},
            "`groups` above 1 need .*groups=4, nested",
        ),
        ({"groups": 2, "nested": "inputs"}, "`groups` above 1 need `nested='both'`"),
        ({"nested": "all"}, "`nested` must be one of 'filters', .*nested='all'"),
        ({"nested": None}, "`nested` must be one of 'filters', .*nested=None"),
        ({"data_format": "channels_first"}, "`data_format` must be 'channels_last'"),
        ({"filters": 0}, "Received filters=0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("subnetworks", [0, -1, 2.0, True, None, "2"])
def test_bad_subnetworks(subnetworks):
    message = f"`subnetworks` must be a positive integer. Received: .*={subnetworks!r}"
    with pytest.raises(ValueError, match=message):
        NestedConv2D(8, 3, subnetworks=subnetworks)


def test_global_data_format():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            make()
        assert make(data_format="channels_last").data_format == "channels_last"
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("nested", ["inputs", "both"])
def test_input_channels_in_whole_parts(nested):
    message = "`subnetworks` must divide the input channels. Received: .*=4 for 6"
    with pytest.raises(ValueError, match=message):
        make(nested)(X[..., :6])
    assert make("filters")(X[..., :6], k=1).shape == (3, 5, 4, 3)


@pytest.mark.parametrize("k", [0, 5, -1, 1.0, True, "1"])
def test_bad_k(k):
    layer = built(make("filters"), SHAPE)
    shape = (None, *SHAPE)
    message = f"`k` must be .*Received: k={k!r}"
    for call in (
        lambda: layer(X, k=k),
        lambda: layer(keras.Input(SHAPE), k=k),
        lambda: layer.compute_output_shape(shape, k=k),
        lambda: layer.kernel_macs(shape, k=k),
        lambda: layer.used_parameters(shape, k=k),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("nested", "k", "channels", "expected"),
    [
        ("both", 2, 8, 4),
        ("both", None, 4, 8),
        ("inputs", 1, 4, 2),
        ("filters", 1, 2, 8),
    ],
)
def test_bad_width(nested, k, channels, expected):
    layer = built(make(nested), SHAPE)
    shape = (7, 6, channels)
    message = f"must have {expected} channels for k=.*Received: {channels} channels"
    for call in (
        lambda: layer(X[..., :channels], k=k),
        lambda: layer(keras.Input(shape), k=k),
        lambda: layer.compute_output_shape((None, *shape), k=k),
        lambda: layer.kernel_macs((None, *shape), k=k),
        lambda: layer.used_parameters((None, *shape), k=k),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_images_only():
    layer = built(make(), SHAPE)
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        layer(X[0])
