import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits.cut_points import check_trunk
from keras_dyngate.models.exits.cutting import resolve_cuts, split
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

layers = keras.layers


def names(points):
    return [point.layer for point in points]


class RandomNet:
    """A random graph of convolutions, activations, merges, operators, nested models.

    Attributes:
        model: The model.
        parents: Of every layer, operator or layer of a nested model, by path.
        macs: Of each.
        shapes: Of each one's output.
    """

    def __init__(self, seed, size=14):
        rng = np.random.default_rng(seed)
        image = keras.Input((4, 4, 2), name="n0")
        self.parents, self.macs, self.shapes = {"n0": []}, {"n0": 0}, {"n0": (4, 4, 2)}
        tensors = {"n0": image}
        for i in range(1, size):
            made = list(tensors)
            # mostly the newest, so that cut points are neither rare nor everywhere
            ages = np.minimum(rng.geometric(0.75, 2), len(made))
            of = [made[-age] for age in dict.fromkeys(ages.tolist())]
            kind = rng.integers(4)
            xs = [tensors[o] for o in of]
            same = len(of) == 2 and xs[0].shape == xs[1].shape
            name, macs = f"n{i}", 0
            if len(of) == 2 and kind == 0:
                x = layers.Concatenate(name=name)(xs)
            elif same and kind == 1:
                x = xs[0] + xs[1]
                name = f"add_of_{i}"
                x._keras_history.operation.name = name
            elif same:
                x = layers.Add(name=name)(xs)
            else:
                x, of = xs[0], of[:1]
                channels = x.shape[-1]
                if kind == 1:
                    x = layers.ReLU(name=name)(x)
                elif kind == 2:
                    parts = [layers.Conv2D(3, 1, name="c"), layers.ReLU(name="r")]
                    inner = keras.Sequential(
                        [keras.Input(x.shape[1:]), *parts], name=name
                    )
                    x = inner(x)
                    self._note(f"{name}/c", of, 16 * channels * 3, x)
                    name, of = f"{name}/r", [f"{name}/c"]
                else:
                    x = layers.Conv2D(2, 1, name=name)(x)
                    macs = 16 * channels * 2
            tensors[name] = x
            self._note(name, of, macs, x)
        self.model = keras.Model(image, x)

    def _note(self, name, of, macs, x):
        self.parents[name], self.macs[name] = of, macs
        self.shapes[name] = tuple(x.shape[1:])


def ancestors(name, parents, without=None):
    """The layer and all that it is computed from; paths through `without` left out."""
    found, todo = set(), [name]
    while todo:
        if (one := todo.pop()) not in found and one != without:
            found.add(one)
            todo.extend(parents[one])
    return found


@pytest.mark.parametrize("seed", range(20))
def test_by_the_definition(seed):
    net = RandomNet(seed)
    model, parents, macs = net.model, net.parents, net.macs
    last = list(parents)[-1]
    used = ancestors(last, parents)
    total = sum(macs[name] for name in used)
    expected = set()
    for name in used:
        inside = ancestors(name, parents)
        spent = sum(macs[other] for other in inside)
        crossing = {p for o in used - inside for p in parents[o] if p in inside}
        separates = name == last or "n0" not in ancestors(last, parents, without=name)
        assert separates == (crossing <= {name}) or name == "n0"
        if separates and 0 < spent < total:
            expected.add((name, spent, net.shapes[name], spent / total))
    points = kd.cut_points(model)
    assert {(p.layer, p.macs, p.shape, p.share) for p in points} == expected
    assert [p.macs for p in points] == sorted(p.macs for p in points)
    for point in points:  # each of them works
        assert resolve_cuts(model, [point.layer]) == [point.layer]
    if points:
        check_stages(randomize(model), names(points), images(2, 4, 4, 2))


