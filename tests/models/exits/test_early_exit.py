import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import keras_dyngate as kd
from keras_dyngate._hooks import recording
from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.models.exits import stages as exit_stages
from keras_dyngate.thresholds.wish import Wish
from tests.exit_tables import by_loops
from tests.stubs import images, outputs, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy
INF = np.inf
N, CLASSES = 46, 5
CUTS = {
    "plain": ["relu1", "c2"],
    "gated": ["stage1_block3", "stage2_block3"],
    "lc": ["stage1_block2", "stage3_block1"],
    "blocks": ["a"],
}
KINDS = ["plain", "gated", "lc"]


def plain(shape=(8, 8, 3), classes=CLASSES, **head):
    """Three convolutions, one with batch normalization, and a linear layer."""
    x = image = keras.Input(shape)
    x = layers.Conv2D(4, 3, padding="same", name="c1")(x)
    x = layers.ReLU(name="relu1")(
        layers.BatchNormalization(momentum=0.8, name="bn1")(x)
    )
    x = layers.Conv2D(6, 3, 2, padding="same", activation="relu", name="c2")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="c3")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    head = {"activation": "softmax", **head}
    return keras.Model(image, layers.Dense(classes, name="dense", **head)(x))


def blocks():
    """Two dynamic blocks and a linear layer."""
    x = image = keras.Input((8, 8, 3))
    for name in "ab":
        gates = kd.BinaryGate(2, hidden=3), kd.BinaryGate(1, hidden=3)
        x = kd.GatedBasicBlock(
            4, channel_gate=gates[0], layer_gate=gates[1], name=name
        )(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def two_outputs():
    net = plain()
    return keras.Model(net.input, [net.output, net.get_layer("pool").output])


def trunk(kind):
    if kind == "plain":
        return plain()
    if kind == "blocks":
        return blocks()
    arguments = {"width": 0.25, "input_shape": (16, 16, 3), "classes": CLASSES}
    if kind == "lc":
        return kd.lc_resnet20(**arguments)
    return kd.gated_resnet20(gates=kd.Gates(layer="binary"), **arguments)


def exits_on(kind="plain", seed=1, **arguments):
    """Random weights everywhere."""
    made = kd.add_decision_gates(trunk(kind), CUTS[kind], **arguments)
    thresholds, mixing = made.thresholds, made.mixing
    randomize(made, seed)
    made.thresholds, made.mixing = thresholds, mixing
    return made


def inputs(kind="plain", count=N, seed=0):
    if kind in ("plain", "blocks"):
        return images(count, 8, 8, 3, seed=seed) / 255
    return images(count, 16, 16, 3, seed=seed)


def between(values, share):
    """Halfway in the widest gap around a quantile: rounding crosses it nowhere."""
    values = np.sort(np.asarray(values, "float64"))
    near = int((1 - share) * len(values)) + np.arange(-3, 4)
    gaps = values[near + 1] - values[near]
    widest = near[gaps.argmax()]
    return float((values[widest] + values[widest + 1]) / 2)


class Case:
    """A net, images, and what all its exits say of them in one full pass."""

    def __init__(self, kind):
        self.kind, self.model, self.x = kind, exits_on(kind), inputs(kind)
        # Compiling takes longest: where batches are this large, all are padded to N.
        self.batch = None if kind == "plain" else exit_stages.PADDING * N
        self.dense = {k: to_numpy(v) for k, v in self.model(self.x).items()}
        self.said = [self.dense[name] for name in ("gate_1", "gate_2", "head")]
        first = between(self.said[0].max(1), 0.35)
        stay = self.said[0].max(1) < first
        self.thresholds = [first, between(self.said[1][stay].max(1), 0.4)]
        self.exits = np.where(stay, 1 + (self.said[1].max(1) < self.thresholds[1]), 0)
        net = self.model.trunk
        ends = [*(net.get_layer(name).output for name in CUTS[kind]), net.output]
        self.parts = [keras.Model(net.input, end) for end in ends]
        self.decisions = {} if kind == "plain" else kd.decide(net, self.x, N)

    def macs(self, exits):
        """Of the net up to each exit, on its own, and of the gates on the way."""
        spent, gates = [], 0
        for part, gate in zip(self.parts, [*self.model.gates, None], strict=True):
            if gate is not None:
                gates += gate.dense.kernel.shape[0] * CLASSES
            macs = kd.count_macs(part).of(self.decisions) + gates
            spent.append(np.broadcast_to(macs, N))
        return np.array(spent)[exits, np.arange(N)]

    def logits(self):
        """Of the trunk, by its last layer's weights."""
        net = self.model.trunk
        features = outputs(keras.Model(net.input, net.layers[-2].output), self.x)
        kernel, bias = (to_numpy(v).astype("float64") for v in net.layers[-1].weights)
        return features @ kernel + bias

    def check(self, found, exits, rows=slice(None)):
        """`predict`'s answer against the selection from the full pass."""
        said = np.stack([*self.said[:-1], self.logits()])
        expected = said[exits, np.arange(N)][rows]
        np.testing.assert_array_equal(found["exit"], exits[rows])
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found["label"], expected.argmax(-1))
        np.testing.assert_allclose(found["score"], expected.max(-1), 1e-3, 1e-4)
        np.testing.assert_array_equal(found["macs"], self.macs(exits)[rows])


@pytest.fixture(scope="module")
def cases(module_numpy_initializers):
    return functools.cache(Case)


@pytest.fixture(params=KINDS)
def case(request, cases):
    found = cases(request.param)
    yield found
    found.model.thresholds = [INF, INF]


@pytest.fixture
def one(cases):
    """The plain net's."""
    found = cases("plain")
    yield found
    found.model.thresholds = [INF, INF]


