"""Accuracies by NumPy, MACs by `count_macs`, times from a runner that we make up."""

import types

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.anytime.curve import AnytimeCurve, AnytimePoint
from tests.backend_utils import BACKEND
from tests.stubs import images, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

COUNT, CLASSES = 23, 5
MAP = np.array([0, 1, 1, 0, 2])
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, COUNT)
SCORES = RNG.normal(size=(COUNT, 3, CLASSES)).astype("float32")
SCORES[np.arange(COUNT) % 3 == 0, 2, LABELS[::3]] += 9  # the last is right more often
ANSWERS = SCORES.argmax(-1)
PLACES = np.arange(COUNT, dtype="float32")
X = np.broadcast_to(PLACES[:, None, None, None], (COUNT, 8, 8, 3))
TINY = {"blocks": 1, "width": 6, "subnetworks": 3, "input_shape": (8, 8, 3)}


def made(**arguments):
    return kd.sliced_resnet(**{**TINY, "classes": CLASSES, **arguments})


def dictated(monkeypatch, model, scores=SCORES):
    """The model says `scores` of the image whose pixels are their place."""

    def predict(x):
        x = keras.ops.convert_to_numpy(x)
        model.seen = [*getattr(model, "seen", []), len(x)]
        return scores[x[:, 0, 0, 0].astype(int)]

    monkeypatch.setattr(model, "predict_on_batch", predict)
    return model


@pytest.fixture
def runner(monkeypatch):
    """Instead of `AnytimeRunner`."""
    made = types.SimpleNamespace(times={1: 2.0, 2: 3.0, 3: 5.0}, incremental=True)
    made.median_ms = lambda: made.times
    made.asked = []

    def build(path, **options):
        made.asked.append(path)
        return made

    monkeypatch.setattr("keras_dyngate.runtime.AnytimeRunner", build)
    monkeypatch.setattr(
        "keras_dyngate.models.anytime.curve._check_origin", lambda *_: None
    )
    return made


@pytest.fixture
def model(monkeypatch, plain, runner):
    return dictated(monkeypatch, plain)


@pytest.fixture(scope="module")
def plain():
    return made()


def accuracies(curve):
    return [point.accuracy for point in curve]


EXPECTED = (ANSWERS == LABELS[:, None]).mean(axis=0)


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], LABELS[8 * index : 8 * index + 8]


def in_batches(labels=LABELS, *more):
    return [
        (X[at : at + 8], labels[at : at + 8], *(m[at : at + 8] for m in more))
        for at in range(0, COUNT, 8)
    ]


class TestData:
    FORMS = {
        "indices": lambda: (X, LABELS),
        "a column": lambda: (X, LABELS[:, None].astype("uint8")),
        "floats": lambda: (X, LABELS.astype("float32")),
        "one-hot": lambda: (X, np.eye(CLASSES)[LABELS]),
        "tensors": lambda: tuple(map(keras.ops.convert_to_tensor, (X, LABELS))),
        "batches": in_batches,
        "one-hot batches": lambda: in_batches(np.eye(CLASSES)[LABELS]),
        "a generator": lambda: iter(in_batches()),
        "with weights": lambda: in_batches(LABELS, np.ones(COUNT)),
        "a PyDataset": Batches,
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_every_form(self, model, form):
        curve = model.evaluate_anytime(self.FORMS[form](), file="net.tflite")
        assert accuracies(curve) == pytest.approx(EXPECTED.tolist())
        assert len(set(EXPECTED)) == 3
        assert curve.samples == COUNT and len(curve) == 3
        assert [point.k for point in curve] == [1, 2, 3]

    def test_tf_data(self, model):
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(8)
        curve = model.evaluate_anytime(data, file="net.tflite")
        assert accuracies(curve) == pytest.approx(EXPECTED.tolist())

    def test_batch_size(self, model):
        model.seen = []
        curve = model.evaluate_anytime((X, LABELS), batch_size=10, file="net.tflite")
        assert model.seen == [10, 10, 3]
        assert accuracies(curve) == pytest.approx(EXPECTED.tolist())

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (X, "`data` must be .* Received: images without labels"),
            ([X[:8], X[8:]], "Received: images without labels"),
            ((X, None), "Received: images without labels"),
            ([], "`data` must hold at least one image. Received: none"),
            ((X[:0], LABELS[:0]), "`data` must hold at least one image"),
            ((X, LABELS[:-1]), "a label for each of the 23 samples. Received: 22 labe"),
        ],
    )
    def test_bad_data(self, model, data, message):
        with pytest.raises(ValueError, match=message):
            model.evaluate_anytime(data, file="net.tflite")