def test_random_nets_have_both_kinds():
    nets = [RandomNet(seed) for seed in range(20)]
    found = [names(kd.cut_points(net.model)) for net in nets]
    counts = [len(points) for points in found]
    sizes = [len(net.parents) for net in nets]
    assert max(counts) > 5 and np.mean(counts) < 0.7 * np.mean(sizes)
    everything = [name for points in found for name in points]
    assert any("/" in name for name in everything)
    assert any(name.startswith("add_of") for name in everything)


def chain(model, x):
    for stage in model:
        x = stage(x, training=False)
    return keras.ops.convert_to_numpy(x)


def check_stages(model, cuts, x):
    """Splitting changes nothing, loses nothing and copies nothing."""
    profile, config = kd.count_macs(model), model.get_config()
    tensors = {layer.name: layer.output for layer in model.layers}
    expected = outputs(model, x)
    stages = split(model, cuts)
    assert len(stages) == len(cuts) + 1
    np.testing.assert_array_equal(chain(stages, x), expected)
    np.testing.assert_array_equal(outputs(model, x), expected)
    profiles = [kd.count_macs(stage) for stage in stages]
    assert sum(part.total for part in profiles) == profile.total
    points = {point.layer: point for point in kd.cut_points(model)}
    macs = 0
    for part, cut, stage in zip(profiles, cuts, stages, strict=False):
        macs += part.total + part.controllers
        assert points[cut].macs == macs
        assert points[cut].shape == stage.output_shape[1:]
    assert {id(w) for stage in stages for w in stage.weights} == {
        id(w) for w in model.weights
    }
    assert kd.count_macs(model) == profile
    assert model.get_config() == config
    for layer in model.layers:
        assert layer.output is tensors[layer.name]
    return stages


def residual():
    """Two residual blocks, the second with a projection."""
    x = image = keras.Input((8, 8, 3), name="image")
    x = skip = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = layers.ReLU(name="relu_a")(layers.Conv2D(4, 3, padding="same", name="a")(x))
    x = skip = layers.Add(name="add1")([x, skip])
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="b")(x)
    skip = layers.Conv2D(6, 1, strides=2, name="projection")(skip)
    x = layers.Add(name="add2")([x, skip])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, name="dense")(x)
    return keras.Model(image, layers.Softmax(name="softmax")(x), name="res")


