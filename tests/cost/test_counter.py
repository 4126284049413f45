import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.cost import used_parameters

pytestmark = pytest.mark.usefixtures("numpy_initializers")


class TestResnets:
    """The notes' table: ungated, gateable, controllers; `gates` per net."""

    @pytest.mark.parametrize(
        ("depth", "ungated", "gateable", "controllers", "gates"),
        [
            (20, 443_008, 40_108_032, 9_984, 336),
            (32, 443_008, 68_419_584, 17_152, 560),
            (56, 443_008, 125_042_688, 31_488, 1008),
            (110, 443_008, 252_444_672, 63_744, 2016),
            (18, 137_793_536, 1_676_279_808, 54_272, 1920),
            (34, 137_793_536, 3_525_967_872, 113_664, 3776),
        ],
    )
    def test_basic(self, depth, ungated, gateable, controllers, gates):
        model = getattr(kd, f"gated_resnet{depth}")()
        profile = kd.count_macs(model)
        assert (profile.ungated, profile.gateable) == (ungated, gateable)
        assert profile.total == ungated + gateable
        assert profile.controllers == controllers
        blocks = [layer for layer in model.layers if hasattr(layer, "channel_gate")]
        assert sum(block.channel_gate.units for block in blocks) == gates

    def test_bottleneck(self):
        profile = kd.count_macs(kd.gated_resnet50())
        kinds = dict.fromkeys(("conv1", "conv2", "conv3"), 0)
        for row in profile.layers:
            if row.gated and not row.controller:
                kinds[row.kernel] += row.macs
        assert profile.ungated == 479_723_520
        assert kinds == {
            "conv1": 937_689_088,
            "conv2": 1_849_688_064,
            "conv3": 822_083_584,
        }
        assert profile.total == 4_089_184_256
        assert profile.controllers == 330_752

    def test_plain_and_gated_cost_the_same(self):
        arguments = {"input_shape": (16, 16, 3), "width": 0.25}
        plain = kd.count_macs(kd.resnet20(**arguments))
        gated = kd.count_macs(kd.gated_resnet20(**arguments))
        assert plain.total == plain.ungated == gated.total
        assert plain.gateable == plain.controllers == 0

    def test_rows_of_a_block(self):
        block = kd.GatedBasicBlock(
            8,
            2,
            channel_gate=kd.BinaryGate(4, hidden=3),
            layer_gate=kd.BinaryGate(1),
            name="b",
        )
        image = keras.Input((7, 6, 5))
        rows = kd.count_macs(keras.Model(image, block(image))).layers
        found = [
            (row.name, row.macs, row.controller, [g.key for g in row.gatings])
            for row in rows
        ]
        assert found == [
            ("b/layer_gate", 16 * (5 + 1), True, []),
            ("b/channel_gate", 3 * (5 + 4), True, ["layer"]),
            ("b/conv1", 4 * 3 * 9 * 5 * 8, False, ["layer", "channel"]),
            ("b/conv2", 4 * 3 * 9 * 8 * 8, False, ["layer", "channel"]),
            ("b/shortcut_conv", 4 * 3 * 5 * 8, False, []),
        ]


