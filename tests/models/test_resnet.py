import inspect
import re

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.resnet import (
    ARCHITECTURES,
    gated_resnet,
    lc_resnet,
    resnet,
)
from tests.stubs import images, outputs, randomize

pytestmark = [pytest.mark.usefixtures("numpy_initializers"), pytest.mark.heavy]

SMALL = {"input_shape": (8, 8, 3), "width": 0.25}


def blocks(model):
    return [layer for layer in model.layers if hasattr(layer, "channel_gate")]


@pytest.mark.parametrize(
    ("depth", "stages", "convolutions"),
    [
        (20, (3, 3, 3), 2),
        (32, (5, 5, 5), 2),
        (44, (7, 7, 7), 2),
        (18, (2, 2, 2, 2), 2),
        (34, (3, 4, 6, 3), 2),
        (50, (3, 4, 6, 3), 3),
    ],
)
def test_depths(depth, stages, convolutions):
    """The depth is the stem, the convolutions of the blocks, and the classifier."""
    model = getattr(kd, f"resnet{depth}")(input_shape=(32, 32, 3), width=1 / 16)
    names = [
        f"stage{stage}_block{index}"
        for stage, count in enumerate(stages, 1)
        for index in range(1, count + 1)
    ]
    assert [block.name for block in blocks(model)] == names
    assert 2 + convolutions * len(names) == depth
    assert {len(block.convs) for block in blocks(model)} == {convolutions}
    assert model.name == f"resnet{depth}"


@pytest.mark.parametrize("depth", [56, 110, 101, 152])
def test_depths_by_their_tables(depth):
    arch = ARCHITECTURES[depth]
    kernels = 3 if depth > 100 and len(arch.blocks) == 4 else 2
    assert 2 + kernels * sum(arch.blocks) == depth
    assert callable(getattr(kd, f"gated_resnet{depth}"))


class TestStem:
    """One 3x3 convolution in place of 7x7 and pooling, for nets of 224x224 images."""

    def test_resnet101(self):
        model = kd.resnet101(stem="cifar")
        assert (model.input_shape, model.output_shape) == (
            (None, 32, 32, 3),
            (None, 10),
        )
        total, shares = self.count(model)
        assert total == 2_509_983_744
        assert shares == [0.0876, 0.2213, 0.8947]
        names = [layer.name for layer in model.layers[:5]]
        assert names == ["image", "preprocessing", "conv1", "bn1", "relu1"]

    def test_default(self):
        total, shares = self.count(kd.resnet101())
        assert total == 7_801_405_440
        assert shares == [0.1007, 0.2325, 0.8960]

    @staticmethod
    def count(model):
        total = kd.count_macs(model).total
        ends = [
            kd.count_macs(keras.Model(model.input, model.get_layer(name).output))
            for name in ("stage1_block3", "stage2_block4", "stage3_block23")
        ]
        return total, [round(end.total / total, 4) for end in ends]

    @pytest.mark.parametrize("depth", [18, 50])
    def test_gated(self, depth):
        arguments = {"stem": "cifar", "width": 1 / 16, "input_shape": (16, 16, 3)}
        plain = randomize(getattr(kd, f"resnet{depth}")(**arguments))
        gated = getattr(kd, f"gated_resnet{depth}")(**arguments)
        kd.load_trunk_weights(gated, plain)
        x = images(2, 16, 16, 3)
        with kd.force_open_rate(gated, 1.0):
            found = outputs(gated, x)
        np.testing.assert_allclose(found, outputs(plain, x), rtol=1e-4, atol=1e-6)
        assert kd.count_macs(gated).total == kd.count_macs(plain).total

    def test_none_is_the_net_of_the_paper(self):
        arguments = {"input_shape": (32, 32, 3), "width": 1 / 16}
        nets = [kd.resnet18(stem=stem, **arguments) for stem in (None, "imagenet")]
        assert kd.count_macs(nets[0]) == kd.count_macs(nets[1])
        other = kd.resnet18(stem="cifar", classes=1000, **arguments)
        with pytest.raises(ValueError, match=r"'conv1.weight' must .*\(3, 3, 3, 4\)"):
            kd.load_trunk_weights(other, nets[0])

    def test_bad(self):
        with pytest.raises(ValueError, match="`stem` must be one of .*stem='mnist'"):
            kd.gated_resnet18(stem="mnist")