@pytest.mark.heavy  # nets of keras.applications
class TestWhere:
    def test_residual(self):
        conv, a, b = 64 * 27 * 4, 64 * 36 * 4, 16 * 4 * (9 + 1) * 6
        whole = conv + a + b + 6 * 5
        assert kd.cut_points(residual()) == [
            kd.CutPoint("conv", conv, (8, 8, 4), conv / whole),
            kd.CutPoint("add1", conv + a, (8, 8, 4), (conv + a) / whole),
            kd.CutPoint("add2", conv + a + b, (4, 4, 6), (conv + a + b) / whole),
            kd.CutPoint("pool", conv + a + b, (6,), (conv + a + b) / whole),
        ]

    def test_dense(self):
        x = image = keras.Input((4, 4, 3))
        x = layers.Conv2D(4, 1, name="stem")(x)
        for i in (1, 2):
            new = layers.Conv2D(2, 1, name=f"conv{i}")(layers.ReLU()(x))
            x = layers.Concatenate(name=f"out{i}")([x, new])
        x = layers.AveragePooling2D(2, name="pool")(x)
        x = layers.Dense(2)(layers.Flatten(name="flat")(x))
        found = names(kd.cut_points(keras.Model(image, x)))
        assert found == ["stem", "out1", "out2", "pool", "flat"]

    def test_sequential(self):
        parts = [layers.Rescaling(1 / 255), layers.Conv2D(2, 3, name="conv")]
        parts += [layers.ReLU(name="relu"), layers.Flatten(name="flat")]
        parts += [layers.Dense(4, name="last"), layers.Softmax()]
        model = keras.Sequential([keras.Input((6, 6, 3)), *parts])
        assert names(kd.cut_points(model)) == ["conv", "relu", "flat"]
        randomize(model)
        x = images(2, 6, 6, 3)
        check_stages(model, ["relu"], x)
        model.pop()  # builds its graph anew, with the same layers
        check_stages(model, ["conv", "flat"], x)

    def test_blocks_count_with_their_controllers(self):
        model = kd.gated_resnet20(
            gates=kd.Gates(layer="binary"), width=0.25, input_shape=(8, 8, 3)
        )
        blocks = [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2, 3)]
        points = kd.cut_points(model)
        assert names(points) == ["conv1", "bn1", "relu1", *blocks, "avg_pool"]
        profile = kd.count_macs(model)
        dense = sum(r.macs for r in profile.layers if r.layer == "predictions")
        assert profile.controllers > 0
        whole = profile.total + profile.controllers
        assert points[-1].macs == whole - dense
        assert points[-1].share == (whole - dense) / whole

    def test_shared_layers_and_bare_operations(self):
        conv = layers.Conv2D(3, 1, name="twice")
        x = image = keras.Input((4, 4, 3))
        x = keras.ops.relu(layers.Conv2D(3, 1, name="once")(x) * 2.0)
        x = layers.ReLU(name="between")(conv(x))
        x = layers.Flatten(name="flat")(conv(x))
        model = keras.Model(image, layers.Dense(2)(x))
        times, relu = (operation.name for operation in model.operations[2:4])
        assert names(kd.cut_points(model)) == ["once", times, relu, "between", "flat"]
        for twice in ("twice", conv):
            with pytest.raises(ValueError, match="'twice' is none: it is called 2 tim"):
                resolve_cuts(model, [twice])
        check_stages(randomize(model), ["once", relu, "between"], images(2, 4, 4, 3))

    def test_several_outputs_of_a_layer(self):
        class Halves(layers.Layer):
            def call(self, x):
                return x, 2 * x

        x = image = keras.Input((4,))
        x, _ = Halves(name="halves")(layers.Dense(4, name="first")(x))
        model = keras.Model(image, layers.Dense(2)(x))
        assert names(kd.cut_points(model)) == ["first"]
        with pytest.raises(ValueError, match="'halves' is none: it has 2 outputs"):
            resolve_cuts(model, ["halves"])

    def test_mobilenet_v2(self):
        model = keras.applications.MobileNetV2(
            weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=7
        )
        found = names(kd.cut_points(model))
        assert found[0] == "Conv1" and found[-1].startswith("global_average_pool")
        # A block without a residual connection is open in the middle, another is not.
        adds = [layer.name for layer in model.layers if layer.name.endswith("_add")]
        for index in range(1, 17):
            linear = f"block_{index}_add" not in adds
            assert (f"block_{index}_expand" in found) == linear
            assert (f"block_{index}_add" in found) != linear
            last = f"block_{index}_project_BN"
            assert (last in found) == linear
        check_stages(
            randomize(model),
            ["block_2_add", "block_13_depthwise", "out_relu"],
            images(2, 32, 32, 3),
        )

    def test_efficientnet_b0(self):
        """Its input passes two layers of preprocessing; inside blocks it branches."""
        model = keras.applications.EfficientNetB0(
            weights=None, input_shape=(32, 32, 3), classes=7
        )
        found = names(kd.cut_points(model))
        assert found[0] == "stem_conv" and found[-1] == "top_dropout"
        for name in ("rescaling", "normalization", "block1a_se_squeeze"):
            assert name not in found
        for name in ("block1a_se_excite", "block2b_add", "block7a_project_bn"):
            assert name in found
        for name in ("block2b_se_excite", "block2b_drop", "block1a_se_reduce"):
            assert name not in found
        stages = check_stages(
            randomize(model), ["block3b_add", "top_activation"], images(2, 32, 32, 3)
        )
        kinds = [type(layer) for layer in stages[0].layers]
        assert keras.layers.Rescaling in kinds and keras.layers.Normalization in kinds

    def test_densenet121(self):
        model = kd.densenet121(stem="cifar")
        found = names(kd.cut_points(model))
        inside = [name for name in found if name.startswith("block")]
        ends = {f"block{i}_layer{n}" for i, n in enumerate((6, 12, 24, 16), 1)}
        expected = [
            name.replace("_conv2", "_concat")
            for name in (layer.name for layer in model.layers)
            if name.endswith("_conv2") and name.removesuffix("_conv2") not in ends
        ]
        assert [name for name in inside if "concat" in name] == expected
        assert [name for name in inside if "_out" in name] == [
            f"block{i}_out" for i in (1, 2, 3, 4)
        ]
        assert sum(map(len, (expected, ends))) == len(inside)