@pytest.mark.heavy
class TestWhole:
    def test_infinite_thresholds_are_the_trunk(self, case):
        assert not case.model.calibrated
        np.testing.assert_array_equal(case.model.thresholds, [INF, INF])
        expected = outputs(case.model.trunk, case.x)
        np.testing.assert_array_equal(case.dense["head"], expected)
        found = case.model.predict(case.x, case.batch)
        case.check(found, np.full(N, 2))
        np.testing.assert_allclose(
            log_softmax(found["logits"], 1), np.log(expected), rtol=1e-3, atol=1e-4
        )

    def test_minus_infinity_is_gate_1(self, case):
        found = case.model.predict(case.x, case.batch, thresholds=[-INF, INF])
        case.check(found, np.zeros(N, int))
        truth = np.arange(N) % CLASSES
        accuracy = (case.dense["gate_1"].argmax(1) == truth).mean()
        assert (found["label"] == truth).mean() == accuracy
        if case.kind == "plain":
            assert (found["macs"] == kd.count_macs(case.model).per_exit[0]).all()

    def test_gates_are_what_they_say(self, one):
        x = one.x
        for part, gate in zip(one.parts, one.model.gates, strict=False):
            scores = to_numpy(gate(outputs(part, x)))
            np.testing.assert_array_equal(one.dense[gate.name], scores)
        assert list(one.dense) == ["gate_1", "gate_2", "head"]
        spec = one.model(keras.Input((8, 8, 3)))
        assert {k: v.shape for k, v in spec.items()} == {
            name: (None, CLASSES) for name in one.dense
        }
        assert one.model.input_shape == (None, 8, 8, 3)
        assert one.model.output_shape == (None, CLASSES)

    def test_weights_are_the_trunks(self, one):
        own = {id(weight) for weight in one.model.weights}
        gates = [w for gate in one.model.gates for w in gate.weights]
        assert (
            len(own)
            == len(one.model.weights)
            == len(gates) + 2 + len(one.model.trunk.weights)  # thresholds, mixing
        )
        assert {id(w) for w in (*one.model.trunk.weights, *gates)} < own


class TestPredict:
    def test_selection_from_a_full_pass(self, case):
        counts = np.bincount(case.exits, minlength=3)
        assert counts.min() >= 5
        found = case.model.predict(case.x, case.batch, thresholds=case.thresholds)
        case.check(found, case.exits)
        assert {k: (v.shape, v.dtype.kind) for k, v in found.items()} == {
            "logits": ((N, CLASSES), "f"),
            "label": ((N,), "i"),
            "score": ((N,), "f"),
            "exit": ((N,), "i"),
            "macs": ((N,), "i"),
        }

    @pytest.mark.parametrize("batch_size", [1, 7, 16, 45, 46, 64])
    def test_batch_sizes(self, one, batch_size):
        found = one.model.predict(
            one.x, batch_size, verbose=0, thresholds=one.thresholds
        )
        one.check(found, one.exits)

    def test_datasets(self, one):
        one.model.thresholds = one.thresholds
        assert one.model.calibrated
        cuts = [0, 9, 10, 31, N]
        parts = [one.x[i:j] for i, j in zip(cuts, cuts[1:], strict=False)]
        labelled = [(part, np.zeros(len(part))) for part in parts]
        for data in (parts, labelled, iter(labelled), (part for part in parts)):
            one.check(one.model.predict(data, 8), one.exits)
        one.check(one.model.predict(keras.ops.convert_to_tensor(one.x)), one.exits)

    def test_the_order_is_kept(self, one):
        order = np.random.default_rng(0).permutation(N)
        found = one.model.predict(one.x[order], 8, thresholds=one.thresholds)
        one.check(found, one.exits, order)

    def test_fewer_samples_reach_later_stages(self, one, monkeypatch):
        seen = {}

        def watch(index, run):
            def predict_on_batch(x):
                seen.setdefault(index, []).append(len(x))
                return run(x)

            return predict_on_batch

        for index, stage in enumerate(one.model.raw_stages):
            watched = watch(index, stage.predict_on_batch)
            monkeypatch.setattr(stage, "predict_on_batch", watched)
        reach = [int((one.exits >= index).sum()) for index in range(3)]
        assert N == reach[0] > reach[1] > reach[2] > 0

        one.model.predict(one.x, 8, thresholds=one.thresholds)
        assert {i: sum(sizes) for i, sizes in seen.items()} == dict(enumerate(reach))
        for sizes in seen.values():  # full batches, however few a batch keeps
            assert sizes[:-1] == [8] * (len(sizes) - 1)

        seen.clear()  # few sizes, so that little is compiled
        one.model.predict(one.x, 32, thresholds=one.thresholds)
        for index, sizes in seen.items():
            assert set(sizes) <= set(range(4, 33, 4))
            assert reach[index] <= sum(sizes) < reach[index] + 4

        seen.clear()
        one.model.predict(one.x, 8, thresholds=[-INF, INF])
        assert list(seen) == [0]
        one.model.predict(one.x, 8, thresholds=[INF, -INF])
        assert list(seen) == [0, 1]

    def test_confidences_are_the_gates(self):
        x, model = inputs(), exits_on(confidence="distance")
        dense = model(x)
        for kind in ("distance", "margin", "entropy"):
            for gate in model.gates:
                gate.confidence = kind
            first, second = (
                to_numpy(gate.confidence_of(dense[gate.name])) for gate in model.gates
            )
            limits = model.thresholds = [between(first, 0.4), between(second, 0.4)]
            leaves = first >= limits[0], second >= limits[1]
            exits = np.where(leaves[0], 0, np.where(leaves[1], 1, 2))
            found = model.predict(x)
            np.testing.assert_array_equal(found["exit"], exits)
            for at, confidence in enumerate((first, second)):
                assert (exits == at).sum() > 3
                np.testing.assert_allclose(
                    found["score"][exits == at], confidence[exits == at], 1e-4, 1e-5
                )
            with recording() as decided:
                model(x)
            np.testing.assert_array_equal(np.ravel(decided["exit"]), exits)

    def test_a_trunk_without_softmax(self):
        model = kd.add_decision_gates(randomize(plain(activation=None)), ["c2"])
        x = inputs()
        found = model.predict(x)["logits"]
        np.testing.assert_allclose(found, outputs(model.trunk, x), 1e-4, 1e-5)

    def test_no_samples(self, one):
        for nothing in (one.x[:0], []):
            with pytest.raises(ValueError, match="`x` must hold at least one sample"):
                one.model.predict(nothing)
            with pytest.raises(ValueError, match="`x` must hold at least one sample"):
                one.model.exit_table(nothing)

    def test_padding(self):
        sizes = {
            (count, size): exit_stages.padded_size(count, size)
            for size in (1, 7, 8, 32, 100)
            for count in range(1, size + 1)
        }
        for (count, size), padded in sizes.items():
            assert count <= padded <= size and padded < count + max(1, size // 8)
        assert {sizes[count, 32] for count in range(1, 33)} == set(range(4, 33, 4))
        assert len({sizes[count, 100] for count in range(1, 101)}) == 9


class TestDecisions:
    def test_what_comes_after_the_exit_reads_0(self, case):
        case.model.thresholds = case.thresholds
        found = kd.decide(case.model, case.x, N)
        profile = kd.count_macs(case.model)
        np.testing.assert_array_equal(profile.of(found), case.macs(case.exits))
        np.testing.assert_array_equal(found["exit"], case.exits[:, None])
        assert set(found) == {"exit", *case.decisions}
        held = [{layer.name for layer in part.layers} for part in case.parts]
        dropped = 0
        for key, whole in case.decisions.items():
            stage = [key.split("/")[0] in names for names in held].index(True)
            expected = whole * (case.exits >= stage)[:, None]
            np.testing.assert_array_equal(found[key], expected)
            dropped += (expected != whole).any()
        assert dropped > 3 or case.kind == "plain"
        with pytest.raises(ValueError, match="`decisions` must hold 'exit' for a net"):
            profile.of(case.decisions)

    def test_the_exit_is_recorded_in_a_net_around(self, one):
        one.model.thresholds = one.thresholds
        image = keras.Input((8, 8, 3))
        around = keras.Model(image, one.model(image)["head"])
        found = predict_with_decisions(around, one.x)[1]
        np.testing.assert_array_equal(np.ravel(found["exit"]), one.exits)


class TestMacs:
    def test_by_hand(self, one):
        profile = kd.count_macs(one.model)
        rows = [(r.name, r.macs, r.controller, r.stage) for r in profile.layers]
        assert rows == [
            ("c1", 6912, False, 0),
            ("gate_1", 80, True, 0),  # 2x2 averages of 8x8x4
            ("c2", 3456, False, 1),
            ("gate_2", 30, True, 1),
            ("c3", 6912, False, 2),
            ("dense", 40, False, 2),
        ]
        assert profile.per_exit == (6992, 10478, 17430)
        assert profile.controllers == 110
        assert profile.total == kd.count_macs(one.model.trunk).total == 17320
        assert (profile.ungated, profile.gateable) == (6912, 10408)

    def test_dynamic_trunks(self, case):
        profile, own = kd.count_macs(case.model), kd.count_macs(case.model.trunk)
        gates = [gate.dense.kernel.shape[0] * CLASSES for gate in case.model.gates]
        assert profile.total == own.total
        assert profile.controllers == own.controllers + sum(gates)
        points = {point.layer: point.macs for point in kd.cut_points(case.model.trunk)}
        ends = [points[name] for name in CUTS[case.kind]]
        ends += [own.total + own.controllers]
        assert profile.per_exit == tuple(ends + np.cumsum([*gates, 0]))

    @pytest.mark.parametrize(
        ("make", "after", "shares", "gates"),
        [
            (
                kd.resnet101,
                ["stage1_block3", "stage2_block4"],
                (0.0876, 0.2213),
                (256 * 10, 512 * 10),
            ),
            (
                kd.densenet201,
                ["block1_out", "block2_out"],
                (0.2504, 0.4457),
                (256 * 10, 512 * 10),
            ),
        ],
    )
    def test_of_the_paper(self, make, after, shares, gates):
        model = kd.add_decision_gates(make(stem="cifar"), after)
        profile, whole = kd.count_macs(model), kd.count_macs(model.trunk).total
        trunk_macs = np.array(profile.per_exit) - np.cumsum([*gates, 0])
        assert tuple(np.round(trunk_macs / whole, 4)) == (*shares, 1.0)
        assert profile.total == whole and profile.controllers == sum(gates)
        assert (
            whole
            == {"resnet101": 2_509_983_744, "densenet201": 1_363_888_896}[
                model.trunk.name
            ]
        )


# Fitting


def digits(count=500):
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:count]
    images = data.images[order, ..., None].astype("float32") / 16
    return images, data.target[order].astype("int64")


