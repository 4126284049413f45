import inspect
import re

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.layers.slices import TriangularInitializer
from tests.stubs import images, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

layers = keras.layers
ops = keras.ops
CONSTRUCTORS = [
    "inclusive_resnext",
    "inclusive_resnext50",
    "sliced_resnet",
    "sliced_resnext",
    "sliced_resnext50",
]
TAXONOMY = kd.HierarchicalTaxonomy([0, 1, 1, 0, 2])
TINY = {"blocks": 1, "width": 6, "subnetworks": 3, "input_shape": (8, 8, 3)}
GROUPED = {**TINY, "branch_width": 2, "cardinality": 6}


def unfilled(construct, **arguments):
    """A net of zeros, for counting: at full size the draws would take the time."""

    def zeros(self, shape, dtype=None):
        return ops.zeros(shape, dtype)

    with pytest.MonkeyPatch.context() as patch:
        for drawn in (keras.initializers.VarianceScaling, TriangularInitializer):
            patch.setattr(drawn, "__call__", zeros)
        return construct(**arguments)


@pytest.fixture(scope="module")
def inclusive():
    net = unfilled(kd.inclusive_resnext)
    return net, kd.count_macs(net)


@pytest.fixture(scope="module")
def sliced():
    net = unfilled(kd.sliced_resnext)
    return net, kd.count_macs(net)


def trainable(model):
    return sum(np.prod(w.shape, dtype=int) for w in model.trainable_weights)