@pytest.mark.heavy
class TestSplit:
    X = images(3, 8, 8, 3)

    def model(self):
        return randomize(residual())

    def test_names_and_shapes(self):
        stages = split(self.model(), ["add1", "pool"])
        assert [stage.name for stage in stages] == [
            "res_stage_0",
            "res_stage_1",
            "res_stage_2",
        ]
        assert [stage.input_shape[1:] for stage in stages] == [
            (8, 8, 3),
            (8, 8, 4),
            (6,),
        ]
        held = [[layer.name for layer in stage.layers] for stage in stages]
        assert held[0] == ["conv", "a", "relu_a", "add1"]
        assert held[1] == ["b", "projection", "add2", "pool"]
        assert held[2] == ["dense", "softmax"]

    def test_again_and_elsewhere(self):
        model = self.model()
        for cuts in (["add1"], ["add1"], ["conv", "add2", "pool"], ["pool"]):
            check_stages(model, cuts, self.X)

    def test_stages_of_a_stage(self):
        model = self.model()
        first, second = check_stages(model, ["conv"], self.X)
        assert names(kd.cut_points(second)) == ["add1", "add2", "pool"]
        parts = split(second, ["add1", "add2"])
        whole = chain([first, *parts], self.X)
        np.testing.assert_array_equal(whole, outputs(model, self.X))
        front, back = split(split(model, ["add2"])[0], ["add1"])
        rest = split(model, ["add2"])[1]
        whole = chain([front, back, rest], self.X)
        np.testing.assert_array_equal(whole, outputs(model, self.X))

    def test_gated_net(self):
        model = randomize(kd.gated_resnet20(width=0.25, input_shape=(8, 8, 3)))
        stages = check_stages(model, ["stage1_block2", "stage3_block1"], self.X)
        whole, parts, x = kd.decide(model, self.X), {}, self.X
        for stage in stages:
            parts |= kd.decide(stage, x)
            x = outputs(stage, x)
        assert sorted(parts) == sorted(whole)
        for key, value in whole.items():
            np.testing.assert_array_equal(parts[key], value)

    def test_nested_models_and_preprocessing(self):
        inner = keras.Sequential(
            [keras.Input((6, 6, 3)), layers.Conv2D(4, 3), layers.ReLU()], name="inner"
        )
        stem = [layers.Rescaling(1 / 255), layers.Resizing(6, 6), layers.RandomFlip()]
        x = image = keras.Input((8, 8, 3))
        for layer in (*stem, inner, layers.Flatten(name="flat")):
            x = layer(x)
        head = keras.Sequential([keras.Input((64,)), layers.Dense(3)], name="head")
        model = randomize(keras.Model(image, head(x)))
        conv, relu = (f"inner/{layer.name}" for layer in inner.layers)
        assert names(kd.cut_points(model)) == [conv, relu, "flat"]
        assert resolve_cuts(model, ["inner"]) == [relu]
        for cuts in ([conv], [relu, "flat"]):
            check_stages(model, cuts, self.X)
        again = keras.Model.from_config(model.get_config())
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(outputs(again, self.X), outputs(model, self.X))

    def test_saving(self, tmp_path):
        model = self.model()
        stages = [*split(model, ["add1"]), *split(model, ["conv", "pool"])]
        expected = outputs(model, self.X)
        model.save(tmp_path / "trunk.keras")
        loaded = keras.saving.load_model(tmp_path / "trunk.keras")
        np.testing.assert_array_equal(outputs(loaded, self.X), expected)
        assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
        check_stages(loaded, ["conv", "add1"], self.X)
        model.save_weights(tmp_path / "trunk.weights.h5")
        randomize(loaded, seed=1).load_weights(tmp_path / "trunk.weights.h5")
        np.testing.assert_array_equal(outputs(loaded, self.X), expected)
        copied = keras.models.clone_model(model)
        copied.set_weights(model.get_weights())
        np.testing.assert_array_equal(outputs(copied, self.X), expected)
        np.testing.assert_array_equal(chain(stages[:2], self.X), expected)

    def test_weights_and_flags_are_shared(self):
        model = self.model()
        first, second = split(model, ["add1"])
        randomize(model, seed=5)
        expected = outputs(model, self.X)
        np.testing.assert_array_equal(chain([first, second], self.X), expected)
        model.trainable = False
        assert not first.trainable_weights and not second.trainable_weights

    def test_mixed_precision(self, dtype_policy):
        dtype_policy("mixed_bfloat16")
        model = self.model()
        stages = split(model, ["add1"])
        feature = stages[0](self.X, training=False)
        assert keras.backend.standardize_dtype(feature.dtype) == "bfloat16"
        found = stages[1](feature, training=False)
        expected = model(self.X, training=False)
        assert bool(keras.ops.all(found == expected))

    @pytest.mark.parametrize("structure", [lambda x: [x], lambda x: {"image": x}])
    def test_structured_inputs_and_outputs(self, structure):
        image = keras.Input((8, 8, 3), name="image")
        x = layers.Flatten()(layers.Conv2D(2, 3, name="conv")(image))
        model = randomize(keras.Model(structure(image), [layers.Dense(3)(x)]))
        expected = np.squeeze(outputs(model, structure(self.X)))
        found = chain(split(model, ["conv"]), self.X)
        np.testing.assert_array_equal(found, expected)


