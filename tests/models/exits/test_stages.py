from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits.cutting import split
from keras_dyngate.models.exits.stages import Stage, run_stages
from tests.stubs import randomize

CLASSES = 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(41, 4)).astype("float32")


class NumpyStage:
    """x to x + 1, with scores that are a linear function of x; the last gives those."""

    def __init__(self, seed, last):
        self.kernel = np.random.default_rng(seed).normal(size=(4, CLASSES))
        self.part = SimpleNamespace(output_shape=(None, CLASSES if last else 4))
        self.last, self.sizes = last, []

    def predict_on_batch(self, x):
        self.sizes.append(len(x))
        scores, decisions = x @ self.kernel, {"open": (x[:, :1] > 0) * 1.0}
        if self.last:
            return {"features": scores, "decisions": decisions}
        return {"features": x + 1, "scores": scores, "decisions": decisions}


class Profile:
    """MACs that depend on what was decided."""

    def of(self, decisions):
        return 10 + np.ravel(decisions["open"]).astype(int)


def weights(index):
    return np.linspace(1.0, 0.4, index + 1)


def answer(index, so_far):
    assert so_far.shape[1:] == (index + 1, CLASSES)
    return np.einsum("k,nkc->nc", weights(index), so_far)


LIMITS = (1.0, 1.5, -np.inf)


def by_loops():
    """Every sample on its own."""
    stages = stages_of()
    for x in X:
        raw, macs = [], 0
        for index, stage in enumerate(stages):
            raw.append((x + index).astype("float32") @ stage.kernel)
            macs += 10 + int(x[0] + index > 0)
            said = sum(w * s for w, s in zip(weights(index), raw, strict=True))
            if said.max() >= LIMITS[index]:
                yield index, said, macs
                break


def stages_of():
    return [NumpyStage(seed, seed == 2) for seed in range(3)]


@pytest.mark.parametrize("batch_size", [1, 5, 8, 64])
@pytest.mark.parametrize("cuts", [[0, 41], [0, 3, 4, 20, 41]])
def test_against_every_sample_on_its_own(batch_size, cuts):
    expected = list(by_loops())
    counts = np.bincount([item[0] for item in expected], minlength=3)
    assert counts.min() > 4
    stages = stages_of()
    found = {}
    for index, left in run_stages(
        stages,
        [Profile()] * 3,
        (X[i:j] for i, j in zip(cuts, cuts[1:], strict=False)),
        batch_size,
        answer,
        lambda k, scores: (scores.max(-1) >= LIMITS[k], scores.max(-1)),
    ):
        parts = left.rows, left.scores, left.confidence, left.macs
        for row, scores, confidence, macs in zip(*parts, strict=True):
            assert row not in found
            found[row] = index, scores, confidence, macs
    assert sorted(found) == list(range(41))
    for row, (index, said, macs) in enumerate(expected):
        assert (found[row][0], found[row][3]) == (index, macs)
        np.testing.assert_allclose(found[row][1], said, rtol=1e-4, atol=1e-5)
        assert found[row][2] == pytest.approx(said.max(), rel=1e-4)
    for stage in stages:  # full batches but for the last
        assert all(size >= batch_size for size in stage.sizes[:-1])


def test_stages_of_a_net():
    """The first only hands the pictures on to its own net, bytes too."""
    image = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3, activation="relu", name="conv")(image)
    x = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(x))
    net = keras.Model(image, x, name="net")
    parts = split(net, ["input", "conv"], at_input=True)
    body = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    gates = [kd.ExitHead(CLASSES, body, name="first"), kd.DecisionGate(CLASSES)]
    gates[1].build(parts[1].output_shape)
    stages = [Stage(p, g) for p, g in zip(parts, [*gates, None], strict=True)]
    randomize(net)
    x = RNG.integers(0, 256, (3, 6, 6, 2), "uint8")
    found = keras.tree.map_structure(np.asarray, stages[0].predict_on_batch(x))
    np.testing.assert_array_equal(found["features"], x)
    assert found["features"].dtype == "uint8"
    mine, theirs = (
        stages[1].predict_on_batch(pictures)["scores"]
        for pictures in (x, x.astype("float32"))
    )
    np.testing.assert_array_equal(mine, theirs)
    kernel, bias = body.get_weights()
    expected = x.reshape(3, -1) @ kernel + bias
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-3, atol=1e-2)
    assert [stage.profile().total for stage in stages] == [0, 16 * 18 * 3, 9]
    rows = [(r.name, r.macs) for r in stages[0].profile().layers]
    assert rows == [("first", 72 * 3)] and stages[0].profile().controllers == 216
