"""The usual transfer-learning net with exits inside its base, from data to file."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

layers = keras.layers
N = 24
X = images(N, 32, 32, 3)
Y = np.arange(N) % 3


def transfer(size):
    """Augmentation, scaling, a nested base, pooling, dropout and a classifier."""
    x = inner = keras.Input(size)
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="bn")(x))
    x = x + layers.Conv2D(4, 3, padding="same", name="side")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="top")(x)
    base = keras.Model(inner, x, name="base")
    x = image = keras.Input((32, 32, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(x))
    x = base(layers.Rescaling(1 / 127.5, -1)(x), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(3, activation="softmax", name="head")(x)
    return randomize(keras.Model(image, x, name="whole")), base


@pytest.mark.parametrize("size", [(32, 32, 3), (None, None, 3)])
def test_transfer_learning(size, tmp_path):
    net, base = transfer(size)
    plus = base.operations[5]
    assert type(plus).__name__ == "Add"
    model = kd.add_decision_gates(net, after=["stem_relu", plus.output])
    assert model.after == ("base/stem_relu", f"base/{plus.name}")
    kernel_macs = [15**2 * 27 * 4, 15**2 * 36 * 4, 7**2 * 36 * 6 + 18]
    gates = np.cumsum([4 * 3, 4 * 3, 0])
    assert kd.count_macs(model).per_exit == tuple(np.cumsum(kernel_macs) + gates)

    before = [np.array(w) for w in net.get_weights()]
    fits = model.fit_gates(X, Y, epochs=3)
    assert [fit.features for fit in fits.values()] == [4, 4]
    outcome = model.calibrate(X, Y, exit_shares=[0.25, 0.25])
    found = model.predict(X, verbose=0)
    np.testing.assert_array_equal(np.bincount(found["exit"]), [6, 6, 12])
    assert outcome.shares == (0.25, 0.25, 0.5)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    dense = {
        k: keras.ops.convert_to_numpy(v) for k, v in model(X, training=False).items()
    }
    np.testing.assert_allclose(dense["head"], outputs(net, X), 1e-5, 1e-6)
    features = outputs(
        keras.Model(base.input, base.get_layer("stem_relu").output), X / 127.5 - 1
    )
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.gates[0].weights)
    expected = features.mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(dense["gate_1"], expected, 1e-3, 1e-4)

    base.trainable = False
    model.save(tmp_path / "exits.keras")
    again = keras.saving.load_model(tmp_path / "exits.keras")
    assert again.after == model.after
    for name, values in again.predict(X, verbose=0).items():
        np.testing.assert_allclose(values, found[name], 1e-5, 1e-6)

    again.compile(keras.optimizers.SGD(0.1))
    again.fit(X, Y, verbose=0)
    inner = again.trunk.get_layer("base")
    for old, new in zip(base.get_weights(), inner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # frozen, also its statistics
    head = again.trunk.get_layer("head").get_weights()[0]
    assert (head != net.get_layer("head").get_weights()[0]).any()


def test_a_base_of_keras_applications():
    base = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35
    )
    image = keras.Input((32, 32, 3))
    x = base(layers.Rescaling(1 / 127.5, -1)(layers.RandomFlip()(image)))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    net = keras.Model(image, layers.Dense(5, activation="softmax")(x))
    places = ("block_6_expand_relu", base.get_layer("block_6_expand_relu"))
    for place in (*places, f"{base.name}/block_6_expand_relu"):
        model = kd.add_decision_gates(net, after=[place, "block_13_depthwise"])
        assert model.after[0] == f"{base.name}/block_6_expand_relu"
    shares = {p.layer: p.share for p in kd.cut_points(net)}
    per_exit = kd.count_macs(model).per_exit
    gates = [gate.dense.kernel.shape[0] * 5 for gate in model.gates]
    assert per_exit[0] - gates[0] == pytest.approx(
        shares[model.after[0]] * (per_exit[-1] - sum(gates))
    )


def test_several_inputs_are_refused_at_once():
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, name="c")(first + second)
    x = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    net = keras.Model([first, second], x)
    for use in (kd.cut_points, lambda net: kd.add_decision_gates(net, ["c"])):
        with pytest.raises(ValueError, match="`model` must have one input.*2 inputs"):
            use(net)


# Heads of every kind, a first net, answers that combine

CLASSES = 3
SMALL = images(20, 8, 8, 3, seed=4) / 255


def small_trunk(channels=3, names=("relu", "mid")):
    """Maps of 8x8 and 4x4, then a vector."""
    x = image = keras.Input((8, 8, channels))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = layers.ReLU(name=names[0])(x)
    x = layers.Conv2D(6, 3, 2, padding="same", activation="relu", name=names[1])(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, activation="relu", name="vector")(x)
    x = layers.Dense(CLASSES, activation="softmax", name="out")(x)
    return randomize(keras.Model(image, x, name="small"), 3)


def first_classifier(size=4, channels=3):
    image = keras.Input((size, size, channels))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(image))
    return keras.Model(image, layers.Dense(CLASSES)(x), name="tiny")


def flat_head(activation=None):
    return keras.Sequential(
        [layers.Flatten(), layers.Dense(CLASSES, activation=activation)]
    )


class TestHeads:
    def test_kinds_by_name(self):
        net = small_trunk()
        for kind in ("conv", "separable"):
            model = kd.add_decision_gates(net, ["relu", "mid"], head=kind)
            assert [type(gate) for gate in model.gates] == 2 * [kd.ExitHead]
            assert [(g.objective, g.confidence) for g in model.gates] == [
                ("cross_entropy", "probability")
            ] * 2
            assert tuple(model(SMALL)["gate_2"].shape) == (20, CLASSES)
        linear = kd.add_decision_gates(net, ["relu"]).gates[0]
        assert (linear.objective, linear.confidence) == ("hinge", "score")

    def test_one_per_place(self):
        """A name, a model, a factory: what each gets and says."""
        shapes = []

        def factory(shape):
            shapes.append(shape)
            return layers.Dense(CLASSES)

        model = kd.add_decision_gates(
            small_trunk(),
            ["relu", "mid", "vector"],
            head=["linear", flat_head("softmax"), factory],
            confidence="margin",
            objective="cross_entropy",
        )
        randomize(model, 5)
        assert shapes == [(5,)]
        assert [type(gate).__name__ for gate in model.gates] == [
            "DecisionGate",
            "ExitHead",
            "ExitHead",
        ]
        assert {(g.objective, g.confidence) for g in model.gates} == {
            ("cross_entropy", "margin")
        }
        net, said = model.trunk, model(SMALL)
        mid = outputs(keras.Model(net.input, net.get_layer("mid").output), SMALL)
        kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.gates[1].weights)
        expected = mid.reshape(20, -1) @ kernel + bias  # raw: without the softmax
        found = keras.ops.convert_to_numpy(said["gate_2"])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

        per_exit = kd.count_macs(model).per_exit
        convs = [64 * 27 * 4, 16 * 36 * 6, 6 * 5, 5 * 3]
        gates = [16 * 3 if model.gates[0].pooling == "avg4x4" else 4 * 3, 288, 15, 0]
        assert per_exit == tuple(np.cumsum(convs) + np.cumsum(gates))

    def test_a_layer_for_one_place(self):
        for head in (layers.Dense(CLASSES), flat_head(), kd.DecisionGate(CLASSES)):
            model = kd.add_decision_gates(small_trunk(), ["vector"], head=head)
            assert tuple(model(SMALL)["gate_1"].shape) == (20, CLASSES)

    def test_pooling_by_default(self):
        """ "avg4x4" on multiples of 4, from 8, where the gate reads 2,048 at most."""
        for size, channels, expected in (
            ((8, 8), 4, "avg4x4"),
            ((8, 12), 341, "avg4x4"),
            ((8, 12), 342, "avg"),
            ((4, 8), 4, "avg"),
            ((9, 8), 4, "avg"),
        ):
            image = keras.Input((*size, 1))
            x = layers.Conv2D(channels, 1, name="cut")(image)
            x = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
            model = kd.add_decision_gates(keras.Model(image, x), ["cut"])
            assert model.gates[0].pooling == expected, (size, channels)

    def test_names_that_clash_with_the_trunks(self, tmp_path):
        net = small_trunk(names=("gate_1", "first"))
        model = kd.add_decision_gates(
            net, ["gate_1"], head="conv", first=first_classifier()
        )
        randomize(model, 2)
        model.thresholds = [np.inf, np.inf]
        assert [gate.name for gate in model.gates] == ["first", "gate_1"]
        gates = [gate.kernel_macs((None, *SMALL.shape[1:])) for gate in model.gates]
        total = kd.count_macs(net).total + sum(gates)
        assert kd.count_macs(model).per_exit[-1] == total
        model.save(tmp_path / "exits.keras")
        again = keras.saving.load_model(tmp_path / "exits.keras")
        for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_place_called_input(self):
        """Then the trunk's input goes by another name."""
        model = kd.add_decision_gates(
            small_trunk(names=("relu", "input")), ["input"], first=first_classifier()
        )
        assert model.after == ("input:0", "input")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"head": "cubic"}, "`head` must be one of 'linear', 'conv', 'separable'"),
            (
                {"head": 3},
                "`head` must be one of .*, a Keras layer or a function that ma",
            ),
            ({"head": None}, "`head` must be one of .*, a Keras layer or a function"),
            (
                {"head": lambda shape: "no layer"},
                "`head` must make a Keras layer from the shape of the features. Received: "
                ".*which made 'no layer'",
            ),
            (
                {"head": lambda shape: layers.Dense(CLASSES)},
                r"`head` must put out \[batch, 3\], the classes of the trunk. Received: ",
            ),
            (
                {"head": lambda shape: layers.Dense(CLASSES + 1), "after": ["vector"]},
                r"`head` must put out \[batch, 3\], .* with an output of shape \(None, 4\)",
            ),
            (
                {"head": lambda shape: layers.Conv2D(2, 3), "after": ["vector"]},
                r"`head` must take features of shape \(5,\). Received: head='conv2d",
            ),
            (
                {"head": layers.Dense(CLASSES)},
                "`head` must be a function that makes a layer, or a list of layers, where "
                "there are several exits. Received: .* for 2",
            ),
            (
                {"head": ["conv"]},
                r"`head` must be one head, or one per gate \(2\). Received: head=\['conv'",
            ),
            ({"head": "conv", "after": ["vector"]}, "`head='conv'` needs feature maps"),
            (
                {"head": "conv", "confidence": "distance"},
                "`confidence` must be one of 'score', 'margin', 'entropy', 'probability'",
            ),
            (
                {"combine": True, "confidence": "distance"},
                "`combine` goes with confidences of scores, not with 'distance'",
            ),
            ({"combine": 1}, "`combine` must be True or False"),
            (
                {"after": ["nowhere"]},
                "`after` must name layers .* which has no 'nowhere'",
            ),
            ({"after": ["input"]}, "'input' is none: no MACs are spent up to it"),
            ({"after": []}, "`after` must be a non-empty list of layers"),
            (
                {"after": None, "first": first_classifier},
                "`after` must be a non-empty list of layers. Received: after=None",
            ),
            (
                {"first": lambda: first_classifier(channels=1)},
                "`first` must take inputs of the trunk's kind",
            ),
            (
                {"first": lambda: small_trunk().layers[1]},
                "`first` must be a functional or Sequential classifier",
            ),
            (
                {"first": lambda: "small"},
                "`first` must be a Keras classifier, 'auto' or None",
            ),
            (
                {"first": lambda: "auto"},
                "`first='auto'` needs a trunk of RGB pictures of 96 pixels or more",
            ),
        ],
    )
    def test_refused(self, arguments, message):
        arguments = {"after": ["relu", "mid"], **arguments}
        if callable(arguments.get("first")):
            arguments["first"] = arguments["first"]()
        with pytest.raises(ValueError, match=message):
            kd.add_decision_gates(small_trunk(), **arguments)