class TestResolved:
    def test_names_indices_and_points(self):
        model = residual()
        point = kd.cut_points(model)[2]
        assert resolve_cuts(model, ["conv", "add1"]) == ["conv", "add1"]
        assert resolve_cuts(model, [1, "add1", point, -3]) == [
            "conv",
            "add1",
            "add2",
            "pool",
        ]
        assert resolve_cuts(model, (np.int64(1),)) == ["conv"]

    def test_indices_of_a_sequential_leave_out_its_input(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
        assert resolve_cuts(model, [0]) == [model.layers[0].name]

    @pytest.mark.parametrize("after", [[], (), "add1", 3, None, {"add1"}])
    def test_no_list(self, after):
        message = r"`after` must be a non-empty list of layers. Received: after="
        with pytest.raises(ValueError, match=message):
            resolve_cuts(residual(), after)

    @pytest.mark.parametrize(
        ("after", "message"),
        [
            (
                ["add3"],
                r"model 'res', which has no 'add3'; close to it: 'add2', 'add1'",
            ),
            (["zzz"], r"no 'zzz'\. Received: after=\['zzz'\]"),
            ([layers.ReLU(name="its")], r"model 'res', which does not call 'its'\. R"),
            ([keras.Input((3,))], "model 'res', which does not compute <KerasTensor"),
            (["add1", 11], r"indices from -11 to 10, those of `model.layers`\. Rec"),
            ([-12], r"indices from -11 to 10.*Received: after=\[-12\]"),
            ([1.5], r"names or paths of layers.* or `CutPoint`s; 1.5 is none\. Rec"),
            ([True], "True is none"),
            (["add1", "add1"], r"once, in the order of execution: \['add1'\]\. Rec"),
            (["add1", 4], r"once, in the order of execution: \['add1'\]\. Rec"),
            (["add2", "conv"], r"execution: \['conv', 'add2'\]\. Received: after="),
            (
                ["a"],
                r"'a' is none: the outputs of 'conv' are needed after it too \(nearest "
                r"cut points: 'conv' before it, 'add1' after it\)\. Received: after=",
            ),
            (["conv", "projection"], "'projection' is none: the outputs of 'b' are"),
            (
                ["image"],
                r"no MACs are spent up to it \(nearest cut points: 'conv' after it\)",
            ),
            (
                ["softmax"],
                r"no MACs are left after it \(nearest cut points: 'pool' before it\)",
            ),
            ([-2], "'dense' is none: no MACs are left after it"),
        ],
    )
    def test_refused(self, after, message):
        model = residual()
        assert len(model.layers) == 11
        for use in (resolve_cuts, split):
            with pytest.raises(ValueError, match="`after` must.*" + message):
                use(model, after)

    def test_a_model_without_cut_points(self):
        image = keras.Input((4,))
        model = keras.Model(image, layers.Dense(2, name="dense")(image))
        assert kd.cut_points(model) == []
        with pytest.raises(ValueError, match=r"after it \(no layer is one\)"):
            resolve_cuts(model, ["dense"])

    def test_many_tensors_around(self):
        x = image = keras.Input((4,))
        parts = [layers.Dense(2, name=f"d{i}")(x) for i in range(6)]
        x = layers.Concatenate()(parts)
        model = keras.Model(image, layers.Dense(2)(x))
        message = r"'d0', 'd1', 'd2' and 2 more layers are needed after it too"
        with pytest.raises(ValueError, match=message):
            resolve_cuts(model, ["d5"])

    def test_unknown_image_size(self):
        model = kd.resnet20(input_shape=(None, None, 3), width=0.25)
        with pytest.raises(ValueError, match="known image size"):
            kd.cut_points(model)


def transfer(size=(32, 32, 3), training=False):
    """Augmentation, scaling, a nested base, pooling, dropout and a classifier."""
    x = inner = keras.Input(size, name="inside")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = x + layers.Conv2D(4, 3, padding="same", name="side")(x)
    x = layers.Conv2D(6, 3, strides=2, name="down")(x)
    base = keras.Model(inner, layers.ReLU(name="out")(x), name="base")
    x = image = keras.Input((32, 32, 3), name="image")
    for layer in (layers.RandomFlip(), layers.RandomRotation(0.1)):
        x = layer(x)
    x = base(layers.Rescaling(1 / 127.5, -1, name="scale")(x), training=training)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="drop")(x)
    x = layers.Dense(5, activation="softmax", name="head")(x)
    return keras.Model(image, x, name="whole"), base