def test_mobilenet_v2_against_its_table():
    """The paper's table (t, c, n, s), at 64x64 and width 0.35, counted here by hand."""
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(64, 64, 3), alpha=0.35, classes=7
    )

    def channels(c, divisor=8):
        wide = max(divisor, int(c * 0.35 + divisor / 2) // divisor * divisor)
        return wide + divisor if wide < 0.9 * c * 0.35 else wide

    side, width = 32, channels(32)
    macs = side * side * 9 * 3 * width
    for t, c, n, s in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for index in range(n):
            inner = t * width
            if t > 1:
                macs += side * side * width * inner
            if index == 0:
                side //= s
            macs += side * side * 9 * inner  # depthwise
            macs += side * side * inner * channels(c)
            width = channels(c)
    macs += side * side * width * 1280 + 1280 * 7
    profile = kd.count_macs(model)
    assert profile.total == profile.ungated == macs
    assert profile.gateable == profile.controllers == 0


class TestModels:
    def chain(self):
        return [
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]

    MACS = 5 * 6 * 9 * 3 * 4 + 4 * 2

    def test_functional_with_a_branch_and_a_merge(self):
        image = keras.Input((5, 6, 3))
        x = keras.layers.Conv2D(3, 1)(image)
        x = keras.layers.Add()([image, x])
        x = keras.layers.Concatenate()([image, x])
        x = keras.layers.Conv2D(4, 1)(x)
        model = keras.Model(image, x)
        assert kd.count_macs(model).total == 30 * (3 * 3 + 6 * 4)

    def test_sequential(self):
        model = keras.Sequential([keras.Input((5, 6, 3)), *self.chain()])
        assert kd.count_macs(model).total == self.MACS

    def test_subclassed(self):
        class Net(keras.Model):
            def __init__(self, parts):
                super().__init__()
                self.parts = parts

            def call(self, x):
                for part in self.parts:
                    x = part(x)
                return x

        model = Net(self.chain())
        model(np.zeros((1, 5, 6, 3), "float32"))
        assert kd.count_macs(model).total == self.MACS

    def test_nested_and_called_twice(self):
        inner = keras.Sequential([keras.Input((5, 6, 3)), keras.layers.Conv2D(3, 1)])
        image = keras.Input((5, 6, 3))
        model = keras.Model(image, inner(inner(image)))
        assert kd.count_macs(model).total == 2 * 30 * 9

    def test_shared_layer_is_counted_for_each_call(self):
        conv = keras.layers.Conv2D(3, 1)
        image = keras.Input((8, 8, 3))
        x = keras.layers.MaxPooling2D()(conv(image))
        model = keras.Model(image, conv(x))
        assert kd.count_macs(model).total == (64 + 16) * 9

    def test_calls_of_other_models_are_not_counted(self):
        conv = keras.layers.Conv2D(3, 1)
        image, other = keras.Input((8, 8, 3)), keras.Input((4, 4, 3))
        keras.Model(other, conv(other))
        assert kd.count_macs(keras.Model(image, conv(image))).total == 64 * 9

    def test_what_is_frozen_counts_the_same(self):
        image = keras.Input((5, 4))
        x = keras.layers.MultiHeadAttention(2, 3)(image, image)
        model = keras.Model(image, keras.layers.Dense(2)(x))
        profile = kd.count_macs(model)
        # Three projections to 2 x 3, scores, weighted values, and back to 4.
        heads = 3 * 5 * 4 * 6 + 2 * 5 * 5 * 6 + 5 * 6 * 4
        assert profile.total == heads + 5 * 4 * 2
        model.trainable = False
        assert kd.count_macs(model) == profile

    def test_inputs_of_any_rank(self):
        series = keras.Input((9, 2), name="series")
        words = keras.Input((4,), dtype="int32", name="words")
        x = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(5, 3)(series))
        y = keras.layers.LSTM(3)(keras.layers.Embedding(10, 6)(words))
        x = keras.layers.Dense(2)(keras.layers.Concatenate()([x, y]))
        model = keras.Model({"series": series, "words": words}, x)
        profile = kd.count_macs(model)
        assert [row.macs for row in profile.layers] == [
            7 * 3 * 2 * 5,
            4 * 4 * 3 * (6 + 3),
            8 * 2,
        ]
        assert profile.unknown == ()

    def test_a_nested_base_of_open_size(self):
        base = keras.applications.MobileNetV2(
            weights=None, include_top=False, alpha=0.35
        )
        image = keras.Input((32, 32, 3))
        open_size = kd.count_macs(keras.Model(image, base(image)))
        known = keras.applications.MobileNetV2(
            weights=None, include_top=False, alpha=0.35, input_shape=(32, 32, 3)
        )
        expected = [row.macs for row in kd.count_macs(known).layers]
        assert [row.macs for row in open_size.layers] == expected
        assert open_size.layers[0].name == f"{base.name}/Conv1"
        with pytest.raises(ValueError, match="known image size.*at layer 'Conv1'"):
            kd.count_macs(base)

    def test_blocks_keep_the_names_of_their_decisions_inside_of_other_models(self):
        gate = kd.BinaryGate(4, hidden=3)
        block = kd.GatedBasicBlock(4, channel_gate=gate, name="b")
        inner = keras.Sequential([keras.Input((4, 4, 4)), block], name="inner")
        image = keras.Input((4, 4, 4))
        model = keras.Model(image, inner(inner(image)))
        decisions = kd.decide(model, np.ones((2, 4, 4, 4), "float32"))
        profile = kd.count_macs(model)
        keys = {f"{r.layer}/{g.key}" for r in profile.layers for g in r.gatings}
        assert keys == set(decisions) == {"b/channel", "b:2/channel"}
        assert profile.of(decisions).shape == (2,)

    def test_a_net_with_exits_inside_of_another_model_is_refused(self):
        trunk = keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.Conv2D(4, 3),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(3),
            ]
        )
        exits = kd.add_decision_gates(trunk, [kd.cut_points(trunk)[0].layer])
        image = keras.Input((6, 6, 3))
        model = keras.Model(image, exits(image))
        message = f"early exits.*count it alone.*EarlyExitModel '{exits.name}'"
        with pytest.raises(ValueError, match=message):
            kd.count_macs(model)

    def test_a_net_with_sub_networks_inside_of_another_model(self):
        net = kd.sliced_resnet(
            blocks=1, width=8, subnetworks=2, input_shape=(8, 8, 3), classes=3
        )
        image = keras.Input((8, 8, 3))
        inside = kd.count_macs(keras.Model(image, net(image)))
        alone = kd.count_macs(net)
        # All of it runs: the largest, and the head of the smaller one, 16 channels wide.
        assert inside.total == alone.per_subnetwork[-1] + 16 * 3