def state(model):
    return [np.array(weight) for weight in model.get_weights()]


def hinge(scores, labels):
    """By loops over classes."""
    total = 0.0
    for j in range(scores.shape[1]):
        sign = np.where(labels == j, 1.0, -1.0)
        total += np.maximum(0.0, 1.0 - sign * scores[:, j]).sum()
    return total / scores.size


@pytest.mark.heavy
class TestFitGates:
    def test_the_trunk_stays_bit_for_bit(self):
        model = exits_on("blocks")
        x, y = inputs("blocks", 20), np.arange(20) % CLASSES
        before, gates = state(model.trunk), [state(gate) for gate in model.gates]
        expected = outputs(model.trunk, x)
        fits = model.fit_gates(x, y, epochs=2, batch_size=20)
        for old, new in zip(before, state(model.trunk), strict=True):
            np.testing.assert_array_equal(old, new)
        np.testing.assert_array_equal(outputs(model.trunk, x), expected)
        for old, gate in zip(gates, model.gates, strict=True):
            assert all(
                (a != b).all() for a, b in zip(old, gate.get_weights(), strict=True)
            )
        assert all(w.trainable for w in model.trunk.trainable_weights)
        assert not model.calibrated
        assert {name: fit.features for name, fit in fits.items()} == {"gate_1": 16}

    @pytest.mark.parametrize("objective", ["hinge", "cross_entropy"])
    def test_a_separable_problem(self, objective):
        """The classes differ in brightness per channel, and so do the features."""
        image = keras.Input((6, 6, 3))
        mix = layers.Conv2D(3, 1, use_bias=False, name="mix")
        head = layers.Dense(3)(layers.Flatten()(mix(image)))
        model = kd.add_decision_gates(
            keras.Model(image, head), ["mix"], objective=objective
        )
        mix.kernel.assign(1000 * np.eye(3)[None, None] + 3)
        rng = np.random.default_rng(0)
        y = np.arange(120) % 3
        x = np.eye(3)[y][:, None, None] + rng.normal(0, 0.2, (120, 6, 6, 3))
        fit = model.fit_gates(x, y, epochs=20, batch_size=10, learning_rate=0.1)
        assert fit["gate_1"].accuracy == 1.0 and fit["gate_1"].features == 3
        assert fit["gate_1"].loss < 0.05 and fit["gate_1"].seconds > 0
        scores = to_numpy(model(x)["gate_1"])
        assert (scores.argmax(1) == y).all()
        np.testing.assert_allclose(  # the standardization was folded in
            fit["gate_1"].loss,
            to_numpy(model.gates[0].loss()(y, scores)),
            rtol=1e-2,
            atol=1e-3,
        )
        fresh = np.eye(3)[y][:, None, None] + rng.normal(0, 0.2, (120, 6, 6, 3))
        model.thresholds = [-INF]
        assert (model.predict(fresh)["label"] == y).all()

    def test_as_good_as_a_support_vector_machine(self):
        """J + weight_decay |W|^2, for 1/(N c) = 2 weight_decay C: scikit-learn's C."""
        x, y = digits(500)
        net = randomize(plain((8, 8, 1), classes=10), seed=2)
        model = kd.add_decision_gates(net, ["relu1"], pooling="avg4x4")
        keras.utils.set_random_seed(0)
        decay = 1e-4
        (fit,) = model.fit_gates(
            x, y, epochs=40, batch_size=20, learning_rate=0.1, weight_decay=decay
        ).values()

        features = outputs(keras.Model(net.input, net.get_layer("relu1").output), x)
        features = features.astype("float64").reshape(500, 2, 4, 2, 4, 4).mean((2, 4))
        features = features.reshape(500, 16)
        mean, scale = features.mean(0), features.std(0)
        scale[scale == 0] = 1
        features = (features - mean) / scale
        kernel, bias = (to_numpy(v).astype("float64") for v in model.gates[0].weights)
        ours = features @ (kernel * scale[:, None]) + bias + mean @ kernel
        objective = hinge(ours, y) + decay * np.square(kernel * scale[:, None]).sum()

        theirs, squares = np.empty_like(ours), 0.0
        for j in range(10):
            machine = SVC(kernel="linear", C=1 / (2 * decay * 500 * 10), tol=1e-5)
            theirs[:, j] = machine.fit(features, y == j).decision_function(features)
            squares += np.square(machine.coef_).sum()
        least = hinge(theirs, y) + decay * squares
        assert least * (1 - 1e-4) <= objective <= 1.03 * least
        np.testing.assert_allclose(fit.loss, hinge(ours, y), rtol=1e-4)
        assert fit.accuracy == (ours.argmax(1) == y).mean() > 0.8

    def test_labels_and_datasets(self):
        net = randomize(plain())
        model = kd.add_decision_gates(net, ["relu1"])
        x, y = inputs(count=40), np.random.default_rng(0).integers(0, CLASSES, 40)
        cuts = [0, 20, 40]
        parts = [slice(i, j) for i, j in zip(cuts, cuts[1:], strict=False)]
        one_hot = np.eye(CLASSES)[y]
        found = []
        for data in (
            (x, y),
            (x, y[:, None].astype("float32")),
            (x, keras.ops.convert_to_tensor(one_hot)),
            ([(x[part], y[part]) for part in parts],),
            (((x[part], one_hot[part]) for part in parts),),
        ):
            keras.utils.set_random_seed(3)
            model.fit_gates(*data, epochs=2, batch_size=20)
            found.append([state(gate) for gate in model.gates])
        for other in found[1:]:
            for a, b in zip(sum(found[0], []), sum(other, []), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                (np.zeros((6, 8, 8, 3)), np.zeros(5)),
                "a label for each of the 6 samples. Received: 5 labels",
            ),
            (
                (np.zeros((2, 8, 8, 3)), [0, CLASSES]),
                "indices from 0 to 4, or be one-hot. Received: values from 0 to 5",
            ),
            ((np.zeros((2, 8, 8, 3)), [-1, 0]), "values from -1 to 0"),
            (([],), "`x` must hold at least one sample"),
        ],
    )
    def test_bad_data(self, one, data, message):
        with pytest.raises(ValueError, match=message):
            one.model.fit_gates(*data, epochs=1)

    def test_without_labels(self):
        """The trunk's own answers are the labels, unless it is no teacher."""
        x = inputs()
        fits, net = [], plain()
        for labels in (None, outputs(net, x).argmax(-1)):
            keras.utils.set_random_seed(0)
            model = kd.add_decision_gates(net, ["c1"])
            model.fit_gates(x, labels, epochs=2)
            fits.append(state(model.gates[0]))
        for ours, theirs in zip(*fits, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(ValueError, match="`y` must be given with images"):
            model.fit_gates(x, teacher=None)

    @pytest.mark.parametrize("argument", ["epochs", "batch_size"])
    def test_bad_arguments(self, one, argument):
        with pytest.raises(
            ValueError, match=f"`{argument}` must be a positive integer"
        ):
            one.model.fit_gates(one.x, np.zeros(N), **{argument: 0})


@pytest.mark.heavy
class TestJointFit:
    @pytest.mark.parametrize(
        ("kind", "objective"),
        [("plain", "hinge"), ("plain", "cross_entropy"), ("blocks", "hinge")],
    )
    def test_each_exit_has_its_own_loss(self, kind, objective):
        model = exits_on(kind, objective=objective)
        x, y = inputs(kind, 20), np.random.default_rng(0).integers(0, CLASSES, 20)
        start = state(model)
        dense = {k: to_numpy(v) for k, v in model(x, training=True).items()}
        model.set_weights(start)
        weights = [0.5, 2, 0.25][-len(dense) :]
        model.compile(
            keras.optimizers.SGD(0.1), loss_weights=weights, metrics=["accuracy"]
        )
        history = model.fit(x, y, batch_size=20, verbose=0).history
        found = {name: value for name, (value,) in history.items()}
        expected, total = {}, 0.0
        for name, weight in zip(dense, weights, strict=True):
            scores = dense[name].astype("float64")
            if name == "head":
                loss = -np.log(scores[np.arange(20), y]).mean()
            elif objective == "hinge":
                loss = hinge(scores, y)
            else:
                loss = -log_softmax(scores, 1)[np.arange(20), y].mean()
            expected[f"{name}_loss"] = loss
            expected[f"{name}_accuracy"] = (scores.argmax(1) == y).mean()
            total += weight * loss
        if kind == "plain":  # in the dynamic net there is noise
            expected["loss"] = total
            assert found == pytest.approx(expected, rel=1e-3)
        frozen = {id(weight) for weight in model.non_trainable_weights}
        for weight, old in zip(model.weights, start, strict=True):
            # A bias before a normalization has no gradient but what is rounded.
            if id(weight) not in frozen and weight.path != "c1/bias":
                assert (to_numpy(weight) != old).any(), weight.path
        assert (model.thresholds == INF).all()

    def test_weights_by_name_and_other_losses(self):
        """Labels as one-hot, a loss of one's own for every exit, and for samples."""
        model = exits_on()
        x, y = inputs(), np.eye(CLASSES)[np.arange(N) % CLASSES]
        dense = {k: to_numpy(v) for k, v in model(x).items()}
        model.compile(
            "sgd",
            loss={"gate_1": "mse", "gate_2": kd.OneVsAllHinge(), "head": "mae"},
            loss_weights={"gate_1": 0.0, "gate_2": 3.0, "head": 1.0},
        )
        weight = np.linspace(0, 2, N)
        found = model.evaluate(
            x, y, batch_size=N, sample_weight=weight, verbose=0, return_dict=True
        )
        sign = 2 * y - 1
        expected = {
            "gate_1_loss": np.square(dense["gate_1"] - y).mean(1),
            "gate_2_loss": np.maximum(0, 1 - sign * dense["gate_2"]).mean(1),
            "head_loss": np.abs(dense["head"] - y).mean(1),
        }
        expected = {name: (weight * loss).mean() for name, loss in expected.items()}
        expected["loss"] = 3 * expected["gate_2_loss"] + expected["head_loss"]
        of_keras = {name: found[name] for name in expected}
        assert of_keras == pytest.approx(expected, rel=1e-3)

    def test_head_without_softmax(self):
        model = kd.add_decision_gates(randomize(plain(activation=None)), ["c2"])
        x, y = inputs(), np.arange(N) % CLASSES
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=False)
        found = model.evaluate(x, y, verbose=0, return_dict=True)
        scores = to_numpy(model(x)["head"]).astype("float64")
        expected = -log_softmax(scores, 1)[np.arange(N), y].mean()
        assert found["head_loss"] == pytest.approx(expected, rel=1e-3)

    def test_a_frozen_trunk(self):
        model = exits_on()
        model.trunk.trainable = False
        before, gates = state(model.trunk), [state(gate) for gate in model.gates]
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(inputs(), np.arange(N) % CLASSES, verbose=0)
        for old, new in zip(before, state(model.trunk), strict=True):
            np.testing.assert_array_equal(old, new)
        for old, gate in zip(gates, model.gates, strict=True):
            assert (old[0] != gate.get_weights()[0]).any()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"loss_weights": [1.0, 2.0]}, "`loss_weights` must be 3 numbers, the he"),
            ({"metrics": [keras.metrics.Mean()]}, "`metrics` must be names, made anew"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            exits_on().compile("sgd", **arguments)


# Choosing thresholds


class Trained:
    """A small net and its gates, fitted to digits; other digits to calibrate, to test."""

    def __init__(self):
        x, y = digits(1100)
        keras.utils.set_random_seed(1)
        net = randomize(plain((8, 8, 1), classes=10), seed=1)
        net.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
        net.fit(x[:500], y[:500], epochs=8, batch_size=20, verbose=0)
        self.model = kd.add_decision_gates(
            net, ["relu1", "c2"], pooling=["avg4x4", "flatten"]
        )
        self.model.fit_gates(x[:500], y[:500], epochs=10, batch_size=20)
        self.x, self.y = x[500:800], y[500:800]
        self.test_x, self.test_y = x[800:], y[800:]
        self.table = self.model.exit_table(self.x, self.y, 100)
        self.test_table = self.model.exit_table(self.test_x, self.test_y, 100)

    def check(self, found):
        """What was set is what was said, and `predict` does it."""
        np.testing.assert_array_equal(
            self.model.thresholds, np.float32(found.thresholds)
        )
        answer = self.model.predict(self.x, 100)
        shares = np.bincount(answer["exit"], minlength=3) / 300
        assert found.shares == pytest.approx(shares.tolist(), abs=0.5 / 300)
        assert found.macs == pytest.approx(answer["macs"].mean(), rel=1e-3)
        accuracy = (answer["label"] == self.y).mean()
        assert found.accuracy == pytest.approx(accuracy, abs=1.5 / 300)
        whole = (
            2304 + 160 + 3456 + 960 + 6912 + 80
        )  # convolutions, gates, the last layer
        assert found.macs_share == pytest.approx(found.macs / whole)


@pytest.fixture(scope="module")
def trained_once(module_numpy_initializers):
    return Trained()


@pytest.fixture
def trained(trained_once):
    yield trained_once
    trained_once.model.thresholds = [INF, INF]


@pytest.fixture
def tabled(trained, monkeypatch):
    """The same, its pass over the data done once: it compiles anew each time."""
    monkeypatch.setattr(trained.model, "exit_table", lambda x, y, batch: trained.table)
    return trained


class TestTable:
    @pytest.mark.parametrize("case", ["plain", "gated"], indirect=True)
    def test_against_the_dense_form(self, case):
        truth = np.arange(N) % CLASSES
        case.model.thresholds = case.thresholds
        table = case.model.exit_table(case.x, truth, N)
        np.testing.assert_array_equal(
            case.model.thresholds, np.float32(case.thresholds)
        )
        for at, name in enumerate(("gate_1", "gate_2")):
            np.testing.assert_allclose(
                table.confidence[:, at], case.dense[name].max(1), rtol=1e-3, atol=1e-4
            )
        for at, said in enumerate(case.said):
            np.testing.assert_array_equal(table.labels[:, at], said.argmax(1))
            expected = case.macs(np.full(N, at))
            np.testing.assert_array_equal(table.macs[:, at], expected)
        np.testing.assert_array_equal(table.truth, truth)

    def test_data(self, one):
        truth = np.arange(N) % CLASSES
        expected = one.model.exit_table(one.x, truth)
        parts = [
            (one.x[i : i + 23], np.eye(CLASSES)[truth[i : i + 23]]) for i in (0, 23)
        ]
        found = one.model.exit_table(parts)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.truth, truth)
        assert one.model.exit_table([part for part, _ in parts], None).truth is None

    def test_thresholds_are_put_back_after_an_error(self, one):
        one.model.thresholds = [1.0, 2.0]
        with pytest.raises(ValueError, match="labels"):
            one.model.exit_table(one.x, np.zeros(3))
        np.testing.assert_array_equal(one.model.thresholds, [1.0, 2.0])