class TestNested:
    @pytest.mark.parametrize("size", [(32, 32, 3), (None, None, 3)])
    def test_transfer_learning(self, size):
        model, base = transfer(size)
        plus = base.operations[3].name
        stem, side, down = 32**2 * 27 * 4, 32**2 * 36 * 4, 15**2 * 36 * 6
        total = stem + side + down + 30
        assert kd.cut_points(model) == [
            kd.CutPoint("base/stem", stem, (32, 32, 4), stem / total),
            kd.CutPoint(
                f"base/{plus}", stem + side, (32, 32, 4), (stem + side) / total
            ),
            kd.CutPoint("base/down", total - 30, (15, 15, 6), (total - 30) / total),
            kd.CutPoint("base/out", total - 30, (15, 15, 6), (total - 30) / total),
            kd.CutPoint("pool", total - 30, (6,), (total - 30) / total),
            kd.CutPoint("drop", total - 30, (6,), (total - 30) / total),
        ]
        check_stages(
            randomize(model), ["base/stem", f"base/{plus}"], images(2, 32, 32, 3)
        )

    def test_ways_to_say_it(self):
        model, base = transfer()
        plus = base.operations[3]
        assert type(plus).__name__ == "Add"
        outer = {layer.name: layer for layer in model.layers}
        for item in (
            "base/stem",
            "stem",
            base.get_layer("stem"),
            kd.cut_points(model)[0],
        ):
            assert resolve_cuts(model, [item]) == ["base/stem"]
        for item in (plus.name, plus, plus.output):
            assert resolve_cuts(model, [item]) == [f"base/{plus.name}"]
        ends = ("base", base, base.output, outer["pool"].input, "out", "base/out")
        for item in (*ends, list(outer).index("base")):
            assert resolve_cuts(model, [item]) == ["base/out"]
        assert resolve_cuts(model, [outer["pool"].output]) == ["pool"]
        with pytest.raises(ValueError, match="no MACs are spent up to it"):
            resolve_cuts(model, [base.input])
        for item in (outer["image"], "image", model.input, "scale", 0, 1):
            with pytest.raises(ValueError, match="no MACs are spent up to it"):
                resolve_cuts(model, [item])
        message = r"has no 'base/stemm'; close to it: 'base/stem'"
        with pytest.raises(ValueError, match=message):
            resolve_cuts(model, ["base/stemm"])

    def test_two_of_a_name(self):
        def inner(name):
            image = keras.Input((4,))
            return keras.Model(image, layers.Dense(4, name="dense")(image), name=name)

        image = keras.Input((4,))
        deep = inner("deep")
        around = keras.Sequential([keras.Input((4,)), deep], name="around")
        x = layers.Dense(2, name="last")(around(inner("first")(image)))
        model = keras.Model(image, x)
        expected = ["first/dense", "around/deep/dense"]
        assert names(kd.cut_points(model)) == expected
        message = "which 'dense' it means, by path: 'first/dense', 'around/deep/dense'"
        with pytest.raises(ValueError, match=message):
            resolve_cuts(model, ["dense"])
        for item in ("deep", "deep/dense", "around", "around/deep", deep, deep.output):
            assert resolve_cuts(model, [item]) == ["around/deep/dense"]

    def test_a_nested_model_called_twice(self):
        inner = keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, name="d"), layers.ReLU(name="r")],
            name="inner",
        )
        image = keras.Input((4,))
        x = layers.ReLU(name="between")(inner(image))
        x = layers.Dense(3, name="last")(inner(x))
        model = randomize(keras.Model(image, x))
        assert names(kd.cut_points(model)) == ["between"]
        assert kd.cut_points(model)[0].macs == 16
        for item in ("inner", inner, inner.output, "inner/d", inner.get_layer("d")):
            with pytest.raises(ValueError, match="is none: it is called 2 times"):
                resolve_cuts(model, [item])
        check_stages(model, ["between"], images(3, 4, 4, 4)[:, 0, 0])

    def test_a_nested_model_of_two_outputs(self):
        x = image = keras.Input((4,))
        x = layers.Dense(4, name="d")(x)
        y = layers.ReLU(name="r")(x)
        inner = keras.Model(image, [x, y], name="inner")
        image = keras.Input((4,))
        model = keras.Model(image, layers.Dense(2)(inner(image)[1]))
        assert resolve_cuts(model, ["inner/d"]) == ["inner/d"]
        with pytest.raises(ValueError, match="'inner' is none: it has 2 outputs"):
            resolve_cuts(model, ["inner"])

    def test_held_in_inference(self):
        """`base(x, training=False)` stays so while the stages are trained."""
        image = keras.Input((4, 4, 3))
        base = keras.Sequential(
            [keras.Input((4, 4, 3)), layers.Conv2D(2, 1), layers.Dropout(0.5)]
        )
        for held in (True, False):
            x = base(image, training=False if held else None)
            model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
            part = split(model, [base])[0]
            x = images(2, 4, 4, 3)
            found = keras.ops.convert_to_numpy(part(x, training=True))
            assert (found == outputs(part, x)).all() == held