def test_normalization_is_inside():
    raw = kd.resnet20(include_preprocessing=False, **SMALL)
    mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.4)
    full = kd.resnet20(mean=mean, std=std, **SMALL)
    imagenet = kd.resnet20(**SMALL)
    randomize(raw)
    for model in (full, imagenet):
        kd.load_trunk_weights(model, raw)
    x = images(3, 8, 8, 3)
    for model, m, s in (
        (full, mean, std),
        (imagenet, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        normal = ((x / 255.0 - np.array(m)) / np.array(s)).astype("float32")
        np.testing.assert_allclose(
            outputs(model, x),
            outputs(raw, normal),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (None, 10)),
        ({"classes": 3}, (None, 3)),
        ({"include_top": False}, (None, 2, 2, 16)),
        ({"include_top": False, "pooling": "avg"}, (None, 16)),
        ({"include_top": False, "pooling": "max"}, (None, 16)),
        ({"include_top": False, "width": 0.5}, (None, 2, 2, 32)),
        ({"include_top": False, "input_shape": (None, 9, 3)}, (None, None, 3, 16)),
    ],
)
def test_heads(arguments, shape):
    model = kd.resnet20(**{**SMALL, **arguments})
    assert model.output_shape == shape


def test_pooling_and_classifier():
    features = kd.resnet20(include_top=False, **SMALL)
    randomize(features)
    x = images(3, 8, 8, 3)
    maps = outputs(features, x)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = kd.resnet20(include_top=False, pooling=pooling, **SMALL)
        kd.load_trunk_weights(pooled, features)
        np.testing.assert_allclose(
            outputs(pooled, x), reduce(maps, axis=(1, 2)), rtol=1e-5, atol=1e-6
        )
    probabilities = outputs(kd.resnet20(**SMALL), x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    logits = kd.resnet20(classifier_activation=None, **SMALL)
    assert logits.get_layer("predictions").activation is keras.activations.linear


def test_gated_with_all_open_is_the_plain_net():
    plain = randomize(kd.resnet20(**SMALL))
    gated = kd.load_trunk_weights(
        kd.gated_resnet20(gates=kd.Gates(layer="binary"), **SMALL), plain
    )
    x = images(3, 8, 8, 3)
    expected = outputs(plain, x)
    with kd.force_open_rate(gated, 1.0):
        found = outputs(gated, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with kd.force_open_rate(gated, 0.0):
        assert (abs(outputs(gated, x) - expected) > 1e-4).any()


class TestGates:
    def test_one_per_channel_by_default(self):
        model = kd.gated_resnet20(**SMALL)
        units = [b.channel_gate.units for b in blocks(model)]
        assert units == [4] * 3 + [8] * 3 + [16] * 3
        assert all(b.layer_gate is None for b in blocks(model))

    def test_group_size(self):
        model = kd.gated_resnet20(gates=kd.Gates(group_size=4), **SMALL)
        units = [b.channel_gate.units for b in blocks(model)]
        assert units == [1] * 3 + [2] * 3 + [4] * 3
        assert {b.group_size for b in blocks(model)} == {4}

    def test_groups_of_a_bottleneck_are_per_convolution(self):
        model = kd.gated_resnet50(
            gates=kd.Gates(layer="binary", groups=2),
            input_shape=(32, 32, 3),
            width=1 / 16,
        )
        assert {b.channel_gate.units for b in blocks(model)} == {4}
        assert [b.group_size for b in blocks(model)][::4] == [2, 4, 8, 8]
        assert {b.layer_gate.units for b in blocks(model)} == {1}

    def test_layer_gates_alone(self):
        model = kd.gated_resnet20(gates=kd.Gates(None, "binary"), **SMALL)
        assert all(b.channel_gate is None for b in blocks(model))
        assert all(b.layer_gate.units == 1 for b in blocks(model))

    def test_own_controllers_and_regularizers(self):
        model = kd.gated_resnet20(
            gates=kd.Gates(
                channel=lambda units: kd.BinaryGate(
                    units, hidden=2, regularizers="batch_shaping"
                ),
                layer="binary",
                channel_regularizers=kd.GateSparsity(0.2),
                layer_regularizers=["gate_sparsity"],
            ),
            **SMALL,
        )
        for block in blocks(model):
            assert block.channel_gate.hidden == 2
            items = block.channel_gate.regularizers
            assert [item.name for item in items] == ["batch_shaping", "gate_sparsity"]
            assert items[1].coefficient == 0.2
            assert [r.coefficient for r in block.layer_gate.regularizers] == [0.01]
        gates = [block.channel_gate for block in blocks(model)]
        assert len({id(g.regularizers[1]) for g in gates}) == len(gates)

    def test_channels_differ_from_gate_to_gate(self):
        """Gates made one after the other do not draw the same noise."""
        states = [
            tuple(keras.ops.convert_to_numpy(b.channel_gate.seed_generator.state))
            for b in blocks(kd.gated_resnet20(**SMALL))
        ]
        assert len(set(states)) == len(states)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "sum"}, "`pooling` must be None, 'avg' or 'max'. Received: pool"),
        ({"width": 0}, "`width` must be positive. Received: width=0"),
        ({"classes": 0}, "`classes` must be a positive integer. Received: classes=0"),
        ({"input_shape": (8, 8)}, r"`input_shape` must be .*Received: .*\(8, 8\)"),
        ({"input_shape": (8, 8, None)}, "`input_shape` must be .*known channels"),
        (
            {"input_shape": (3, 32, 32)},
            "`input_shape` must be .height, width, channels",
        ),
        ({"gates": kd.Gates(groups=2, group_size=2)}, "Give one of `group_size` and"),
        ({"gates": kd.Gates(groups=3)}, "`groups` must divide .*16 .*groups=3"),
        ({"gates": kd.Gates(groups=0)}, "`groups` must be a positive integer"),
        ({"gates": kd.Gates(group_size=32)}, "`group_size` must divide .*_size=32"),
        ({"gates": kd.Gates(group_size=3)}, "`group_size` must divide .*_size=3"),
        ({"gates": kd.Gates(group_size=0)}, "`group_size` must be a positive integer"),
        ({"gates": kd.Gates("soft")}, "A gate must be None, one of"),
        ({"gates": kd.Gates(kd.BinaryGate(16))}, "A model needs a gate per place"),
        (
            {"gates": kd.Gates(lambda units: kd.BinaryGate(5))},
            "The gate must have 16 units here. Received: units=5",
        ),
        ({"weights": "imagenet"}, "`weights` must be None or the path of"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.gated_resnet20(**{"input_shape": (8, 8, 3), **arguments})


def test_unexpected_arguments():
    with pytest.raises(TypeError, match=r"gated_resnet\(\) got .*'gate_size'"):
        kd.gated_resnet20(gate_size=3)
    with pytest.raises(TypeError, match=r"^resnet\(\) got .*'gates'"):
        kd.resnet20(gates=kd.Gates())
    with pytest.raises(TypeError):
        kd.resnet20(10)


def test_channels_first_is_refused():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="`data_format` must be 'channels_last'"):
            kd.resnet20(**SMALL)
    finally:
        keras.config.set_image_data_format(before)