@pytest.mark.heavy
class TestCalibrate:
    def sweep(self, trained, **limits):
        """(accuracy, MACs) of the budgeted sweep on the same data."""
        points = trained.model.curve(trained.table, trained.table)
        return np.array([(point.accuracy, point.macs) for point in points])

    @pytest.mark.parametrize("share", [0.4, 0.7, 1.0])
    def test_macs(self, tabled, share):
        budget = share * tabled.table.macs[0, -1]
        found = tabled.model.calibrate(tabled.x, tabled.y, macs=budget)
        assert found.macs <= budget and found.ms is None
        points = self.sweep(tabled)
        assert found.accuracy >= points[points[:, 1] <= budget, 0].max()
        tabled.check(found)

    @pytest.mark.parametrize("drop", [0.0, 0.02, 0.1])
    def test_accuracy_drop(self, tabled, drop):
        found = tabled.model.calibrate(tabled.x, tabled.y, accuracy_drop=drop)
        head = (tabled.table.labels[:, 2] == tabled.y).mean()
        assert found.head_accuracy == head > 0.8
        assert found.accuracy >= head - drop - 1e-9
        points = self.sweep(tabled)
        kept = points[points[:, 0] >= head - drop, 1]
        assert found.macs <= kept.min(initial=tabled.table.macs[0, -1])
        assert found.macs_share < 0.95
        tabled.check(found)

    def test_exit_shares(self, trained):
        found = trained.model.calibrate(trained.x, trained.y, exit_shares=[0.3, 0.5])
        assert found.shares == pytest.approx((0.3, 0.5, 0.2), abs=1e-9)
        trained.check(found)
        blind = trained.model.calibrate(trained.x, exit_shares=[0.3, 0.5])
        assert blind.thresholds == found.thresholds and blind.accuracy is None
        none = trained.model.calibrate(trained.x, exit_shares=[0.0, 0.0])
        assert none.thresholds == (INF, INF)
        assert trained.model.calibrated  # nobody leaves, which a file can say
        assert (trained.model.predict(trained.x, verbose=0)["exit"] == 2).all()

    def test_latency(self, tabled):
        path_ms = [1.0, 3.0, 4.0]
        found = tabled.model.calibrate(tabled.x, tabled.y, ms=2.5, path_ms=path_ms)
        assert (
            found.ms == pytest.approx(np.dot(found.shares, path_ms)) and found.ms <= 2.5
        )
        points = tabled.model.curve(tabled.table, tabled.table, path_ms=path_ms)
        swept = max(point.accuracy for point in points if point.ms <= 2.5)
        assert found.accuracy >= swept
        tabled.check(found)
        timed = tabled.model.calibrate(
            tabled.x, tabled.y, accuracy_drop=0.05, path_ms=path_ms
        )
        assert timed.ms == pytest.approx(np.dot(timed.shares, path_ms))

    @pytest.mark.parametrize(
        ("wishes", "message"),
        [
            ({}, "Give one of .*Received: none"),
            (
                {"macs": 1e6, "accuracy_drop": 0.1},
                r"Received: \['macs', 'accuracy_drop'",
            ),
            ({"macs": 0.0, "exit_shares": [0.1, 0.1]}, "Give one of"),
            ({"exit_shares": [0.5]}, "`exit_shares` must be 2 shares, one per gate"),
            (
                {"exit_shares": [0.5, 0.6]},
                "of sum 1 at most. Received: exit_shares=.0.5",
            ),
            ({"exit_shares": [-0.1, 0.6]}, "`exit_shares` must be 2 shares"),
            ({"accuracy_drop": 1.5}, "`accuracy_drop` must be a number from -1 to 1"),
            (
                {"macs": 500},
                r"`macs` cannot be kept to on this data. Received: macs=500; ",
            ),
            ({"ms": 3.0}, "`path_ms` must be 3 measured times, one per exit"),
            ({"ms": 3.0, "path_ms": [1.0, 2.0]}, "`path_ms` must be 3 measured"),
            (
                {"ms": 3.0, "path_ms": [1.0, 0.0, 2.0]},
                "`path_ms` must be 3 measur",
            ),
            (
                {"ms": 0.5, "path_ms": [1.0, 2.0, 3.0]},
                "`ms` cannot be kept .*the closest found: exits 100.0% / 0.0%",
            ),
        ],
    )
    def test_refused(self, tabled, wishes, message):
        tabled.model.thresholds = [1.0, 2.0]
        with pytest.raises(ValueError, match=message):
            tabled.model.calibrate(tabled.x, tabled.y, batch_size=100, **wishes)
        np.testing.assert_array_equal(tabled.model.thresholds, [1.0, 2.0])

    def test_agreement(self, tabled):
        found = tabled.model.calibrate(tabled.x, agreement=0.9)
        unlabelled = dataclasses.replace(tabled.table, truth=None)
        assert found == Wish(2, agreement=0.9).choose(unlabelled)
        np.testing.assert_array_equal(tabled.model.thresholds, found.thresholds)

    def test_promised(self, tabled):
        found = tabled.model.calibrate(
            tabled.x, tabled.y, accuracy_drop=0.2, confidence=0.8
        )
        wish = Wish(2, accuracy_drop=0.2, confidence=0.8)
        assert found == wish.choose(tabled.table) and found.promise.confidence == 0.8
        np.testing.assert_array_equal(tabled.model.thresholds, found.thresholds)

    def test_accuracy_needs_labels(self, trained):
        with pytest.raises(ValueError, match="Accuracy needs labels"):
            trained.model.calibrate(trained.x, macs=1e9)


