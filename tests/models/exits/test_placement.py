"""Places for exits: by loops, and on nets of which it is known where they pay."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits import placement
from keras_dyngate.models.exits import probes as exit_probes
from keras_dyngate.models.exits.placement import cheapest
from tests.stubs import images, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")

layers = keras.layers
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
N = 240


def by_loops(confidence, right, head_right, paths, heads, exits, thresholds):
    """`cheapest` picture by picture: the least expected time of each number of exits."""
    found = {0: ((), 1.0)}
    for count in range(1, exits + 1):
        best = (None, np.inf)
        for chosen in itertools.combinations(range(len(paths)), count):
            for threshold in thresholds:
                cost = correct = 0.0
                for row in range(len(right)):
                    spent = 0.0
                    for place in chosen:
                        spent += heads[place]
                        if confidence[row, place] >= threshold:
                            cost += paths[place] + spent
                            correct += right[row, place]
                            break
                    else:
                        cost += 1.0 + spent
                        correct += head_right[row]
                fits = correct / len(right) >= head_right.mean() - 0.01 - 1e-9
                if fits and cost / len(right) < best[1]:
                    best = (chosen, cost / len(right))
        found[count] = best
    return found


@pytest.mark.parametrize("seed", range(3))
def test_cheapest_by_loops(seed):
    rng = np.random.default_rng(seed)
    k, exits = 4, 3
    right = rng.random((60, k)) < np.linspace(0.5, 0.9, k)
    confidence = np.clip(0.4 + 0.3 * right + rng.normal(0, 0.15, (60, k)), 0, 1)
    head_right = rng.random(60) < 0.9
    paths, heads = np.sort(rng.random(k)), rng.uniform(0, 0.05, k)
    thresholds = np.quantile(confidence, np.linspace(0, 1, placement.THRESHOLDS))
    known = by_loops(confidence, right, head_right, paths, heads, exits, thresholds)
    chosen, threshold, expected = cheapest(
        confidence, right, head_right, paths, heads, exits
    )
    kept = known[0]
    for count in range(1, exits + 1):  # one exit more has to save a hundredth
        if known[count][1] <= kept[1] - 0.01:
            kept = known[count]
    assert (chosen, expected) == (kept[0], pytest.approx(kept[1]))
    again = by_loops(
        confidence[:, list(chosen)],
        right[:, list(chosen)],
        head_right,
        paths[list(chosen)],
        heads[list(chosen)],
        len(chosen),
        [threshold],
    )
    assert again[len(chosen)][1] == pytest.approx(expected)


def test_exits_that_never_pay_are_left_out():
    sure, right = np.full((50, 2), 0.9), np.ones((50, 2), bool)
    head = np.ones(50, bool)
    chosen, threshold, expected = cheapest(sure, right, head, [0.2, 0.5], [0.02] * 2, 2)
    assert (chosen, expected) == ((0,), pytest.approx(0.22)) and threshold <= 0.9
    right[:, 0] = False  # as sure, and wrong
    assert cheapest(sure, right, head, [0.2, 0.5], [0.02] * 2, 2)[0] == (1,)
    found = cheapest(sure, ~head[:, None] & right, head, [0.2, 0.5], [0.02] * 2, 2)
    assert found[0] == () and found[2] == 1.0
    assert cheapest(sure, right, head, [0.2, 0.99], [0.02] * 2, 2)[0] == ()


def same(layer, x):
    """A 1x1 convolution that hands its channels on, and adds empty ones."""
    x = layer(x)
    kernel = np.zeros(layer.kernel.shape, "float32")
    for i in range(min(kernel.shape[2:])):
        kernel[0, 0, i, i] = 1.0
    layer.kernel.assign(kernel)
    return x


def brightest():
    """Which colour is the brightest, known after the first layer."""
    x = image = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 255)(x)
    for i in range(5):
        x = same(layers.Conv2D(8, 1, activation="relu", name=f"c{i}"), x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    head = layers.Dense(3, name="head")
    x = head(x)
    head.kernel.assign(40 * np.eye(8, 3))
    return keras.Model(image, x, name="brightest")


def parity():
    """Whether a number of bits is even, known late: after two layers that only hand on.

    "d2" and "d3" tell how many bits are set, which a linear layer needs no more than.
    """
    x = image = keras.Input((12,))
    start, steps = np.eye(12), np.ones((12, 15))
    hats = np.eye(15, 13) - 2 * np.eye(15, 13, -1) + np.eye(15, 13, -2)
    ends = np.column_stack([np.arange(13) % 2 == 0, np.arange(13) % 2 == 1])
    kernels = [start, start, steps, hats, *[np.eye(13)] * 6]
    for i, kernel in enumerate(kernels):
        layer = layers.Dense(kernel.shape[1], activation="relu", name=f"d{i}")
        x = layer(x)
        layer.kernel.assign(kernel)
        if kernel is steps:
            layer.bias.assign(1.0 - np.arange(15))
    head = layers.Dense(2, name="head")
    x = head(x)
    head.kernel.assign(9.0 * ends)
    return keras.Model(image, x, name="parity")


def pictures(count=N, seed=0):
    x = images(count, 12, 12, 3, seed=seed)
    y = np.arange(count) % 3
    x[np.arange(count), :, :, y] = 0.8 * x[np.arange(count), :, :, y] + 50
    return x, x.mean((1, 2)).argmax(-1)


@pytest.fixture
def by_macs(monkeypatch):
    """Shares of the MACs stand in for those of the time, as on other backends."""
    monkeypatch.setattr(placement, "timed", lambda model, points, *rest: points)


@pytest.mark.usefixtures("by_macs")
class TestPlaces:
    def test_an_early_exit_suffices(self):
        x, y = pictures()
        found = kd.place_exits(brightest(), x, y, exits=3, candidates=5, head="linear")
        assert [p.point.layer for p in found.probes] == ["c0", "c1", "c2", "c3"]
        assert found.exits[0].layer == "c0" and found.expected < 0.5
        assert found.accuracy == 1.0 and found.pictures == N // 5
        assert found.probes[0].accuracy > 0.9
        total = 144 * (24 + 4 * 64) + 24
        for index, probe in enumerate(found.probes):
            macs = 144 * (24 + 64 * index)
            assert probe.time_share == pytest.approx(macs / total)
            assert probe.head_share == pytest.approx(24 / total)
        text = str(found)
        assert "c0 " in text and " <-" in text and "exits after c0" in text
        model = kd.add_decision_gates(brightest(), found.exits)
        assert model.after[0] == "c0"

    def test_an_early_exit_does_not_suffice(self):
        bits = np.random.default_rng(0).integers(0, 2, (400, 12)).astype("float32")
        labels = bits.sum(1).astype(int) % 2
        found = kd.place_exits(parity(), bits, labels, candidates=9, head="linear")
        accuracy = {probe.point.layer: probe.accuracy for probe in found.probes}
        names = [point.layer for point in found.exits]
        assert found.accuracy == 1.0
        assert accuracy["d0"] < 0.75 and accuracy["d1"] < 0.75
        assert accuracy[names[0]] > 0.9 and 0.4 < found.expected < 0.9
        assert not {"d0", "d1"} & set(names)

    def test_inside_a_nested_model(self, untaught):
        inner = brightest()
        base = keras.Model(inner.input, inner.get_layer("c4").output, name="base")
        image = keras.Input((12, 12, 3))
        x = layers.GlobalAveragePooling2D()(base(layers.RandomFlip()(image)))
        net = keras.Model(image, layers.Dense(3, activation="softmax")(x))
        net.layers[-1].kernel.assign(40 * np.eye(8, 3))
        same_said = np.zeros(40)  # as probes that are not taught say
        model = kd.add_decision_gates(
            net, placement="auto", exits=1, data=(pictures(40)[0], same_said)
        )
        assert model.after == ("base/c0",) and len(model.gates) == 1


class Said:
    """A net that says of everything that it is of the first class, hardly surer."""

    def __init__(self, places, classes):
        self.shape = places, classes

    def predict(self, maps, **options):
        scores = np.zeros((len(maps), *self.shape), "float32")
        scores[:, :, 0] = 1
        return scores


@pytest.fixture
def untaught(monkeypatch):
    """Probes are not taught; what they would have been taught with."""
    seen = []

    def stub(maps, scores, labels, rng):
        seen.append((maps, scores, labels))
        return Said(maps.shape[-2], scores.shape[1])

    monkeypatch.setattr(exit_probes, "_taught", stub)
    return seen


def placed(net, x, y=None, **options):
    """With heads that are quickly made."""
    return kd.place_exits(net, x, y, head="linear", **options)


@pytest.mark.usefixtures("by_macs")
class TestData:
    def test_none_pays(self, untaught):
        x, y = pictures(40)
        found = placed(brightest(), x, y)
        assert found.exits == () and found.expected == 1.0
        assert "no exit pays, on 8 pictures" in str(found)
        with pytest.raises(ValueError, match="no place where an exit pays.*'brig") as e:
            kd.add_decision_gates(brightest(), placement="auto", data=(x[:20], y[:20]))
        assert "no exit pays, on 4 pictures" in str(e.value)
        model = kd.add_decision_gates(
            brightest(), placement="auto", data=(x[:20], y[:20]), first=small()
        )
        assert model.after == ("input",)

    def test_labels_teach_and_judge_where_there_are_any(self, untaught):
        x, y = pictures(40)
        found = placed(brightest(), x, np.zeros(40))
        assert found.probes[0].accuracy == 1.0 and found.accuracy < 1.0
        assert (untaught[0][2] == 0).all() and len(untaught[0][2]) == 32
        found = placed(brightest(), x)
        assert found.accuracy == 1.0 and (untaught[1][2] == -1).all()
        assert found.probes[0].accuracy < 1.0

    def test_what_probes_see(self, untaught):
        x, y = pictures(40)
        placed(brightest(), x, candidates=5, validation_data=x[:4])
        maps, scores, _ = untaught[0]
        assert maps.shape == (40, 6, 6, 4, 2 * exit_probes.CHANNELS)
        expected = 40 * x.mean((1, 2)) / 255
        np.testing.assert_allclose(scores, expected, 1e-4, 1e-3)
        means = x.reshape(40, 6, 2, 6, 2, 3).mean((2, 4)) / 255
        means -= means.mean((0, 1, 2))
        for place in np.moveaxis(maps[..., : exit_probes.CHANNELS], 3, 0):
            known, *_ = np.linalg.lstsq(
                place[..., :3].reshape(-1, 3), means.reshape(-1, 3), rcond=None
            )
            np.testing.assert_allclose(place[..., :3] @ known, means, 0, 1e-4)
            np.testing.assert_allclose(place[..., 3:], 0, 0, 1e-2)
        around = maps[:, 1:4, 2:5, :, :3].mean((1, 2))
        found = maps[:, 2, 3, :, exit_probes.CHANNELS :][..., :3]
        np.testing.assert_allclose(found, around, 1e-4, 1e-5)
        corner = maps[:, :2, :2, :, :3].sum((1, 2)) / 9
        found = maps[:, 0, 0, :, exit_probes.CHANNELS :][..., :3]
        np.testing.assert_allclose(found, corner, 1e-4, 1e-5)

    def test_judged_on_pictures_of_ones_own(self, untaught):
        x, y = pictures(90)
        wrong, net = (y + 1) % 3, brightest()
        judge = x[60:], wrong[60:]
        found = placed(net, x[:60], y[:60], validation_data=judge)
        assert found.pictures == 30 and found.accuracy == 0.0
        assert len(untaught[0][0]) == 60
        found = placed(net, x[:60], validation_data=[judge])
        assert found.pictures == 30 and found.accuracy == 0.0
        found = placed(net, x[:60], validation_data=x[60:])
        assert found.pictures == 30 and found.accuracy == 1.0

    def test_datasets_and_samples(self, untaught, monkeypatch):
        x, y = pictures(64)
        net = brightest()
        batches = [(x[i : i + 32], y[i : i + 32]) for i in (0, 32)]
        placed(net, batches)
        placed(net, x, y)
        for one, other in zip(*untaught, strict=True):
            np.testing.assert_allclose(one, other, 1e-3, 1e-3)
        monkeypatch.setattr(exit_probes, "PICTURES", 40)
        assert placed(net, batches).pictures == 8
        assert placed(net, x, y).pictures == 8
        first = untaught[2][1]
        found = keras.ops.convert_to_numpy(net(x[:40]))
        np.testing.assert_allclose(np.sort(first, 0)[0], found.min(0), 0.2)
        assert len(first) == 32

    def test_yes_or_no(self, untaught):
        x = image = keras.Input((6,))
        for i in range(3):
            x = layers.Dense(6, activation="relu", name=f"d{i}")(x)
        net = randomize(keras.Model(image, layers.Dense(1, activation="sigmoid")(x)))
        rows = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")
        yes = keras.ops.convert_to_numpy(net(rows))[:, 0]
        found = placed(net, rows, yes > 0.5)
        assert [p.point.layer for p in found.probes] == ["d0", "d1", "d2"]
        assert found.accuracy == 1.0
        scores = untaught[0][1]
        assert scores.shape == (64, 2) and (scores[:, 0] == 0).all()
        logits = np.log(yes / (1 - yes))
        assert np.isclose(scores[:, 1:], logits, atol=1e-4).any(1).all()

    @pytest.mark.skipif(not ON_TENSORFLOW, reason="times are measured on TensorFlow")
    @pytest.mark.parametrize(("early", "dear"), [(0.2, False), (0.7, True)])
    def test_early_layers_that_are_dear(self, untaught, monkeypatch, early, dear):
        asked = []

        def timed(model, points, measure, data):
            asked.append((measure, data.shape))
            shares = np.linspace(early, 0.9, len(points))
            pairs = zip(points, shares, strict=True)
            return [dataclasses.replace(p, time_share=s) for p, s in pairs]

        monkeypatch.setattr(placement, "timed", timed)
        found = placed(brightest(), *pictures(40), quantization="int8")
        assert found.early_layers_dear == dear
        assert ("try a first net" in str(found)) == dear
        assert found.measured == "int8" and "int8 time" in str(found)
        assert asked == [("int8", (32, 12, 12, 3))]


@pytest.mark.skipif(not ON_TENSORFLOW, reason="times are measured on TensorFlow")
@pytest.mark.usefixtures("untaught")
def test_measured():
    x, y = pictures(60)
    model = kd.add_decision_gates(
        brightest(),
        placement="auto",
        exits=2,
        data=[(x, y)],
        quantization="dynamic",
        first=small(),
    )
    assert model.after[0] == "input" and len(model.after) <= 3
    found = placed(brightest(), x, y, candidates=3)
    shares = [probe.time_share for probe in found.probes]
    assert found.measured == "float32"
    assert shares == sorted(shares) and 0 < shares[0] and shares[-1] < 1
    assert all(probe.point.ms > 0 for probe in found.probes)


def small():
    image = keras.Input((6, 6, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(image))
    return keras.Model(image, layers.Dense(3)(x), name="small")


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"exits": 0}, "`exits` must be a positive integer"),
            ({"candidates": 1.5}, "`candidates` must be a positive integer"),
            ({"quantization": "int4"}, "`quantization` must be one of.*'int4'"),
            ({"head": "deep"}, "`head` must be one of.*'deep'"),
            ({"y": np.full(20, 3)}, "`y` must hold class indices from 0 to 2"),
            ({"y": np.zeros(3)}, "`y` must have a label for each of the 20 samples"),
            ({"x": np.zeros((4, 12, 12, 3))}, "`x` must hold 5 pictures or more"),
            ({"x": np.zeros((9, 8, 8, 3))}, "`x` must have batches of shape"),
            ({"x": []}, "`x` must hold at least one picture"),
        ],
    )
    def test_arguments(self, options, message):
        given = {"x": np.zeros((20, 12, 12, 3), "float32"), **options}
        with pytest.raises(ValueError, match=message):
            kd.place_exits(brightest(), **given)

    def test_no_place(self):
        image = keras.Input((4,))
        net = keras.Model(image, layers.Dense(2)(image), name="flat")
        with pytest.raises(ValueError, match="`model` must have a cut point.*'flat'"):
            kd.place_exits(net, np.zeros((9, 4)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"exits": 2}, "`exits` goes with `placement='auto'`"),
            ({"data": pictures(5)}, "`data` goes with `placement='auto'`"),
            ({"quantization": "int8"}, "`quantization` goes with `placement='auto'`"),
            ({"placement": "best"}, "`placement` must be one of 'auto'"),
            ({"placement": "auto"}, "`data` must be pictures.*Received: data=None"),
            (
                {"placement": "auto", "data": pictures(5), "after": ["c1"]},
                r"`after` must be empty.*Received: after=\['c1'\]",
            ),
            (
                {"placement": "auto", "data": pictures(5), "head": ["conv"]},
                r"`head` must be a kind or a function.*Received: head=\['conv'\]",
            ),
        ],
    )
    def test_gates(self, options, message):
        with pytest.raises(ValueError, match=message):
            kd.add_decision_gates(brightest(), **{"after": (), **options})