def test_whole_net_in_a_file(tmp_path):
    model = kd.gated_resnet20(
        gates=kd.Gates(
            layer="binary",
            groups=2,
            channel_regularizers=["batch_shaping", "gate_sparsity"],
        ),
        **SMALL,
    )
    randomize(model)
    x = images(4, 8, 8, 3)
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))
    assert kd.count_macs(loaded) == kd.count_macs(model)
    for ours, theirs in zip(blocks(model), blocks(loaded), strict=True):
        states = [b.channel_gate.seed_generator.state for b in (ours, theirs)]
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, states))
        unit_macs = [b.channel_gate.unit_macs.tolist() for b in (ours, theirs)]
        assert unit_macs[0] == unit_macs[1]


def test_every_depth_has_a_signature_and_a_docstring_of_its_own():
    for build in (resnet, gated_resnet, lc_resnet):
        _, *arguments = inspect.signature(build).parameters.values()
        for depth in ARCHITECTURES:
            name = f"{build.__name__}{depth}"
            make = getattr(kd, name)
            assert make.__name__ == name
            assert list(inspect.signature(make).parameters.values()) == arguments
            doc = inspect.getdoc(make)
            assert f"ResNet-{depth}" in doc.splitlines()[0]
            assert f"kd.{name}(" in doc and "depth:" not in doc
            missing = {a.name for a in arguments if not re.search(rf"{a.name}\W", doc)}
            assert not missing
    assert "= Gates()," in str(inspect.signature(kd.gated_resnet18))
    assert repr(kd.Gates(None, groups=4)) == "Gates(channel=None, groups=4)"