def midway(values, count):
    """Between the `count` largest values and the others."""
    ordered = sorted(values.tolist(), reverse=True)
    return (ordered[count - 1] + ordered[count]) / 2


class TestCurve:
    def test_by_hand(self, trained):
        points = trained.model.curve(
            trained.x, (trained.test_x, trained.test_y), batch_size=100
        )
        assert len(points) == 39 and not trained.model.calibrated
        test = trained.test_table
        confidence = trained.table.confidence
        for i, point in enumerate(points, 1):
            q = i / 20
            wish = [q / (q + q**2 + q**3), q**2 / (q + q**2 + q**3)]
            first = midway(confidence[:, 0], round(300 * wish[0]))
            stay = confidence[:, 0] < first
            second = midway(confidence[stay, 1], round(300 * wish[1]))
            assert point.thresholds == pytest.approx((first, second), rel=1e-5)
            exits, macs, correct = by_loops(test, point.thresholds)
            assert point.shares == tuple(np.bincount(exits, minlength=3) / 300)
            assert point.macs == pytest.approx(macs.mean())
            assert point.accuracy == pytest.approx(correct.mean())
        assert points[0].macs_share < 0.35 and points[-1].macs_share > 0.7

    def test_labels_decide_nothing(self, trained):
        """Thresholds, exits and costs are the same whatever the labels say."""
        rng = np.random.default_rng(0)
        expected = trained.model.curve(trained.table, trained.test_table, points=9)
        permuted = trained.model.curve(
            (trained.x, rng.permutation(trained.y)),
            [(trained.test_x, rng.permutation(trained.test_y))],
            points=9,
            batch_size=100,
        )
        blind = trained.model.curve(
            dataclasses.replace(trained.table, truth=None),
            dataclasses.replace(trained.test_table, truth=None),
            points=9,
        )
        for a, b, c in zip(expected, permuted, blind, strict=True):
            assert b.thresholds == pytest.approx(a.thresholds, abs=1e-4)
            assert b.shares == pytest.approx(a.shares, abs=1.5 / 300)
            assert b.macs == pytest.approx(a.macs, rel=0.01)
            assert b.accuracy < a.accuracy
            assert dataclasses.replace(a, accuracy=None, head_accuracy=None) == c

    def test_leaving_early_pays(self, trained):
        """Gates that were fitted do better than chance, and later ones better still."""
        right = trained.table.correct.mean(0)
        assert 0.5 < right[0] < right[1] and right[2] > 0.8
        costs = [p.macs for p in trained.model.curve(trained.table, trained.table)]
        assert costs == sorted(costs)