@pytest.mark.usefixtures("runner")
class TestTaxonomy:
    TAXONOMY = kd.HierarchicalTaxonomy(MAP.tolist())

    def test_columns(self, monkeypatch):
        """Two coarse heads, a fine one: by hand."""
        scores = SCORES.copy()
        scores[:, :2, 3:] = -1e9  # coarse heads have three classes
        model = made(taxonomy=self.TAXONOMY, coarse_heads=2)
        curve = dictated(monkeypatch, model, scores).evaluate_anytime(
            (X, LABELS), file="net.tflite"
        )
        answers, coarse = scores.argmax(-1), MAP[LABELS]
        up = MAP[answers[:, 2]]
        assert answers[:, :2].max() == 2 and answers[:, 2].max() == 4
        ends = [(answers[:, k] == coarse).mean() for k in (0, 1)]
        fine = (answers[:, 2] == LABELS).mean()
        first, second, third = curve
        for point, expected in zip((first, second), ends, strict=True):
            assert point.accuracy == point.coarse_accuracy == pytest.approx(expected)
            assert point.agreement is None
        assert third.accuracy == pytest.approx(fine)
        assert third.coarse_accuracy == pytest.approx((up == coarse).mean())
        assert third.agreement == pytest.approx((up == answers[:, 1]).mean())
        assert fine < third.coarse_accuracy

    def test_without_coarse_heads(self, monkeypatch):
        model = dictated(monkeypatch, made(taxonomy=self.TAXONOMY))
        curve = model.evaluate_anytime((X, LABELS), file="net.tflite")
        assert accuracies(curve) == pytest.approx(EXPECTED.tolist())
        coarse = (MAP[ANSWERS] == MAP[LABELS][:, None]).mean(axis=0)
        assert [p.coarse_accuracy for p in curve] == pytest.approx(coarse.tolist())
        assert [p.agreement for p in curve] == 3 * [None]

    def test_coarse_heads_alone(self, monkeypatch):
        scores = SCORES.copy()
        scores[:, :, 3:] = -1e9
        model = made(taxonomy=self.TAXONOMY, coarse_heads=3)
        curve = dictated(monkeypatch, model, scores).evaluate_anytime(
            (X, LABELS), file="net.tflite"
        )
        coarse = (scores.argmax(-1) == MAP[LABELS][:, None]).mean(axis=0)
        assert accuracies(curve) == pytest.approx(coarse.tolist())
        assert [p.agreement for p in curve] == 3 * [None]

    def test_none(self, model):
        curve = model.evaluate_anytime((X, LABELS), file="net.tflite")
        assert [(p.coarse_accuracy, p.agreement) for p in curve] == 3 * [(None, None)]

    def test_unknown_labels(self, monkeypatch):
        model = dictated(monkeypatch, made(taxonomy=self.TAXONOMY, coarse_heads=1))
        with pytest.raises(
            ValueError, match="`labels` must be class indices from 0 to"
        ):
            model.evaluate_anytime((X, LABELS + 1), file="net.tflite")