def gates_of(block):
    return [block.channel_gate, block.layer_gate]


def test_names_stems_and_gates_that_are_not_the_default():
    assert kd.gated_resnet20(gates=None, **SMALL).name == "gated_resnet20"
    assert not blocks(kd.gated_resnet20(gates=None, **SMALL))[0].channel_gate
    model = kd.resnet20(stem="imagenet", width=1 / 16, name="large")
    assert model.name == "large"
    assert model.input_shape[1:] == (224, 224, 3) and model.output_shape[-1] == 1000


class TestLCNets:
    def test_modes(self):
        found = {}
        for mode in ("lc", "l", "c"):
            block = blocks(kd.lc_resnet20(mode=mode, leak=0.1, **SMALL))[0]
            found[mode] = [
                gate and (type(gate), gate.leak)
                for gate in (block.layer_gate, block.channel_gate)
            ]
        salience = (kd.SalienceController, 0.1)
        assert found == {
            "lc": [salience, salience],
            "l": [salience, None],
            "c": [None, salience],
        }

    @pytest.mark.parametrize(("activations", "units"), [(None, 2), ("both", 4)])
    def test_bottlenecks_are_masked_at_the_last_activation(self, activations, units):
        model = kd.lc_resnet50(
            gates=kd.Gates(groups=2, activations=activations),
            input_shape=(32, 32, 3),
            width=1 / 16,
        )
        assert blocks(model)[0].channel_gate.units == units

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mode": "cl"}, "`mode` must be one of 'lc', 'l', 'c'"),
            ({"gates": kd.Gates("salience")}, "must leave `channel` and `layer` to `m"),
            ({"gates": kd.Gates(layer="binary")}, "must leave `channel` and `layer`"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            kd.lc_resnet20(**arguments, **SMALL)


def test_the_old_arguments_of_gates():
    old = {
        "channel_gate": "salience",
        "layer_gate": "binary",
        "gate_groups": 2,
        "gate_regularizers": "gate_sparsity",
        "layer_regularizers": "batch_shaping",
        "gated_activations": "last",
    }
    gates = kd.Gates("salience", "binary", 2, None, *list(old.values())[3:])
    small = {"input_shape": (32, 32, 3), "width": 1 / 16}
    with pytest.warns(DeprecationWarning, match="version 0.3") as found:
        model = kd.gated_resnet50(**old, **small)
    said = [str(w.message) for w in found]
    assert len(said) == len(old)
    assert "`gate_groups` of `gated_resnet` is now `gates=Gates(groups=...)`" in said[2]
    expected = kd.gated_resnet50(gates=gates, **small)
    for ours, theirs in zip(blocks(model), blocks(expected), strict=True):
        assert ours.gated_activations == theirs.gated_activations == "last"
        for a, b in zip(gates_of(ours), gates_of(theirs), strict=True):
            assert type(a) is type(b) and a.units == b.units
            assert a.get_config()["regularizers"] == b.get_config()["regularizers"]
    with pytest.warns(DeprecationWarning, match=r"Gates\(group_size=...\)"):
        model = kd.lc_resnet20(gate_group_size=4, mode="c", **SMALL)
    assert blocks(model)[0].group_size == 4