# Saving


@pytest.mark.heavy
class TestSaving:
    def test_round_trip(self, tmp_path):
        model = exits_on(pooling=("avg4x4", "flatten"), confidence="distance")
        x, y = inputs(), np.arange(N) % CLASSES
        model.compile(
            keras.optimizers.Adam(0.01), loss_weights=[1, 2, 3], metrics=["accuracy"]
        )
        model.fit(x, y, batch_size=N, epochs=2, verbose=0)
        first = model.gates[0].confidence_of(model(x)["gate_1"])
        model.thresholds = thresholds = [between(to_numpy(first), 0.5), INF]
        expected, decided = model.predict(x), kd.decide(model, x)["exit"]
        assert 0 < (expected["exit"] == 0).sum() < N
        model.save(tmp_path / "exits.keras")
        again = keras.saving.load_model(tmp_path / "exits.keras")
        assert type(again) is kd.EarlyExitModel and again.name == model.name
        np.testing.assert_array_equal(again.thresholds, np.float32(thresholds))
        assert again.after == ("relu1", "c2")
        assert json.dumps(again.get_config()) == json.dumps(model.get_config())
        for name, values in again.predict(x).items():
            np.testing.assert_array_equal(values, expected[name])
        np.testing.assert_array_equal(kd.decide(again, x)["exit"], decided)
        assert kd.count_macs(again) == kd.count_macs(model)

        # Training goes on where it was: losses, weights of losses, metrics, momenta.
        assert again.compiled and int(again.optimizer.iterations) == 2
        history = [
            net.fit(x, y, batch_size=N, epochs=2, verbose=0).history
            for net in (model, again)
        ]
        assert list(history[0]) == list(history[1]) and len(history[0]) == 7
        for name, values in history[0].items():
            assert history[1][name] == pytest.approx(values, rel=1e-4)

    def test_uncompiled_and_weights_alone(self, tmp_path):
        model = exits_on()
        model.thresholds = [INF, -INF]
        model.save(tmp_path / "exits.keras")
        again = keras.saving.load_model(tmp_path / "exits.keras")
        assert not again.compiled
        np.testing.assert_array_equal(again.thresholds, [INF, -INF])
        other = exits_on(seed=5)
        model.save_weights(tmp_path / "exits.weights.h5")
        other.load_weights(tmp_path / "exits.weights.h5")
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(other.thresholds, [INF, -INF])

    def test_importing_the_package_is_enough(self, tmp_path):
        model = exits_on("blocks")
        model.thresholds = [0.5]
        model.compile("sgd", loss_weights=[1, 1])
        model.save(tmp_path / "exits.keras")
        code = """if True:
            import json, sys
            import keras
            import keras_dyngate
            model = keras.saving.load_model(sys.argv[1])
            values = [float(abs(w).sum()) for w in model.get_weights()]
            names = [gate.name for gate in model.gates]
            print(json.dumps([values, names, model.compiled]))
        """
        root = Path(kd.__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "exits.keras")],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(root), **os.environ},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        values, names, compiled = json.loads(done.stdout.splitlines()[-1])
        expected = [float(abs(w).sum()) for w in model.get_weights()]
        assert values == pytest.approx(expected, rel=1e-5)
        assert names == ["gate_1"] and compiled