def triangle(k, count):
    """Share of a block lower-triangular matrix that sub-network k has."""
    return k * (k + 1) / (2 * count**2)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="sizes are the same on any backend"
)
class TestInclusiveResNeXt:
    """The paper's net: k, MACs of convolutions and head, parameters used."""

    TABLE = [
        (15_878_656, 108_298),
        (29_985_280, 205_514),
        (44_091_904, 302_730),
        (58_198_528, 399_946),
        (72_305_152, 497_162),
        (86_411_776, 594_378),
        (100_518_400, 691_594),
        (114_625_024, 788_810),
    ]
    STEM = 32 * 32 * 27 * 64

    def test_macs(self, inclusive):
        _, profile = inclusive
        macs, _ = zip(*self.TABLE, strict=True)
        assert profile.per_subnetwork == macs
        assert profile.total == sum(row.macs for row in profile.layers) == macs[-1]

    def test_steps_save_the_stem_alone(self, inclusive):
        _, profile = inclusive
        first, *later = profile.per_subnetwork
        assert profile.per_step == (first, *(macs - self.STEM for macs in later))

    def test_parameters(self, inclusive):
        net, _ = inclusive
        found = [net.parameters_at(k) for k in range(1, 9)]
        assert found == [parameters for _, parameters in self.TABLE]
        assert trainable(net) == 876_240

    def test_cifar100(self):
        net = unfilled(kd.inclusive_resnext, classes=100)
        assert trainable(net) == 1_061_280
        assert net.output_shape == (None, 8, 100)

    def test_shapes(self, inclusive):
        net, _ = inclusive
        assert net.subnetworks == 8
        assert (net.input_shape, net.output_shape) == ((None, 32, 32, 3), (None, 8, 10))
        assert net.name == "inclusive_resnext"

    def test_names(self, inclusive):
        net, _ = inclusive
        expected = {"conv1"}
        for k in range(1, 9):
            expected |= {f"final_bn_k{k}", f"head_{k}"}
        for stage in (1, 2, 3):
            for block in range(1, 8):
                for i in (1, 2, 3):
                    prefix = f"stage{stage}_block{block}"
                    expected.add(f"{prefix}_conv{i}")
                    expected |= {f"{prefix}_bn{i}_k{k}" for k in range(1, 9)}
        names = {layer.name for layer in net.layers if layer.trainable_weights}
        assert names == expected

    def test_kernels(self, inclusive):
        net, _ = inclusive
        shapes = {
            name: tuple(net.get_layer(name).kernel.shape)
            for name in (
                "conv1",
                "stage1_block1_conv1",
                "stage1_block7_conv2",
                "stage3_block1_conv1",
                "stage3_block7_conv2",
                "stage3_block7_conv3",
                "head_3",
            )
        }
        assert shapes == {
            "conv1": (3, 3, 3, 64),
            "stage1_block1_conv1": (1, 1, 64, 32),
            "stage1_block7_conv2": (3, 3, 4, 32),
            "stage3_block1_conv1": (1, 1, 256, 128),
            "stage3_block7_conv2": (3, 3, 16, 128),
            "stage3_block7_conv3": (1, 1, 128, 256),
            "head_3": (256, 10),
        }
        assert net.get_layer("stage2_block2_conv2").groups == 8


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="sizes are the same on any backend"
)
class TestSlicedResNeXt:
    """The notes' list: MACs of the trunk, for k = 1 to 8."""

    TRUNK = [
        4_694_016,
        10_764_288,
        18_210_816,
        27_033_600,
        37_232_640,
        48_807_936,
        61_759_488,
        76_087_296,
    ]
    HEADS = [10 * 256 * k // 8 for k in range(1, 9)]

    def test_macs(self, sliced):
        _, profile = sliced
        trunk = np.subtract(profile.per_subnetwork, self.HEADS)
        assert trunk.tolist() == self.TRUNK
        assert profile.total == profile.per_subnetwork[-1]

    def test_steps_add_up(self, sliced):
        _, profile = sliced
        trunk = np.subtract(profile.per_step, self.HEADS)
        assert np.cumsum(trunk).tolist() == self.TRUNK

    def test_parameters(self, sliced):
        """Per block and pixel of the notes' formula, and what costs no MACs."""
        net, _ = sliced
        for k in range(1, 9):
            used = 27 * 64 * k // 8 + 10 * (256 * k // 8 + 1) + 2 * 256 * k // 8
            for wide, inner in ((64, 32), (128, 64), (256, 128)):
                kernels = 2 * wide * inner * triangle(k, 8) + 9 * inner**2 / 8 * k / 8
                used += 7 * int(kernels + 2 * (wide + 2 * inner) * k / 8)
            assert net.parameters_at(k) == used

    def test_shared_heads(self):
        """Cost the same at once, and in steps their own slice alone."""
        net = unfilled(kd.sliced_resnext, heads="shared")
        profile = kd.count_macs(net)
        assert np.subtract(profile.per_subnetwork, self.HEADS).tolist() == self.TRUNK
        trunk = np.subtract(profile.per_step, 10 * 256 // 8)
        assert np.cumsum(trunk).tolist() == self.TRUNK

    def test_names(self, sliced):
        net, _ = sliced
        blocks = [f"stage{s}_block{b}" for s in (1, 2, 3) for b in range(1, 8)]
        kinds = ["bn1", "conv1", "bn2", "conv2", "bn3", "conv3"]
        names = {layer.name for layer in net.layers if layer.trainable_weights}
        assert names == {
            "conv1",
            "final_bn",
            "heads",
            *(f"{block}_{kind}" for block in blocks for kind in kinds),
        }


def test_sliced_resnet():
    """Two blocks of two 3x3 convolutions per stage; a stage costs what any other does."""
    net = unfilled(kd.sliced_resnet)
    profile = kd.count_macs(net)
    assert net.subnetworks == 4 and net.output_shape == (None, 4, 10)
    heads = [10 * 256 * k // 4 for k in range(1, 5)]
    full = [
        32 * 32 * 27 * 64 * k // 4 + int(12 * 1024 * 9 * 64**2 * triangle(k, 4))
        for k in range(1, 5)
    ]
    assert np.subtract(profile.per_subnetwork, heads).tolist() == full
    assert np.cumsum(np.subtract(profile.per_step, heads)).tolist() == full
    kernels = sum(4 * 9 * wide**2 for wide in (64, 128, 256))
    norms = sum(2 * (4 * wide) for wide in (64, 128, 256)) + 2 * 256
    assert net.parameters_at(4) == (
        27 * 64 + int(kernels * triangle(4, 4)) + norms + 10 * 257
    )
    kinds = ["bn1", "conv1", "bn2", "conv2"]
    names = {layer.name for layer in net.layers if layer.trainable_weights}
    assert names == {
        "conv1",
        "final_bn",
        "heads",
        *(
            f"stage{s}_block{b}_{kind}"
            for s in (1, 2, 3)
            for b in (1, 2)
            for kind in kinds
        ),
    }


@pytest.mark.heavy
class TestLarge:
    """224x224: 56x56 after the stem; four stages, whose inner widths are 128 to 1024."""

    STEM = 112 * 112 * 49 * 3 * 64
    STAGES = [(3, 56, 256), (4, 28, 512), (6, 14, 1024), (3, 7, 2048)]

    def test_inclusive(self):
        net = unfilled(kd.inclusive_resnext50)
        profile = kd.count_macs(net)
        rows = {row.layer: row.macs for row in profile.layers}
        stage2 = sum(macs for name, macs in rows.items() if name.startswith("stage2_"))
        assert stage2 == 4 * 28 * 28 * (512 * 256 + 9 * 8 * 256 + 256 * 512)
        assert rows["conv1"] == self.STEM and rows["head_4"] == 2048 * 1000
        for k in (1, 2, 3, 4):
            macs = self.STEM + 2048 * 1000
            for blocks, side, wide in self.STAGES:
                inner = wide // 2 * k // 4
                kernels = 2 * wide * inner + 9 * (wide // 64) * inner
                macs += blocks * side**2 * kernels
            assert profile.per_subnetwork[k - 1] == macs
        assert profile.per_step[1] == profile.per_subnetwork[1] - self.STEM
        assert (net.input_shape, net.output_shape) == (
            (None, 224, 224, 3),
            (None, 4, 1000),
        )

    def test_sliced(self):
        net = unfilled(kd.sliced_resnext50)
        profile = kd.count_macs(net)
        rows = {row.layer: row.macs for row in profile.layers}
        stage3 = sum(macs for name, macs in rows.items() if name.startswith("stage3_"))
        assert stage3 == 6 * 14 * 14 * (
            1024 * 512 * 10 // 16 + 9 * 16 * 512 + 512 * 1024 * 10 // 16
        )
        trunk = []
        for k in (1, 2, 3, 4):
            macs = self.STEM * k // 4
            for blocks, side, wide in self.STAGES:
                inner = wide // 2
                kernels = 2 * wide * inner * triangle(k, 4)
                kernels += 9 * (wide // 64) * inner * k / 4
                macs += blocks * side**2 * int(kernels)
            trunk.append(macs)
        heads = [1000 * 512 * k for k in (1, 2, 3, 4)]
        assert np.subtract(profile.per_subnetwork, heads).tolist() == trunk
        assert np.cumsum(np.subtract(profile.per_step, heads)).tolist() == trunk
        assert net.name == "sliced_resnext50"


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_small_imagenet_stem(stem):
    """The stem is a choice of every constructor, and so is the size of the images."""
    net = unfilled(
        kd.sliced_resnet,
        stem=stem,
        blocks=1,
        width=16,
        subnetworks=2,
        input_shape=(64, 32, 3),
    )
    stages = 4 if stem == "imagenet" else 3
    rows = {row.layer: row.macs for row in kd.count_macs(net).layers}
    side = 16 * 8 if stem == "imagenet" else 64 * 32
    for stage in range(stages):
        name = f"stage{stage + 1}_block1_conv1"
        assert rows[name] == (side >> 2 * stage) * 9 * (16 << stage) ** 2 * 3 // 4
    expected = 32 * 16 * 49 * 3 * 4 if stem == "imagenet" else 64 * 32 * 27 * 16
    assert rows["conv1"] == expected
    assert len(rows) == 2 * stages + 2
    assert net.output_shape == (None, 2, 1000 if stem == "imagenet" else 10)


class Plain:
    """Sub-network k of a net in ordinary layers, which carry its part of the weights.

    Args:
        net: Whose weights to take.
        k: The sub-network.
        blocks: Of every stage.
        heads: "own" (an I-ResNeXt), "private" or "shared".
        coarse: How many heads are coarse.
        groups: Of all sub-networks' 3x3 convolutions; 1: blocks are plain.
        large: Whether the stem is "imagenet".
    """

    def __init__(self, net, k, blocks, heads, coarse=0, groups=1, large=False):
        self.net, self.k, self.count = net, k, net.subnetworks
        self.blocks, self.heads, self.coarse = blocks, heads, coarse
        self.groups, self.large = groups, large
        self.inclusive = heads == "own"

    def weights(self, name):
        return self.net.get_layer(name).get_weights()

    def prefix(self, array, axis):
        """The first k / K along an axis."""
        size = array.shape[axis] * self.k // self.count
        return np.take(array, range(size), axis)

    def triangular(self, kernel):
        """Rows and columns of slices 1..k, zero where a later slice would be read."""
        kernel = kernel.copy()
        rows, columns = (size // self.count for size in kernel.shape[-2:])
        for j in range(self.count):
            kernel[..., (j + 1) * rows :, j * columns : (j + 1) * columns] = 0
        return self.prefix(self.prefix(kernel, -2), -1)

    def conv(self, x, kernel, groups=1, **options):
        layer = layers.Conv2D(
            kernel.shape[-1],
            kernel.shape[0],
            groups=groups,
            use_bias=False,
            **{"padding": "same", **options},
        )
        y = layer(x)
        layer.set_weights([kernel])
        return y

    def norm_relu(self, x, name):
        if self.inclusive:
            weights = self.weights(f"{name}_k{self.k}")
        else:
            weights = [self.prefix(w, 0) for w in self.weights(name)]
        layer = layers.BatchNormalization(epsilon=1e-5)
        y = layer(x)
        layer.set_weights(weights)
        return layers.ReLU()(y)

    def widen(self, x, times):
        """Zero channels after each slice; after all of them where there are none."""
        pieces = 1 if self.inclusive else self.k
        part = x.shape[-1] // pieces
        slices = [x[..., i * part : (i + 1) * part] for i in range(pieces)]
        with_zeros = [[s, *[ops.zeros_like(s)] * (times - 1)] for s in slices]
        return layers.Concatenate()(sum(with_zeros, []))

    def block(self, x, name):
        kernels = [
            self.weights(f"{name}_conv{i}")[0] for i in range(1, 3 + (self.groups > 1))
        ]
        if self.inclusive:
            kernels[0] = self.prefix(kernels[0], -1)
            kernels[2] = self.prefix(kernels[2], -2)
        else:
            for i in (0, -1):
                kernels[i] = self.triangular(kernels[i])
        groups = [1] * len(kernels)
        if self.groups > 1:
            kernels[1] = self.prefix(kernels[1], -1)
            groups[1] = self.groups * self.k // self.count
        u = x
        for i, (kernel, number) in enumerate(zip(kernels, groups, strict=True), 1):
            u = self.conv(self.norm_relu(u, f"{name}_bn{i}"), kernel, number)
        return layers.Add()([x, u])

    def stem(self, image):
        (kernel,) = self.weights("conv1")
        kernel = kernel if self.inclusive else self.prefix(kernel, -1)
        if not self.large:
            return self.conv(image, kernel)
        x = layers.ZeroPadding2D(3)(image)
        x = self.conv(x, kernel, strides=2, padding="valid")
        return self.widen(layers.MaxPooling2D(3, 2, "same")(x), 4)

    def head(self, x):
        if self.heads == "own":
            kernel, bias = self.weights(f"head_{self.k}")
        elif self.heads == "shared":
            level = "coarse" if self.k <= self.coarse else "fine"
            kernel, bias = self.weights(f"{level}_head")
        else:
            units = [3] * self.coarse + [5] * (self.count - self.coarse)
            first = sum(units[: self.k - 1])
            columns = slice(first, first + units[self.k - 1])
            kernel, bias = (w[..., columns] for w in self.weights("heads"))
        if self.heads != "own":
            kernel = self.prefix(kernel, 0)
        layer = layers.Dense(kernel.shape[-1])
        y = layer(x)
        layer.set_weights([kernel, bias])
        return y

    def __call__(self, image):
        x = self.stem(image)
        for stage, blocks in enumerate(self.blocks, 1):
            if stage > 1:
                x = self.widen(layers.AveragePooling2D(2)(x), 2)
            for index in range(1, blocks + 1):
                x = self.block(x, f"stage{stage}_block{index}")
        return self.head(layers.GlobalAveragePooling2D()(self.norm_relu(x, "final_bn")))


LARGE = {"stem": "imagenet", "width": 8, "subnetworks": 2, "input_shape": (64, 64, 3)}
REFERENCES = {
    "inclusive": (
        "inclusive_resnext",
        {**GROUPED, "width": 5, "blocks": (1, 2, 1)},
        {"heads": "own", "groups": 6},
    ),
    "resnext_private": (
        "sliced_resnext",
        {**GROUPED, "coarse_heads": 2},
        {"heads": "private", "groups": 6, "coarse": 2},
    ),
    "resnet_shared": (
        "sliced_resnet",
        {**TINY, "coarse_heads": 1, "heads": "shared", "blocks": (1, 2, 1)},
        {"heads": "shared", "coarse": 1},
    ),
    "large_inclusive": (
        "inclusive_resnext",
        {**GROUPED, **LARGE, "coarse_heads": 1},
        {"heads": "own", "groups": 6, "large": True},
    ),
    "large_resnet": (
        "sliced_resnet",
        {**TINY, **LARGE, "execution": "sliced"},
        {"heads": "private", "large": True},
    ),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_against_plain_nets(kind):
    """Every sub-network is a plain pre-activation net with its part of the weights."""
    name, arguments, plan = REFERENCES[kind]
    blocks = arguments["blocks"]
    if blocks == 1:
        blocks = (1,) * (4 if "large" in plan else 3)
    mean, std = (0.3, 0.4, 0.6), (0.2, 0.3, 0.4)
    options = {"taxonomy": TAXONOMY, "mean": mean, "std": std}
    net = getattr(kd, name)(**arguments, **options, classifier_activation=None)
    randomize(net)
    numbers = range(1, net.subnetworks + 1)
    raw, normal = (keras.Input(net.input_shape[1:], name=n) for n in ("raw", "normal"))
    plain = {f"plain_{k}": Plain(net, k, blocks, **plan)(normal) for k in numbers}
    both = keras.Model({"raw": raw, "normal": normal}, {"net": net(raw), **plain})
    x = images(6, *net.input_shape[1:])
    normalized = ((x / 255.0 - mean) / std).astype("float32")
    found = both.predict({"raw": x, "normal": normalized}, verbose=0)
    for k in numbers:
        expected = found[f"plain_{k}"]
        classes = 3 if k <= arguments.get("coarse_heads", 0) else 5
        assert expected.shape == (6, classes)
        assert np.ptp(expected, axis=0).min() > 0.01
        scores = found["net"][:, k - 1, :classes]
        np.testing.assert_allclose(
            scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )
        assert (found["net"][:, k - 1, classes:] == -1e9).all()


@pytest.fixture(scope="module", params=["inclusive_resnext", "sliced_resnext"])
def net(request, module_numpy_initializers):
    return getattr(kd, request.param)(**GROUPED)


class TestLayersWithin:
    def test_normalizations(self, net):
        norms = [n for n in net.layers if isinstance(n, layers.BatchNormalization)]
        sets = 3 if net.name == "inclusive_resnext" else 1
        assert len(norms) == sets * (3 * 3 + 1)
        assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-5, 0.9)}

    def test_kernels(self, net):
        wide = [n for n in net.layers if isinstance(n, (layers.Conv2D, layers.Dense))]
        for layer in wide:
            config = layer.kernel_initializer.get_config()
            assert config["scale"] == 1 / 3
            assert (config["mode"], config["distribution"]) == ("fan_in", "uniform")
            assert layer.use_bias == isinstance(layer, layers.Dense)
        assert len(wide) == 1 + 9 + (3 if net.name == "inclusive_resnext" else 1)
        assert len({layer.kernel_initializer.seed for layer in wide}) == len(wide)


def test_normalization_is_inside():
    net = kd.sliced_resnet(**TINY, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    layer = net.get_layer("preprocessing")
    x = images(2, 8, 8, 3)
    expected = (x / 255.0 - (0.1, 0.2, 0.3)) / (0.4, 0.5, 0.6)
    found = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    raw = kd.sliced_resnet(**TINY, include_preprocessing=False)
    assert "preprocessing" not in [layer.name for layer in raw.layers]


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"classes": 4}, (3, 4)),
        ({"classes": 1}, (3, 1)),
        ({"taxonomy": TAXONOMY}, (3, 5)),
        ({"taxonomy": TAXONOMY, "coarse_heads": 3, "heads": "shared"}, (3, 5)),
        ({"subnetworks": 1}, (1, 10)),
        ({"input_shape": (9, 7, 1), "include_preprocessing": False}, (3, 10)),
    ],
)
def test_outputs(arguments, shape):
    net = kd.sliced_resnet(**{**TINY, **arguments})
    assert net.output_shape == (None, *shape)
    assert net.output.dtype == "float32"


class TestSignatures:
    @pytest.mark.parametrize("name", CONSTRUCTORS)
    def test_every_parameter_is_documented(self, name):
        construct = getattr(kd, name)
        assert construct.__name__ == construct.__qualname__ == name
        parameters = inspect.signature(construct).parameters
        _, _, args = construct.__doc__.partition("Args:\n")
        args = args.partition("Returns:")[0]
        listed = re.findall(r"^        ([a-z_]+(?:, [a-z_]+)*): \S", args, re.MULTILINE)
        assert [n for names in listed for n in names.split(", ")] == list(parameters)
        assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
        for key in ("blocks", "width", "subnetworks"):
            found = re.search(
                rf"^        {key}: .*?Default (.*?)\.$", args, re.M | re.S
            )
            assert found[1] == str(parameters[key].default)
        for section in ("Returns:", "Raises:", "References:"):
            assert section in construct.__doc__

    @pytest.mark.parametrize(
        ("name", "defaults"),
        [
            (
                "inclusive_resnext",
                {
                    "blocks": 7,
                    "width": 64,
                    "branch_width": 4,
                    "cardinality": 8,
                    "subnetworks": 8,
                },
            ),
            (
                "sliced_resnext",
                {
                    "blocks": 7,
                    "width": 64,
                    "branch_width": 4,
                    "cardinality": 8,
                    "subnetworks": 8,
                    "heads": "private",
                    "execution": "masked",
                },
            ),
            (
                "sliced_resnet",
                {
                    "blocks": 2,
                    "width": 64,
                    "subnetworks": 4,
                    "heads": "private",
                    "execution": "masked",
                },
            ),
            (
                "sliced_resnext50",
                {
                    "blocks": (3, 4, 6, 3),
                    "width": 256,
                    "branch_width": 4,
                    "cardinality": 32,
                    "subnetworks": 4,
                    "stem": "imagenet",
                    "heads": "private",
                    "execution": "masked",
                },
            ),
            (
                "inclusive_resnext50",
                {
                    "blocks": (3, 4, 6, 3),
                    "width": 256,
                    "branch_width": 4,
                    "cardinality": 32,
                    "subnetworks": 4,
                    "stem": "imagenet",
                },
            ),
        ],
    )
    def test_defaults(self, name, defaults):
        parameters = inspect.signature(getattr(kd, name)).parameters
        assert {key: p.default for key, p in parameters.items()} == {
            "stem": "cifar",
            "input_shape": None,
            "classes": None,
            "classifier_activation": "softmax",
            "taxonomy": None,
            "coarse_heads": 0,
            "include_preprocessing": True,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "name": name,
            **defaults,
        }

    @pytest.mark.parametrize(
        ("name", "argument"),
        [
            ("inclusive_resnext", "heads"),
            ("inclusive_resnext", "execution"),
            ("inclusive_resnext50", "family"),
            ("sliced_resnet", "cardinality"),
            ("sliced_resnet", "branch_width"),
            ("sliced_resnext", "slices"),
        ],
    )
    def test_unknown_arguments(self, name, argument):
        message = rf"^{name}\(\) got an unexpected keyword argument '{argument}'"
        with pytest.raises(TypeError, match=message):
            getattr(kd, name)(**{argument: 2})

    def test_no_positional_arguments(self):
        with pytest.raises(TypeError):
            kd.sliced_resnext(7)

    def test_name(self):
        assert kd.sliced_resnet(**TINY, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("inclusive_resnext", {"subnetworks": 4}, "divide the cardinality. .*=4 for 6"),
        ("sliced_resnext", {"subnetworks": 4}, "divide the cardinality. .*=4 for 6 ca"),
        ("sliced_resnext", {"width": 8}, "must divide the width. .*=3 for 8 width"),
        ("sliced_resnet", {"width": 8}, "must divide the width. .*=3 for 8 width"),
        ("sliced_resnet", {"blocks": (1, 1)}, r"`blocks` must be .*\(3\).*\(1, 1\)"),
        ("sliced_resnet", {"stem": "mnist"}, "`stem` must be one of .*'mnist'"),
        ("sliced_resnet", {"heads": "own"}, "`heads` must be one of .*'own'"),
        ("sliced_resnet", {"coarse_heads": 1}, "`coarse_heads` needs a `taxonomy`"),
        (
            "inclusive_resnext",
            {"taxonomy": TAXONOMY, "classes": 10},
            "`taxonomy` must have the 10 classes of the net. .*one of 5 fine classes",
        ),
        (
            "inclusive_resnext",
            {"taxonomy": TAXONOMY, "coarse_heads": 4},
            "`coarse_heads` must be an integer from 0 to 3. Received: coarse_heads=4",
        ),
        ("sliced_resnet", {"classifier_activation": "nope"}, "activation.*nope"),
    ],
)
def test_bad_arguments(name, arguments, message):
    base = TINY if name == "sliced_resnet" else GROUPED
    with pytest.raises(ValueError, match=message):
        getattr(kd, name)(**{**base, **arguments})


@pytest.mark.parametrize(
    "name", ["inclusive_resnext", "sliced_resnext", "sliced_resnet"]
)
def test_channels_first_is_refused(name):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            getattr(kd, name)()
    finally:
        keras.config.set_image_data_format(before)