class TestOtherRanks:
    def test_one_dimension(self):
        x = image = keras.Input((12, 3))
        x = layers.Conv1D(4, 3, name="a")(x)
        x = layers.Conv1D(4, 3, name="b")(layers.MaxPooling1D(name="half")(x))
        x = layers.Dense(2)(layers.GlobalAveragePooling1D(name="pool")(x))
        model = randomize(keras.Model(image, x))
        a, b = 10 * 9 * 4, 3 * 12 * 4
        points = kd.cut_points(model)
        assert [(p.layer, p.macs) for p in points] == [
            ("a", a),
            ("half", a),
            ("b", a + b),
            ("pool", a + b),
        ]
        check_stages(model, ["half"], images(2, 12, 1, 3)[:, :, 0])


class Subclassed(keras.Model):
    def call(self, x):
        return x


def inputs(*shapes):
    return [keras.Input(shape) for shape in shapes]


class TestTrunk:
    @pytest.mark.parametrize("classes", [2, 10])
    def test_accepted(self, classes):
        check_trunk(kd.resnet20(width=0.25, input_shape=(8, 8, 3), classes=classes))
        check_trunk(keras.Sequential([keras.Input((3,)), layers.Dense(classes)]))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: None, "must be a keras.Model. Received: model=None of type None"),
            (lambda: layers.Dense(2), "must be a keras.Model.*of type Dense"),
            (
                lambda: Subclassed(name="mine"),
                "must be functional.*no graph.*model='mine', a Subclassed",
            ),
            (lambda: keras.Sequential([layers.Dense(2)]), "must be built"),
            (
                lambda: keras.Model(i := inputs((3,), (3,)), layers.Add()(i)),
                "must have one input. Received: .* with 2 inputs",
            ),
            (
                lambda: keras.Model(
                    *(lambda x: (x, [layers.Dense(2)(x), layers.Dense(3)(x)]))(
                        keras.Input((3,))
                    )
                ),
                "must have one output. Received: .* with 2 outputs",
            ),
        ],
    )
    def test_refused_everywhere(self, make, message):
        model = make()
        for use in (check_trunk, kd.cut_points, lambda m: resolve_cuts(m, [1])):
            with pytest.raises(ValueError, match="`model` " + message):
                use(model)

    @pytest.mark.parametrize(
        "parts", [[layers.Conv2D], [layers.Conv2D, layers.Conv2D], [layers.Dense]]
    )
    def test_no_classifier(self, parts):
        arguments = {layers.Conv2D: (2, 1), layers.Dense: (2,)}
        model = keras.Sequential(
            [keras.Input((4, 4, 3)), *(part(*arguments[part]) for part in parts)],
            name="map",
        )
        message = (
            r"\[batch, classes\].*model='map' with an output of shape \(None, 4, 4"
        )
        with pytest.raises(ValueError, match=message):
            check_trunk(model)
        assert len(kd.cut_points(model)) == len(parts) - 1  # still can be cut


def test_the_input_as_a_place():
    """Only where it is allowed, and by another name if a layer has that one."""
    for name, place in (("conv", "input"), ("input", "input:0")):
        image = keras.Input((8, 8, 3), name="picture")
        x = layers.Conv2D(2, 3, name=name)(image)
        x = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
        net = keras.Model(image, x)
        assert [p.layer for p in kd.cut_points(net)][0] == name
        for item in (place, net.input, net.layers[0], 0):
            assert resolve_cuts(net, [item, name], at_input=True) == [place, name]
            with pytest.raises(ValueError, match="is none: no MACs are spent up to it"):
                resolve_cuts(net, [item])
        with pytest.raises(ValueError, match="each layer once, in the order of exec"):
            resolve_cuts(net, [name, place], at_input=True)
        parts = split(net, [place, name], at_input=True)
        assert [len(part.stretch.calls) for part in parts] == [0, 1, 2]
        x = images(2, 8, 8, 3)
        np.testing.assert_array_equal(outputs(parts[0], x), x)