@pytest.mark.heavy
class TestMixedPrecision:
    def test_all_of_it(self, dtype_policy):
        dtype_policy("mixed_bfloat16")
        net = randomize(plain())
        model = kd.add_decision_gates(net, ["c2"])
        x, y = inputs(), np.arange(N) % CLASSES
        dense = model(x)
        kinds = {k: keras.backend.standardize_dtype(v.dtype) for k, v in dense.items()}
        assert kinds == {"gate_1": "float32", "head": "bfloat16"}
        assert bool(keras.ops.all(dense["head"] == net(x)))
        assert {w.dtype for w in model.weights} == {"float32"}
        model.fit_gates(x, y, epochs=2, batch_size=N)
        found = model.calibrate(x, y, exit_shares=[0.4], batch_size=N)
        answer = model.predict(x, N)
        for at, share in enumerate(found.shares):
            assert abs((answer["exit"] == at).mean() - share) <= 2 / N
        exits = np.ravel(kd.decide(model, x, N)["exit"])
        assert (exits != answer["exit"]).mean() <= 2 / N
        model.compile("sgd")
        history = model.fit(x, y, batch_size=N, verbose=0).history
        assert np.isfinite(history["loss"]).all()

    def test_thresholds_are_not_rounded(self, dtype_policy):
        dtype_policy("mixed_bfloat16")
        model = exits_on()
        x = inputs()
        surest = to_numpy(model(x)["gate_1"]).max(1)
        for value in surest[:10]:
            for threshold, leaves in ((value, True), (np.nextafter(value, 9e9), False)):
                model.thresholds = [threshold, INF]
                with recording() as decided:
                    model(x)
                exits = np.ravel(to_numpy(decided["exit"]))
                assert (exits[surest == value] == 0).all() == leaves

    def test_a_policy_that_is_not_the_trunks(self, dtype_policy):
        """It was set after the trunk was made, which casts as it always did."""
        model = exits_on()
        x = inputs()
        scores = {k: to_numpy(v) for k, v in model(x).items()}
        model.thresholds = thresholds = [
            between(scores["gate_1"].max(1), 0.4),
            between(scores["gate_2"].max(1), 0.4),
        ]
        expected = model.predict(x)
        dtype_policy("mixed_bfloat16")
        other = kd.add_decision_gates(model.trunk, CUTS["plain"])
        for gate, theirs in zip(other.gates, model.gates, strict=True):
            gate.set_weights(theirs.get_weights())
        for name, values in other(x).items():
            np.testing.assert_array_equal(to_numpy(values), scores[name])
        other.thresholds = thresholds
        np.testing.assert_array_equal(
            np.ravel(kd.decide(other, x)["exit"]), expected["exit"]
        )
        for name, values in other.predict(x).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)