class TestCosts:
    def test_macs(self, model):
        curve = model.evaluate_anytime((X, LABELS), file="net.tflite")
        profile = kd.count_macs(model)
        assert tuple(point.macs for point in curve) == profile.per_subnetwork
        assert tuple(point.step_macs for point in curve) == profile.per_step

    def test_steps_of_a_file_add_up(self, model, runner):
        curve = model.evaluate_anytime((X, LABELS), file="net.tflite")
        assert [point.ms for point in curve] == [2.0, 5.0, 10.0]
        assert curve.timed == "LiteRT, steps added up"
        assert runner.asked == ["net.tflite"]

    def test_subnetworks_of_a_file_stand_alone(self, model, runner):
        runner.incremental = False
        curve = model.evaluate_anytime((X, LABELS), file="net.tflite")
        assert [point.ms for point in curve] == [2.0, 3.0, 5.0]
        assert curve.timed == "LiteRT, each sub-network on its own"

    @pytest.mark.parametrize("ks", [[1, 2], [1, 2, 3, 4], [1, 3], [3]])
    def test_file_with_other_subnetworks(self, model, runner, ks):
        runner.times = dict.fromkeys(ks, 1.0)
        with pytest.raises(ValueError) as error:
            model.evaluate_anytime((X, LABELS), file="net.tflite")
        for part in ("`file` must have", "[1, 2, 3]", f"Received: a file with {ks}"):
            assert part in str(error.value)

    def test_times_in_keras(self, plain):
        """Nothing is dictated: answers and times are the net's own."""
        randomize(plain)
        x, y = images(7, 8, 8, 3), LABELS[:7]
        before = plain.get_weights()
        curve = plain.evaluate_anytime((x, y), batch_size=7)
        assert curve.timed == f"Keras on {BACKEND}, each sub-network on its own"
        assert all(point.ms > 0 for point in curve)
        found = plain.predict_on_batch(x).argmax(-1)
        expected = (found == y[:, None]).mean(axis=0)
        assert accuracies(curve) == pytest.approx(expected.tolist())
        for ours, theirs in zip(plain.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_times_in_keras_are_medians(self, model, monkeypatch):
        """Of five calls after the first, by sub-network."""
        now, calls = [0.0], {}

        def part(k):
            def predict(image):
                assert image.shape == (1, 8, 8, 3)
                calls[k] = calls.get(k, 0) + 1
                now[0] += (500, 1, 7, 2, 100, 3)[calls[k] - 1] * k / 1e3

            return types.SimpleNamespace(predict_on_batch=predict)

        monkeypatch.setattr(model, "subnetwork", part)
        monkeypatch.setattr("time.perf_counter", lambda: now[0])
        curve = model.evaluate_anytime((X, LABELS))
        assert calls == {1: 6, 2: 6, 3: 6}
        assert [point.ms for point in curve] == pytest.approx([3.0, 6.0, 9.0])


SMALL = {"width": 4, "subnetworks": 2}


@pytest.fixture(scope="module")
def path(tmp_path_factory, module_numpy_initializers):
    path = tmp_path_factory.mktemp("curve") / "net.tflite"
    kd.export_tflite(made(**SMALL), path)
    return path


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exporting needs TensorFlow")
class TestFile:
    def test_real_times(self, path, monkeypatch):
        model = dictated(monkeypatch, made(**SMALL))
        curve = model.evaluate_anytime((X, LABELS), file=path)
        assert curve.timed == "LiteRT, steps added up"
        first, second = (point.ms for point in curve)
        assert 0 < first < second

    def test_file_of_another_net(self, path, monkeypatch):
        model = dictated(monkeypatch, made(width=6, subnetworks=2))
        with pytest.raises(ValueError, match="`file` must"):
            model.evaluate_anytime((X, LABELS), file=path)

    def test_no_file(self, tmp_path, monkeypatch):
        model = dictated(monkeypatch, made(**SMALL))
        with pytest.raises(FileNotFoundError, match="`path` must name a .tflite file"):
            model.evaluate_anytime((X, LABELS), file=tmp_path / "none.tflite")


class TestTable:
    POINTS = (
        AnytimePoint(1, 1_234_567, 1_234_567, 2.0, 0.5),
        AnytimePoint(2, 4_000_000, 2_900_000, 5.127, 0.6666),
    )

    def test_macs_beside_ms(self):
        text = str(AnytimeCurve(self.POINTS, 12, "a stopwatch"))
        head, first, second, last = text.splitlines()
        assert head.split() == ["k", "MACs", "of", "the", "step", "ms", "accuracy"]
        assert first.split() == ["1", "1,234,567", "1,234,567", "2.00", "50.00%"]
        assert second.split() == ["2", "4,000,000", "2,900,000", "5.13", "66.66%"]
        assert last == "12 images; time: a stopwatch"
        assert len({len(line) for line in (head, first, second)}) == 1

    def test_levels(self):
        """A gap where there is no number."""
        points = (
            AnytimePoint(1, 10, 10, 2.0, 0.5, 0.5),
            AnytimePoint(2, 30, 20, 5.0, 0.25, 0.75, 1.0),
        )
        head, first, second, _ = str(AnytimeCurve(points, 8, "")).splitlines()
        assert head.split()[-2:] == ["coarse", "agree"]
        assert first.split()[-2:] == ["50.00%", "50.00%"]
        assert second.split()[-3:] == ["25.00%", "75.00%", "100.00%"]
        assert len(head) == len(first) == len(second)

    def test_of_a_net(self, model):
        curve = model.evaluate_anytime((X, LABELS), file="net.tflite")
        text = str(curve).splitlines()
        for point, line in zip(curve, text[1:], strict=False):
            parts = [f"{point.macs:,}", f"{point.step_macs:,}", f"{point.ms:.2f}"]
            assert line.split() == [str(point.k), *parts, f"{point.accuracy:.2%}"]
        assert text[-1] == "23 images; time: LiteRT, steps added up"

    def test_plot(self):
        pytest.importorskip("matplotlib")
        curve = AnytimeCurve(self.POINTS, 12, "")
        for in_time, expected in ((False, [1.234567, 4.0]), (True, [2.0, 5.127])):
            with pytest.warns(DeprecationWarning, match="anytime_curves"):
                figure = curve.plot(in_time=in_time)
            (line,) = figure.axes[0].get_lines()
            np.testing.assert_allclose(line.get_xdata(), expected)
            np.testing.assert_allclose(line.get_ydata(), [0.5, 0.6666])