def test_automatic_first_net(monkeypatch):
    """Its size from the trunk's, its weights as named, its values as the trunk's."""
    asked = []

    def small_net(size, classes, *, weights, scales):
        asked.append((size, classes, weights, scales))
        return first_classifier(size)

    module = "keras_dyngate.models.exits.first_nets"
    monkeypatch.setattr(f"{module}.automatic_size", lambda shape, macs: 6)
    monkeypatch.setattr(f"{module}.small_net", small_net)
    image = keras.Input((8, 8, 3))
    scaled = keras.Model(image, small_trunk()(layers.Rescaling(1 / 255)(image)))
    for trunk, weights in ((small_trunk(), None), (scaled, "imagenet")):
        model = kd.add_decision_gates(trunk, first="auto", first_weights=weights)
        assert [gate.name for gate in model.gates] == ["first"]
        assert model.after == ("input",)
    assert asked == [(6, 3, None, False), (6, 3, "imagenet", True)]


class TestCombined:
    """A first net, a linear gate and a head, each answering with all before it."""

    MIXING = np.array(
        [[1.2, 0, 0, 0], [0.5, 0.9, 0, 0], [-0.2, 0.4, 1.1, 0], [0.3, 0.2, 0.1, 0.7]]
    )

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, module_numpy_initializers):
        made = kd.add_decision_gates(
            small_trunk(),
            ["relu", "mid"],
            head=["linear", "separable"],
            first=first_classifier(),
            combine=True,
        )
        for seed, gate in enumerate(made.gates):
            randomize(gate, seed)
        made.mixing = cls.MIXING
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def truth(cls, model):
        """What every exit answers, by loops, and thresholds between its samples."""
        net = model.trunk
        places = [net.get_layer(name).output for name in ("relu", "mid")]
        maps = [outputs(keras.Model(net.input, place), SMALL) for place in places]
        raw = [
            keras.ops.convert_to_numpy(gate(x))
            for gate, x in zip(model.gates, [SMALL, *maps], strict=True)
        ]
        raw.append(np.log(outputs(net, SMALL).astype("float64")))
        said = np.zeros((4, 20, CLASSES))
        for k in range(4):
            for j in range(k + 1):
                said[k] += cls.MIXING[k, j] * (raw[j] if j < 3 else cls.logits(net))
        sure = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
        sure = sure.max(-1)
        thresholds, stays = [], np.ones(20, bool)
        for k in range(3):
            values = np.sort(sure[k][stays])
            at = int(0.6 * len(values))
            thresholds.append((values[at] + values[at - 1]) / 2)
            stays &= sure[k] < thresholds[-1]
        exits = np.full(20, 3)
        for k in (2, 1, 0):
            exits[sure[k] >= thresholds[k]] = k
        return said, sure, thresholds, exits

    @staticmethod
    def logits(net):
        x = outputs(keras.Model(net.input, net.get_layer("vector").output), SMALL)
        kernel, bias = net.get_layer("out").get_weights()
        return x @ kernel + bias

    def test_predict_dense_and_table(self, model, truth):
        said, sure, thresholds, exits = truth
        assert np.bincount(exits, minlength=4).min() >= 1
        model.thresholds = thresholds
        macs = kd.count_macs(model).per_exit
        for size in (3, 32):
            found = model.predict(SMALL, size, verbose=0)
            np.testing.assert_array_equal(found["exit"], exits)
            expected = said[exits, np.arange(20)]
            np.testing.assert_allclose(found["logits"], expected, 1e-3, 1e-4)
            np.testing.assert_array_equal(found["label"], expected.argmax(-1))
            scores = np.where(exits < 3, sure[exits, np.arange(20)], expected.max(-1))
            np.testing.assert_allclose(found["score"], scores, 1e-3, 1e-4)
            np.testing.assert_array_equal(found["macs"], np.array(macs)[exits])
        table = model.exit_table(SMALL, np.arange(20) % CLASSES)
        np.testing.assert_allclose(table.confidence, sure[:3].T, 1e-3, 1e-4)
        np.testing.assert_array_equal(table.labels, said.argmax(-1).T)
        np.testing.assert_array_equal(table.macs, np.tile(macs, (20, 1)))
        decided = kd.decide(model, SMALL)
        np.testing.assert_array_equal(decided["exit"][:, 0], exits)
        dense = model(SMALL)  # every exit's own raw scores
        assert list(dense) == ["first", "gate_1", "gate_2", "head"]
        own = keras.ops.convert_to_numpy(dense["gate_1"])
        first = keras.ops.convert_to_numpy(dense["first"])
        np.testing.assert_allclose(0.5 * first + 0.9 * own, said[1], 1e-3, 1e-4)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(dense["head"]),
            outputs(model.trunk, SMALL),
            rtol=1e-5,
        )

    def test_macs(self, model):
        first = 2 * 2 * 27 * 3 + 3 * 3
        linear = 2 * 2 * 4 * 3
        separable = model.gates[2].kernel_macs((None, 4, 4, 6))
        trunk = [0, 64 * 27 * 4, 16 * 36 * 6, 6 * 5 + 5 * 3]
        expected = np.cumsum(trunk) + np.cumsum([first, linear, separable, 0])
        assert kd.count_macs(model).per_exit == tuple(expected)

    def test_saved(self, model, truth, tmp_path):
        model.thresholds = thresholds = truth[2]
        model.save(tmp_path / "exits.keras")
        again = keras.saving.load_model(tmp_path / "exits.keras")
        np.testing.assert_array_equal(again.mixing, np.float32(self.MIXING))
        np.testing.assert_array_equal(again.thresholds, np.float32(thresholds))
        assert again.combine is True and again.mixes
        assert again.after == model.after == ("input", "relu", "mid")
        assert [gate.name for gate in again.gates] == ["first", "gate_1", "gate_2"]
        found = again.predict(SMALL, verbose=0)
        np.testing.assert_array_equal(found["exit"], truth[3])
        for name, values in model.predict(SMALL, verbose=0).items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)

    def test_evaluate(self, model, truth):
        said, _, thresholds, exits = truth
        model.thresholds = thresholds
        y = np.arange(20) % CLASSES
        found = model.evaluate(SMALL, y, verbose=0, return_dict=True)
        answers = said[exits, np.arange(20)].argmax(-1)
        assert found["accuracy"] == pytest.approx((answers == y).mean())
        shares = np.bincount(exits, minlength=4) / 20
        assert found["exit_shares"] == pytest.approx(tuple(shares))

    @pytest.mark.parametrize(
        "mixing",
        [
            *(np.eye(3), np.ones((4, 4)), np.full((4, 4), np.nan), "ones", None),
            *([[1.0]], np.diag([1.0, 1.0, 0.0, 1.0])),
        ],
    )
    def test_bad_mixings(self, model, mixing):
        message = "`mixing` must be a lower triangular matrix of 4 rows, one per exit"
        with pytest.raises(ValueError, match=message):
            model.mixing = mixing
        np.testing.assert_array_equal(model.mixing, np.float32(self.MIXING))


@pytest.mark.heavy
def test_fit_with_a_first_net_alone():
    """One channel; pictures as bytes and without their channel."""
    net = small_trunk(1)
    model = kd.add_decision_gates(net, first=first_classifier(6, 1))
    assert not model.mixes and model.combine is False
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8), "uint8")
    y = np.arange(12) % CLASSES
    model.compile("sgd", metrics=["accuracy"])
    before = [np.array(w) for w in model.gates[0].get_weights()]
    history = model.fit(x / 255, y, batch_size=12, verbose=0).history
    assert "first_accuracy" in history and np.isfinite(history["loss"]).all()
    for a, b in zip(before, model.gates[0].get_weights(), strict=True):
        assert (a != b).any()
    model.thresholds = [-np.inf]
    found = model.predict(x, verbose=0)
    assert (found["exit"] == 0).all()
    assert set(found["macs"]) == {4 * 4 * 9 * 3 + 9}
    expected = model.predict(x.astype("float32")[..., None], verbose=0)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4)
