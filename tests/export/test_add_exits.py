"""One call for exits, end to end on small nets."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.export.candidates import labels_of
from keras_dyngate.export.exits_result import class_rows, exit_rows
from keras_dyngate.thresholds.table import exits_of
from tests.exit_tables import by_loops, random_table

layers = keras.layers
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are made with TensorFlow"
)
SIDE, CLASSES = 16, 4


def quarters(count, seed):
    """Noise with one bright quarter, which is the class; some are hard to see."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    x = rng.uniform(0, 160, (count, SIDE, SIDE, 3))
    half = SIDE // 2
    for image, label, bright in zip(x, labels, rng.uniform(10, 90, count), strict=True):
        top, left = half * (label // 2), half * (label % 2)
        image[top : top + half, left : left + half] += bright
    return x.astype("float32"), labels


def trained(x, y):
    image = keras.Input((SIDE, SIDE, 3))
    h = layers.Rescaling(1 / 128, -1.0)(image)
    for index, filters in enumerate((8, 16, 32), 1):
        h = layers.Conv2D(filters, 3, padding="same", name=f"conv{index}")(h)
        h = layers.ReLU(name=f"relu{index}")(h)
        h = layers.MaxPooling2D(name=f"pool{index}")(h) if index < 3 else h
    model = keras.Model(image, layers.Dense(CLASSES)(layers.Flatten()(h)), name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, batch_size=16, epochs=8, verbose=0)
    return model


def small():
    image = keras.Input((8, 8, 3))
    h = layers.Rescaling(1 / 128, -1.0)(image)
    h = layers.Conv2D(8, 3, strides=2, activation="relu")(h)
    return keras.Model(image, layers.Dense(CLASSES)(layers.Flatten()(h)), name="small")


@pytest.fixture(scope="module")
def task():
    keras.utils.set_random_seed(0)
    train, validation = quarters(240, 0), quarters(160, 1)
    return trained(*train), train, validation


@needs_tensorflow
@pytest.mark.filterwarnings("ignore:The exit")  # few epochs
class TestAddExits:
    @pytest.mark.parametrize("quantization", [None, "int8"])
    def test_what_it_says_is_what_the_file_does(self, task, tmp_path, quantization):
        model, train, (x, y) = task
        weights = [w.copy() for w in model.get_weights()]
        path = tmp_path / "exits.tflite"
        result = kd.add_exits(
            model,
            train,
            (x, y),
            accuracy_drop=0.05,
            quantization=quantization,
            exits=["pool1", "pool2"],
            first=small(),
            epochs=4,
            path=path,
            labels=[f"q{index}" for index in range(CLASSES)],
            verbose=0,
        )
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert result.path == str(path) and path.exists()
        litert = kd.LiteRTModel(path)
        assert litert.labels == ["q0", "q1", "q2", "q3"]
        found = litert.evaluate(x, y)
        said = {net.name: net for net in (result.plain, *result.rivals)}
        plain = (model.predict(x, verbose=0).argmax(-1) == y).mean()
        assert result.outcome.head_accuracy == plain
        assert result.outcome.accuracy >= plain - 0.05 - 1e-9
        if result.answer == "exits":
            assert found["accuracy"] == pytest.approx(result.outcome.accuracy)
            shares = np.bincount(found["exit"], minlength=len(result.exits))
            np.testing.assert_allclose(
                [row.share for row in result.exits], shares / len(x)
            )
        else:
            assert found["accuracy"] == said[result.answer].accuracy
        assert result.plain.macs == kd.count_macs(model).total
        assert result.answer in str(result) or result.answer == "exits"
        assert sum(row.pictures for row in result.classes) == len(x)
        assert result.curve and result.seconds > 0

    def test_promised(self, task, tmp_path):
        model, train, validation = task
        result = kd.add_exits(
            model,
            train,
            validation,
            accuracy_drop=0.1,
            confidence=0.8,
            exits=["pool2"],
            first=None,
            epochs=3,
            path=tmp_path / "exits.tflite",
            verbose=0,
        )
        promise = result.outcome.promise
        assert promise.drop == 0.1 and promise.confidence == 0.8
        assert "promised" in str(result)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"exits": "many"}, "`exits` must be 'auto', how many at most, or a list"),
            ({"exits": []}, "`exits` must name a place"),
            ({"exits": ["nowhere"]}, "`exits` must name layers"),
            ({"accuracy_drop": 2}, "`accuracy_drop` must be"),
            ({"quantization": "int4"}, "`quantization` must be one of"),
            ({"confidence": 2}, "`confidence` must be"),
            ({"confidence": 0.9, "accuracy_drop": 0.001}, "samples on"),
            ({"labels": ["a"]}, "`labels` must name"),
            ({"joint": 1}, "`joint` must be True or False"),
            ({"path": "no/such/folder/x.tflite"}, "`path`"),
        ],
    )
    def test_refused_before_anything_is_done(self, task, tmp_path, arguments, message):
        model, train, validation = task
        options = {"exits": ["pool1"], "path": tmp_path / "x.tflite", **arguments}
        with pytest.raises(ValueError, match=message):
            kd.add_exits(model, train, validation, first=None, **options)
        assert not list(tmp_path.iterdir())

    def test_a_wish_that_exits_do_not_keep(self, task, tmp_path, monkeypatch):
        """Then nobody leaves, and the net as it was is the answer, or a better one."""
        model, train, (x, y) = task

        def untaught(self, *args, **kwargs):
            for gate in self.gates:
                gate.set_weights([0 * w for w in gate.get_weights()])

        monkeypatch.setattr(kd.EarlyExitModel, "fit_gates", untaught)
        result = kd.add_exits(
            model,
            train,
            (x, y),
            accuracy_drop=-0.5,
            exits=["pool2"],
            first=None,
            path=tmp_path / "exits.tflite",
        )
        assert not result.kept and result.exits[-1].share == 1
        assert "do not keep to the wish" in result.sentence

    def test_validation_withoutlabels_of(self, task, tmp_path):
        model, train, (x, _) = task
        with pytest.raises(ValueError, match="`validation` must have labels"):
            kd.add_exits(model, train, x, path=tmp_path / "x.tflite")


def test_rows_against_loops():
    table = random_table(3, gates=2)
    thresholds, path_ms = [0.9, 0.4], [1.0, 2.0, 4.0]
    exits, _, right = by_loops(table, thresholds)
    rows = exit_rows(
        ["a", "b", "head"], ["x", "y", None], table, thresholds, path_ms, 5
    )
    for index, row in enumerate(rows):
        mine = exits == index
        assert row.share == mine.mean() and row.accuracy == right[mine].mean()
        assert row.time_share == path_ms[index] / 5
    np.testing.assert_array_equal(exits, exits_of(table.confidence, thresholds))
    for row in class_rows(table, thresholds):
        mine = table.truth == row.label
        early = mine & (exits < 2)
        assert row.pictures == mine.sum()
        assert row.share == early.sum() / mine.sum()
        assert np.isnan(row.accuracy) or row.accuracy == right[early].mean()


def test_labels_of_one_output_before_an_identity():
    """A probability is yes above a half, wherever its sigmoid stands."""
    image = keras.Input((1,))
    yes = layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(image)
    model = keras.Model(image, layers.Identity()(yes))
    x = np.array([[-1.0], [-0.1], [0.1], [1.0]], "float32")
    np.testing.assert_array_equal(labels_of(model, x), [0, 0, 1, 1])