# Making one


class TestMaking:
    def test_places_by_index_and_point(self):
        net = randomize(plain())
        points = kd.cut_points(net)
        index = [layer.name for layer in net.layers].index("c2")
        for after in (["c2"], [index], [p for p in points if p.layer == "c2"]):
            model = kd.add_decision_gates(net, after, name="mine")
            assert model.after == ("c2",) and model.name == "mine"
            assert [gate.name for gate in model.gates] == ["gate_1"]
        assert kd.add_decision_gates(net, ["c2"]).name == f"{net.name}_exits"

    def test_options_reach_the_gates(self):
        model = kd.add_decision_gates(
            plain(),
            ["relu1", "c2"],
            pooling=["flatten", "avg4x4"],
            objective="cross_entropy",
            confidence="entropy",
        )
        found = [(g.pooling, g.objective, g.confidence) for g in model.gates]
        assert found == [
            ("flatten", "cross_entropy", "entropy"),
            ("avg4x4", "cross_entropy", "entropy"),
        ]
        assert [gate.dense.kernel.shape[0] for gate in model.gates] == [256, 6]

    def test_two_sets_of_gates_on_one_trunk(self):
        net, x = randomize(plain()), inputs()
        first = kd.add_decision_gates(net, ["relu1"])
        second = kd.add_decision_gates(net, ["c1", "c2"])
        first.thresholds = [-INF]
        found = first.predict(x), second.predict(x)
        assert not found[0]["exit"].any() and (found[1]["exit"] == 2).all()
        np.testing.assert_array_equal(second.thresholds, [INF, INF])
        np.testing.assert_array_equal(to_numpy(second(x)["head"]), outputs(net, x))

    def test_sequential(self):
        net = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, name="a"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(6, name="b"),
                layers.Dense(CLASSES, activation="softmax"),
            ]
        )
        model = kd.add_decision_gates(randomize(net), ["a", "b"])
        x = inputs()
        np.testing.assert_array_equal(to_numpy(model(x)["head"]), outputs(net, x))
        found = model.predict(x, thresholds=[INF, -INF])
        scores = to_numpy(model(x)["gate_2"])
        np.testing.assert_allclose(found["logits"], scores, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("make", "after", "message"),
        [
            (plain, ["c9"], "which has no 'c9'. Received: after="),
            (plain, ["dense"], "'dense' is none: no MACs are left after it"),
            (plain, ["c2", "c1"], "in the order of execution"),
            (plain, [], "`after` must be a non-empty list of layers"),
            (
                lambda: keras.Model(
                    i := [keras.Input((3,)) for _ in "ab"], layers.Add()(i)
                ),
                ["add"],
                "`model` must have one input. Received: .* with 2 inputs",
            ),
            (
                two_outputs,
                ["c1"],
                "`model` must have one output. Received: .* with 2 outputs",
            ),
            (
                lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)]),
                [0],
                "`model` must be a classifier",
            ),
        ],
    )
    def test_refused_trunks(self, make, after, message):
        with pytest.raises(ValueError, match=message):
            kd.add_decision_gates(make(), after)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"pooling": ["avg"]},
                r"one name, or one per gate \(2\). Received: pooling=",
            ),
            ({"pooling": "max"}, "`pooling` must be one of 'avg'"),
            ({"pooling": ["avg", "max"]}, "`pooling` must be one of 'avg'"),
            ({"objective": "mse"}, "`objective` must be one of"),
            ({"confidence": "max"}, "`confidence` must be one of"),
        ],
    )
    def test_bad_options(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            kd.add_decision_gates(plain(), ["relu1", "c2"], **arguments)

    @pytest.mark.parametrize(
        ("gates", "message"),
        [
            ([("a", CLASSES)], r"must be 2 gates of 5 classes. Received: \[5\]"),
            ([("a", CLASSES), ("b", 4)], r"gates of 5 classes. Received: \[5, 4\]"),
            ([("a", CLASSES), ("a", CLASSES)], r"names of their own.*\['a', 'a'\]"),
            ([("a", CLASSES), ("head", CLASSES)], "none of them 'head'. Received: "),
        ],
    )
    def test_refused_gates(self, gates, message):
        gates = [kd.DecisionGate(classes, name=name) for name, classes in gates]
        with pytest.raises(ValueError, match=message):
            kd.EarlyExitModel(plain(), ["relu1", "c2"], gates)

    @pytest.mark.parametrize(
        "thresholds", [[1.0], [1.0, 2.0, 3.0], 1.0, [np.nan, 1.0], [[1.0, 2.0]], "ab"]
    )
    def test_bad_thresholds(self, one, thresholds):
        message = "`thresholds` must be 2 numbers, one per gate. Received: thresholds="
        with pytest.raises(ValueError, match=message):
            one.model.thresholds = thresholds
        with pytest.raises(ValueError, match=message):
            one.model.predict(one.x, thresholds=thresholds)
        np.testing.assert_array_equal(one.model.thresholds, [INF, INF])

    @pytest.mark.parametrize("batch_size", [0, -1, 2.5])
    def test_bad_batch_size(self, one, batch_size):
        with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
            one.model.predict(one.x, batch_size)


def test_a_block_shared_across_a_cut_is_refused():
    """Its two decisions would go by one name."""
    block = kd.GatedBasicBlock(4, channel_gate="salience", name="shared")
    image = keras.Input((8, 8, 4))
    middle = keras.layers.ReLU(name="cut")(block(image))
    x = keras.layers.GlobalAveragePooling2D()(block(middle))
    trunk = keras.Model(image, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match="`after` must not part .*shared"):
        kd.add_decision_gates(trunk, ["cut"])


def test_forcing_reaches_what_was_compiled_before():
    trunk = kd.lc_resnet20(width=0.25, input_shape=(8, 8, 3), mode="l")
    model = kd.add_decision_gates(trunk, ["stage1_block3"])
    x = images(4, 8, 8, 3)
    profile = kd.count_macs(model)
    free = model.predict(x)["macs"]
    with kd.force_open_rate(model, 0.0):
        shut = model.predict(x)["macs"]
    assert (free == profile.per_exit[-1]).all()
    assert (
        shut
        == profile.of({**kd.decide(trunk, x), "exit": np.ones((4, 1))})
        - sum(row.macs for row in profile.layers if row.gatings and not row.controller)
    ).all()
    assert (model.predict(x)["macs"] == free).all()
