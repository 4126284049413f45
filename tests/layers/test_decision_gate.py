import keras
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

import keras_dyngate as kd
from keras_dyngate import DecisionGate, OneVsAllHinge
from keras_dyngate.losses import ScoreCrossEntropy
from tests.layer_checks import run_layer_test
from tests.stubs import built, images

pytestmark = pytest.mark.usefixtures("numpy_initializers")

SHAPE = (9, 11, 3)  # 2 x 2 windows of 4 x 4, and something left over
X = images(5, *SHAPE) / 255 - 0.3
to_numpy = keras.ops.convert_to_numpy


def averages(x):
    return x.astype("float64").sum(axis=(1, 2)) / (x.shape[1] * x.shape[2])


def windows(x):
    """Averages of 4x4 windows: from top to bottom, left to right, then channels."""
    rows = []
    for image in x.astype("float64"):
        row = []
        for top in range(0, x.shape[1] - 3, 4):
            for left in range(0, x.shape[2] - 3, 4):
                for channel in range(x.shape[3]):
                    window = image[top : top + 4, left : left + 4, channel]
                    row.append(window.sum() / 16)
        rows.append(row)
    return np.array(rows)


def flat(x):
    return x.reshape(len(x), -1)


POOLINGS = {"avg": (averages, 3), "avg4x4": (windows, 12), "flatten": (flat, 297)}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_layer(pooling, tmp_path):
    def make():
        return DecisionGate(6, pooling=pooling, objective="cross_entropy")

    run_layer_test(make, SHAPE, (6,), tmp_path / "gate.keras", "float32")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_scores_against_numpy(pooling):
    reference, features = POOLINGS[pooling]
    gate = built(DecisionGate(6, pooling=pooling), SHAPE)
    kernel, bias = (to_numpy(v) for v in (gate.dense.kernel, gate.dense.bias))
    assert kernel.shape == (features, 6) and bias.any()
    pooled = to_numpy(gate.pool(X))
    np.testing.assert_allclose(pooled, reference(X), rtol=1e-5, atol=1e-6)
    expected = reference(X) @ kernel.astype("float64") + bias
    np.testing.assert_allclose(to_numpy(gate(X)), expected, rtol=1e-4, atol=1e-5)
    assert gate.kernel_macs((None, *SHAPE)) == features * 6


def test_vectors_are_taken_as_they_are():
    x = np.random.default_rng(0).normal(size=(3, 7)).astype("float32")
    for pooling in POOLINGS:
        gate = built(DecisionGate(4, pooling=pooling), (7,))
        expected = x @ to_numpy(gate.dense.kernel) + to_numpy(gate.dense.bias)
        np.testing.assert_allclose(to_numpy(gate(x)), expected, rtol=1e-4, atol=1e-6)
        assert gate.kernel_macs((None, 7)) == 28
        assert gate(keras.Input((7,))).shape == (None, 4)


def test_one_window_and_exact_multiples():
    for shape in ((4, 4, 2), (8, 4, 2)):
        gate = DecisionGate(3, pooling="avg4x4")
        x = images(2, *shape)
        assert tuple(gate(x).shape) == (2, 3)
        np.testing.assert_allclose(to_numpy(gate.pool(x)), windows(x), rtol=1e-5)


def test_global_averages_need_no_image_size():
    gate = DecisionGate(3)
    assert gate(keras.Input((None, None, 2))).shape == (None, 3)
    for size in (3, 5):
        assert tuple(gate(images(2, size, size, 2)).shape) == (2, 3)


