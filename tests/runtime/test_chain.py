"""Files that take no picture, or several inputs: run, evaluated, timed, kept."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_dyngate.runtime import (  # noqa: E402
    LiteRTModel,
    compare_golden,
    time_images,
    write_golden,
)
from keras_dyngate.runtime.chain import chain  # noqa: E402
from keras_dyngate.runtime.golden import MODEL, read_cases  # noqa: E402
from tests.runtime.files import write_file  # noqa: E402

RNG = np.random.default_rng(0)
SIGNALS = RNG.normal(size=(6, 8, 2)).astype("float32")
AGES = RNG.normal(size=(6, 3)).astype("float32")
PICTURE = "RGB, 0 to 255, [1, height, width, channels]"
SIGNAL = tf.TensorSpec([1, 8, 2], tf.float32)
AGE = tf.TensorSpec([1, 3], tf.float32)


def answer(scores):
    return {
        "logits": scores,
        "label": tf.argmax(scores, -1, tf.int32),
        "executed_macs": tf.constant([5]) + tf.argmax(scores, -1, tf.int32),
    }


def stage_1(signal):
    return {**answer(tf.reduce_mean(signal, 1)), "features": tf.reduce_max(signal, 1)}


def stage_2(features):
    return answer(2.0 * features)


def both(signal, age):
    return answer(tf.reduce_mean(signal, 1) + age[:, :2] * age[:, 2:])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A net with exits on signals `[8, 2]`."""
    signatures = {
        "stage_2": (stage_2, {"features": tf.TensorSpec([1, 2], tf.float32)}),
        "stage_1": (stage_1, {"signal": SIGNAL}),
        "classify": (
            lambda signal: answer(tf.reduce_mean(signal, 1)),
            {"signal": SIGNAL},
        ),
    }
    return write_file(tmp_path_factory.mktemp("one"), signatures, {"input": PICTURE})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A net that takes a signal and an age."""
    signatures = {"classify": (both, {"signal": SIGNAL, "age": AGE})}
    return write_file(tmp_path_factory.mktemp("two"), signatures)


def scores_of_both():
    return SIGNALS.mean(1) + AGES[:, :2] * AGES[:, 2:]


class TestOneInput:
    def test_stages_are_fed_by_those_before(self, one):
        model = LiteRTModel(one)
        calls = list(chain(model, {"signal": SIGNALS[0]}))
        assert [name for name, *_ in calls] == ["classify", "stage_1", "stage_2"]
        np.testing.assert_allclose(
            calls[2][2]["logits"][0], 2 * SIGNALS[0].max(0), rtol=1e-6
        )

    def test_evaluation(self, one):
        """Nor is a signal from -1 to 1 taken for a picture."""
        found = LiteRTModel(one).evaluate(SIGNALS / 9, SIGNALS.mean(1).argmax(-1))
        assert found["accuracy"] == 1.0
        expected = 1000 * (5 + SIGNALS.mean(1).argmax(-1)).mean()
        assert found["mean_executed_macs"] == expected

    def test_latency(self, one):
        model = LiteRTModel(one)
        report = time_images({"a": (model, "stage_2", SIGNALS)}, rounds=1)["a"]
        expected = 1000 * (5 + SIGNALS.max(1).argmax(-1))
        assert report.executed_macs.tolist() == expected.tolist()
        assert report.times_ms.shape == (1, 6)

    def test_golden_cases(self, one, tmp_path):
        assert write_golden(one, tmp_path / "golden", SIGNALS) == 18
        again(tmp_path / "golden", tmp_path)


class TestTwoInputs:
    INPUTS = {"signal": SIGNALS, "age": AGES}

    def test_evaluation(self, two):
        labels = scores_of_both().argmax(-1)
        assert len(set(labels)) == 2
        found = LiteRTModel(two).evaluate(self.INPUTS, labels)
        assert found["accuracy"] == 1.0 and found["labels"].tolist() == labels.tolist()
        fixed = LiteRTModel(two).evaluate(SIGNALS, labels, age=AGES[0])
        expected = (SIGNALS.mean(1) + AGES[0, :2] * AGES[0, 2]).argmax(-1)
        assert fixed["labels"].tolist() == expected.tolist()
        with pytest.raises(ValueError, match=r"\['age', 'signal'\] by name, in a dict"):
            LiteRTModel(two).evaluate(SIGNALS, labels)

    def test_latency(self, two):
        model = LiteRTModel(two)
        report = time_images({"a": (model, "classify", self.INPUTS)}, rounds=1)["a"]
        expected = 1000 * (5 + scores_of_both().argmax(-1))
        assert report.executed_macs.tolist() == expected.tolist()
        held = time_images({"a": (model, "classify", SIGNALS)}, rounds=1, age=AGES[0])[
            "a"
        ]
        assert held.times_ms.shape == (1, 6)
        with pytest.raises(ValueError, match="equally many .*'signal': 6, 'age': 2"):
            time_images(
                {"a": (model, "classify", {"signal": SIGNALS, "age": AGES[:2]})}
            )
        with pytest.raises(ValueError, match="must have one image input"):
            time_images({"a": (model, "classify", SIGNALS)})

    def test_golden_cases(self, two, tmp_path):
        assert write_golden(two, tmp_path / "golden", self.INPUTS) == 6
        again(tmp_path / "golden", tmp_path)
        with pytest.raises(ValueError, match="must have one image input"):
            write_golden(two, tmp_path / "new", SIGNALS)
        with pytest.raises(ValueError, match=r"must give \['age'\], which"):
            write_golden(two, tmp_path / "new", {"signal": SIGNALS})
        with pytest.raises(ValueError, match="`images` must hold at least one"):
            write_golden(
                two, tmp_path / "new", {"signal": SIGNALS[:0], "age": AGES[:0]}
            )


def again(golden, folder):
    """The interpreter gives the golden bits once more."""
    found = folder / "found"
    found.mkdir()
    model = LiteRTModel(golden / MODEL)
    for case in read_cases(golden):
        specs = model.signatures[case.signature].inputs
        inputs = {
            name: np.fromfile(golden / file, specs[name].dtype).reshape(
                specs[name].shape
            )
            for name, file in case.inputs.items()
        }
        for name, value in model.run(case.signature, **inputs).items():
            value.tofile(found / case.outputs[name])
    assert all(d.equal for d in compare_golden(golden, found))


def test_pictures_from_0_to_1_are_noticed(tmp_path):
    def classify(image):
        return answer(tf.reduce_mean(image, [1, 2]))

    image = {"image": tf.TensorSpec([1, 4, 4, 3], tf.float32)}
    path = write_file(tmp_path, {"classify": (classify, image)}, {"input": PICTURE})
    x = RNG.uniform(0, 1, (3, 4, 4, 3)).astype("float32")
    model = LiteRTModel(path)
    with pytest.warns(UserWarning, match="`images` should hold .* 0 to 255") as found:
        time_images({"a": (model, "classify", x)}, rounds=1)
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match="0 to 255") as found:
        write_golden(path, tmp_path / "golden", x)
    assert found[0].filename == __file__
    time_images({"a": (model, "classify", 255 * x)}, rounds=1)