class TestUnknown:
    def model(self):
        image = keras.Input((4, 4))
        x = keras.layers.Dense(4)(image)
        x = keras.ops.cholesky(x)
        return keras.Model(image, keras.layers.Dense(2)(x + x))

    def test_is_said_once_and_in_the_profile(self):
        model = self.model()
        with pytest.warns(UserWarning, match=r"not counted.*\['cholesky") as caught:
            profile = kd.count_macs(model)
        assert len(caught) == 1
        assert profile.total == 4 * 4 * 4 + 4 * 4 * 2
        (name,) = profile.unknown
        assert name.startswith("cholesky")
        assert "1 unknown" in repr(profile)

    def test_is_printed(self):
        lines = []
        with pytest.warns(UserWarning, match="not counted"):
            kd.summary(self.model(), measure=False, print_fn=lines.append)
        assert any(line.startswith("Not counted: cholesky") for line in lines)


class TestParts:
    """Calls of nested and sliced layers cost what they are for."""

    NESTED = {
        "filters": (8, 9 * 8 * 6, 6),
        "inputs": (4, 9 * 4 * 12, 12),
        "both": (4, 9 * 4 * 6, 6),
    }

    def net(self, layer, channels, **options):
        size = () if isinstance(layer, keras.layers.Dense) else (5, 6)
        if not layer.built:
            layer.build((None, *size, 8))
        image = keras.Input((*size, channels))
        return keras.Model(image, layer(image, **options))

    @pytest.mark.parametrize("nested", NESTED)
    def test_nested(self, nested):
        channels, kernel, filters = self.NESTED[nested]
        conv = kd.NestedConv2D(12, 3, subnetworks=4, nested=nested, padding="same")
        model = self.net(conv, channels, k=2)
        assert kd.count_macs(model).total == 30 * kernel
        assert used_parameters(model) == kernel + filters
        whole = self.net(conv, 8)
        assert kd.count_macs(whole).total == 30 * 9 * 8 * 12
        assert used_parameters(whole) == 9 * 8 * 12 + 12

    def test_sliced(self):
        """Slices 2 and 3 of 4 read 4 and 6 channels."""
        conv = kd.SlicedConv2D(12, 3, slices=4, padding="same")
        model = self.net(conv, 6, first=2, last=3)
        kernel = 9 * 3 * (4 + 6)
        assert kd.count_macs(model).total == 30 * kernel
        assert used_parameters(model) == kernel + 6
        assert used_parameters(self.net(conv, 8)) == 9 * 3 * (2 + 4 + 6 + 8) + 12

    def test_sliced_dense(self):
        dense = kd.SlicedDense([3, 5], slices=2)
        model = self.net(dense, 8, first=2)
        assert kd.count_macs(model).total == 8 * 5
        assert used_parameters(model) == 8 * 5 + 5
        assert kd.count_macs(self.net(dense, 8)).total == 4 * 3 + 8 * 5


class TestUsedParameters:
    def test_trainable_ones_of_every_layer_once(self):
        conv = keras.layers.Conv2D(3, 1)
        image = keras.Input((8, 8, 3))
        x = keras.layers.BatchNormalization()(conv(conv(image)))
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(image, keras.layers.Dense(2)(x))
        assert used_parameters(model) == (9 + 3) + 2 * 3 + (3 * 2 + 2)
        conv.trainable = False
        assert used_parameters(model) == 2 * 3 + (3 * 2 + 2)

    def test_nested_models_and_unknown_sizes(self):
        inner = keras.Sequential(
            [keras.Input((None, None, 3)), keras.layers.Conv2D(3, 1)]
        )
        image = keras.Input((None, None, 3))
        assert used_parameters(keras.Model(image, inner(image))) == 9 + 3

    def test_of_layers_that_the_model_does_not_reach(self):
        image = keras.Input((5, 6, 3))
        x = keras.layers.Conv2D(4, 1)(image)
        whole = keras.Model(image, keras.layers.Conv2D(2, 1)(x))
        assert used_parameters(whole) == 12 + 4 + 8 + 2
        assert used_parameters(keras.Model(image, x)) == 12 + 4


class TestRefused:
    def test_unknown_image_size(self):
        message = "known image size.*Received: shape .* at layer 'conv1'"
        model = kd.gated_resnet20(input_shape=(None, None, 3), width=0.25)
        with pytest.raises(ValueError, match=message):
            kd.count_macs(model)

    def test_unknown_image_size_at_a_block(self):
        image = keras.Input((None, None, 4))
        model = keras.Model(image, kd.GatedBasicBlock(4, name="b")(image))
        with pytest.raises(ValueError, match="known image size.*at layer 'b'"):
            kd.count_macs(model)

    @pytest.mark.parametrize("bad", [None, keras.Sequential(), keras.layers.Dense(2)])
    def test_what_is_no_built_model(self, bad):
        with pytest.raises(ValueError, match="`model` must be a built keras.Model"):
            kd.count_macs(bad)