class TestConfidence:
    SCORES = np.random.default_rng(1).normal(0, 2, (50, 6)).astype("float32")

    def of(self, kind, scores=SCORES, factor=1.0):
        gate = built(DecisionGate(6, confidence=kind), (4,))
        gate.dense.kernel.assign(factor * to_numpy(gate.dense.kernel))
        return to_numpy(gate.confidence_of(scores)), to_numpy(gate.dense.kernel)

    def test_score(self):
        found, _ = self.of("score")
        np.testing.assert_array_equal(found, self.SCORES.max(axis=1))

    def test_distance(self):
        """From the one hyperplane, on either side, then the largest of many."""
        gate = built(DecisionGate(1, confidence="distance"), (4,))
        kernel, bias = (to_numpy(v).ravel() for v in gate.dense.weights)
        normal = kernel / np.linalg.norm(kernel)
        on_it = -bias / np.linalg.norm(kernel) * normal
        x = on_it + np.array([[2.5], [0.0], [-1.5]]) * normal
        found = to_numpy(gate.confidence_of(gate(x.astype("float32"))))
        np.testing.assert_allclose(found, [2.5, 0.0, 1.5], rtol=1e-5, atol=1e-5)

        found, kernel = self.of("distance")
        norms = np.sqrt(np.square(kernel.astype("float64")).sum(axis=0))
        expected = (self.SCORES / norms).max(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        largest = self.SCORES.argmax(axis=1)
        assert ((self.SCORES / norms).argmax(axis=1) != largest).any()
        halved, _ = self.of("distance", 0.5 * self.SCORES, factor=0.5)
        np.testing.assert_allclose(halved, found, rtol=1e-5)

    def test_margin(self):
        found, _ = self.of("margin")
        second, first = np.sort(self.SCORES, axis=1)[:, -2:].T
        np.testing.assert_array_equal(found, first - second)
        tie, _ = self.of("margin", np.array([[1, 3, 3, 0, 0, 2]], "float32"))
        assert tie == [0]

    def test_entropy(self):
        found, _ = self.of("entropy")
        expected = -entropy(softmax(self.SCORES.astype("float64"), axis=1), axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        sure, _ = self.of("entropy", np.array([[1e4] + 5 * [-1e4]], "float32"))
        unsure, _ = self.of("entropy", np.full((1, 6), 3.0, "float32"))
        np.testing.assert_allclose([sure, unsure], [[0], [-np.log(6)]], atol=1e-6)

    @pytest.mark.parametrize("kind", ["score", "distance", "margin", "entropy"])
    def test_more_is_surer(self, kind):
        """A class that pulls away from the others, which stay alike."""
        scores = np.zeros((9, 6), "float32")
        scores[:, 2] = np.linspace(0, 8, 9)
        found, _ = self.of(kind, scores)
        assert found.shape == (9,) and (np.diff(found) > 0).all()

    def test_may_be_set(self):
        gate = built(DecisionGate(6), (4,))
        gate.confidence = "entropy"
        found = to_numpy(gate.confidence_of(self.SCORES))
        np.testing.assert_array_equal(found, self.of("entropy")[0])
        assert gate.get_config()["confidence"] == "entropy"
        with pytest.raises(ValueError, match="`confidence` must be one of 'score', "):
            gate.confidence = "surprise"
        assert gate.confidence == "entropy"


def test_losses_of_the_objectives():
    assert type(DecisionGate(3).loss()) is OneVsAllHinge
    assert type(DecisionGate(3, objective="cross_entropy").loss()) is ScoreCrossEntropy


def test_macs_within_a_net():
    image = keras.Input((9, 8, 3))
    x = keras.layers.Conv2D(5, 3, padding="same", name="conv")(image)
    model = keras.Model(image, DecisionGate(7, pooling="avg4x4", name="gate")(x))
    profile = kd.count_macs(model)
    assert {row.name: row.macs for row in profile.layers} == {
        "conv": 9 * 8 * 3 * 5 * 9,
        "gate": 2 * 2 * 5 * 7,
    }
    assert (profile.total, profile.per_exit) == (9860, (9860,))
    flattened = DecisionGate(7, pooling="flatten")
    assert flattened.kernel_macs((None, 9, 8, 5)) == 9 * 8 * 5 * 7
    assert DecisionGate(7).kernel_macs((None, None, None, 5)) == 35


def test_float32_under_mixed_precision(dtype_policy):
    dtype_policy("mixed_bfloat16")
    gate = built(DecisionGate(6), SHAPE)
    x = (X * 1.001).astype("float32")  # what bfloat16 does not hold
    kernel, bias = (to_numpy(v) for v in (gate.dense.kernel, gate.dense.bias))
    expected = averages(x) @ kernel.astype("float64") + bias
    found = to_numpy(gate(x))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "`classes` must be a positive integer. Received: classes=0"),
        ({"classes": 2.0}, "`classes` must be a positive integer"),
        ({"classes": 3, "pooling": "max"}, "`pooling` must be one of 'avg', 'avg4x4',"),
        ({"classes": 3, "objective": "mse"}, "`objective` must be one of 'hinge', 'cr"),
        ({"classes": 3, "confidence": None}, "`confidence` must be one of .*=None"),
        (
            {"classes": 3, "confidence": "max"},
            "`confidence` must be one of 'score', 'd",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DecisionGate(**arguments)


@pytest.mark.parametrize(
    ("pooling", "shape", "message"),
    [
        ("avg4x4", (3, 8, 2), r"known size, 4x4 or larger. Received: .*None, 3, 8, 2"),
        ("avg4x4", (None, 8, 2), "`pooling='avg4x4'` needs feature maps of known size"),
        ("flatten", (4, None, 2), "`pooling='flatten'` needs feature maps of known"),
    ],
)
def test_bad_shapes(pooling, shape, message):
    with pytest.raises(ValueError, match=message):
        DecisionGate(3, pooling=pooling).build((None, *shape))
    with pytest.raises(ValueError, match=message):
        DecisionGate(3, pooling=pooling).kernel_macs((None, *shape))


class TestOneScore:
    """One score s is as good as the scores (0, s) of no and yes."""

    SCORES = np.array([[-3.0], [-0.5], [0.0], [0.5], [3.0]], "float32")

    @pytest.mark.parametrize("kind", ["score", "margin"])
    def test_size(self, kind):
        gate = built(DecisionGate(1, confidence=kind), (4,))
        found = to_numpy(gate.confidence_of(self.SCORES))
        np.testing.assert_array_equal(found, [3, 0.5, 0, 0.5, 3])

    def test_entropy(self):
        gate = built(DecisionGate(1, confidence="entropy"), (4,))
        found = to_numpy(gate.confidence_of(self.SCORES))
        two = np.concatenate([0 * self.SCORES, self.SCORES], 1).astype("float64")
        expected = -entropy(softmax(two, axis=1), axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found[2] == pytest.approx(-np.log(2))


def test_features_of_one_dimension():
    gate = built(DecisionGate(2), (9, 4))
    x = np.random.default_rng(0).normal(size=(3, 9, 4)).astype("float32")
    kernel, bias = (to_numpy(v) for v in gate.dense.weights)
    np.testing.assert_allclose(to_numpy(gate(x)), x.mean(1) @ kernel + bias, 1e-4, 1e-5)
    assert gate.kernel_macs((None, 9, 4)) == 8
    with pytest.raises(ValueError, match="needs feature maps of height and width"):
        built(DecisionGate(2, pooling="avg4x4"), (9, 4))
