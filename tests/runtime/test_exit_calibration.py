"""Thresholds of a file, chosen on it and written into it."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.runtime.exit_calibration import file_exit_table, set_thresholds
from keras_dyngate.thresholds.table import exits_of, outcome
from tests.export.nets import cascade, conv_net, spread_thresholds, tinted, with_exits
from tests.export.nets import images as pictures

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are made with TensorFlow"
)
N = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    x = pictures(N)
    model = with_exits(conv_net(), ["a", "b"], x)
    path = tmp_path_factory.mktemp("files") / "net.tflite"
    kd.export_tflite(model, path, parity_data=False)
    return model, x, path.read_bytes()


@pytest.fixture
def file(made, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(made[2])
    return path


def labels(model, x):
    """Right at the head four times in five, at the gates as it happens."""
    rng = np.random.default_rng(0)
    truth = model.exit_table(x).labels[:, -1].copy()
    wrong = rng.random(len(x)) < 0.2
    truth[wrong] = (truth[wrong] + 1) % model.output_shape[-1]
    return truth


class TestTable:
    def test_is_that_of_keras(self, made, file):
        model, x, _ = made
        y = labels(model, x)
        table, ms = file_exit_table(kd.LiteRTModel(file), x, y)
        expected = model.exit_table(x, y)
        np.testing.assert_allclose(table.confidence, expected.confidence, rtol=1e-4)
        np.testing.assert_array_equal(table.labels, expected.labels)
        np.testing.assert_allclose(table.macs, expected.macs, atol=500)
        np.testing.assert_array_equal(table.truth, y)
        assert len(ms) == 3 and min(ms) > 0

    def test_data_of_every_kind(self, made, file):
        model, x, _ = made
        y, litert = labels(model, x), kd.LiteRTModel(file)
        expected = file_exit_table(litert, x, y)[0]
        batches = [(x[:25], y[:25]), (x[25:], y[25:])]
        for data in ((x, y), batches):
            found = file_exit_table(litert, data)[0]
            np.testing.assert_array_equal(found.labels, expected.labels)
        unlabelled = file_exit_table(litert, x)[0]
        assert unlabelled.truth is None
        np.testing.assert_array_equal(unlabelled.labels, expected.labels)


class TestCalibrate:
    def test_thresholds_are_in_the_file(self, made, file):
        model, x, _ = made
        y = labels(model, x)
        found = kd.calibrate_tflite(file, x, y, accuracy_drop=0.1)
        table = dataclasses.replace(model.exit_table(x, y))
        assert found.accuracy >= found.head_accuracy - 0.1 - 1e-9
        assert found.ms > 0
        litert = kd.LiteRTModel(file)
        np.testing.assert_allclose(
            litert.metadata["thresholds"], np.nan_to_num(np.float32(found.thresholds))
        )
        again = litert.evaluate(x, y)
        np.testing.assert_array_equal(
            again["exit"], exits_of(table.confidence, found.thresholds)
        )
        assert again["accuracy"] == pytest.approx(found.accuracy)
        explained = [litert.run("explain", image=image)["exit"][0] for image in x[:8]]
        np.testing.assert_array_equal(explained, again["exit"][:8])

    def test_shares_and_agreement_need_no_labels(self, made, file):
        _, x, _ = made
        found = kd.calibrate_tflite(file, x, exit_shares=(0.25, 0.25))
        np.testing.assert_allclose(found.shares, (0.25, 0.25, 0.5))
        found = kd.calibrate_tflite(file, x, agreement=0.9)
        table = file_exit_table(kd.LiteRTModel(file), x)[0]
        exits = exits_of(table.confidence, found.thresholds)
        same = table.labels[np.arange(N), exits] == table.labels[:, -1]
        assert same.mean() >= 0.9

    @pytest.mark.parametrize(
        ("wish", "message"),
        [
            ({}, "Give one of"),
            ({"accuracy_drop": 0.1}, "Accuracy needs labels"),
            ({"agreement": 0.99, "confidence": 0.9}, "can be promised"),
        ],
    )
    def test_refused_and_left_as_it_was(self, made, file, wish, message):
        _, x, content = made
        with pytest.raises(ValueError, match=message):
            kd.calibrate_tflite(file, x, **wish)
        assert file.read_bytes() == content

    def test_pictures_that_are_no_numbers(self, made, file):
        _, x, content = made
        broken = x.copy()
        broken[3, 0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="`x` must hold finite numbers"):
            kd.calibrate_tflite(file, broken, exit_shares=(0.5, 0.2))
        assert file.read_bytes() == content

    def test_files_without_exits(self, made, tmp_path):
        _, x, _ = made
        path = tmp_path / "plain.tflite"
        kd.export_tflite(conv_net(), path, parity_data=False)
        with pytest.raises(ValueError, match="`path` must be a file with early exits"):
            kd.calibrate_tflite(path, x, exit_shares=(0.5,))
        with pytest.raises(ValueError, match="`path` must be a file with early exits"):
            set_thresholds(path, [0.5])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A net whose head answers with the exits before it, and its file."""
    x = tinted(N)
    model = cascade(x)
    last = model.trunk.layers[-1]  # always of one mind, as it is made
    said = np.log(model.trunk.predict(x, verbose=0))
    last.kernel.assign(last.kernel / said.std())
    last.bias.assign((last.bias - said.mean(0)) / said.std())
    spread_thresholds(model, x)
    path = tmp_path_factory.mktemp("files") / "net.tflite"
    kd.export_tflite(model, path, parity_data=False)
    return model, x, path


@pytest.mark.heavy
class TestCombined:
    """The head joins in: what is lost is counted against what it answers alone."""

    def test_plain_is_the_head_alone(self, exported):
        model, x, path = exported
        table = file_exit_table(kd.LiteRTModel(path), x)[0]
        alone = model.trunk.predict(x, verbose=0).argmax(-1)
        np.testing.assert_array_equal(table.plain, alone)
        assert (table.plain != table.labels[:, -1]).any()
        assert model.exit_table(x).plain is not None

    def test_agreement_is_with_the_head_alone(self, exported):
        model, x, path = exported
        alone = model.trunk.predict(x, verbose=0).argmax(-1)
        together = model.exit_table(x).labels
        best = max((each == alone).mean() for each in together.T)
        wish = float(best) - 1 / N
        found = kd.calibrate_tflite(path, x, agreement=wish)
        said = [kd.LiteRTModel(path).run("classify", image=i)["label"][0] for i in x]
        assert (np.array(said) == alone).mean() >= wish - 1e-9
        assert found.shares[-1] < 1
        with pytest.raises(ValueError, match="`agreement` cannot be kept to"):
            kd.calibrate_tflite(path, x, agreement=1.0)

    def test_one_threshold_where_confidences_are_alike(self, exported, tmp_path):
        model, x, path = exported
        y, wish = labels(model, x), {"accuracy_drop": 0.2}
        assert len(set(kd.calibrate_tflite(path, x, y, **wish).thresholds)) > 1
        alike = cascade(x, confidence=["probability"] * 3)
        kd.export_tflite(alike, tmp_path / "alike.tflite", parity_data=False)
        for shared, one in ((None, True), (True, True), (False, False)):
            found = kd.calibrate_tflite(
                tmp_path / "alike.tflite", x, y, **wish, shared=shared
            )
            assert (len(set(found.thresholds)) == 1) == one

    def test_the_stages_are_needed(self, exported, tmp_path):
        model, x, _ = exported
        path = tmp_path / "one.tflite"
        signatures = ["classify", "classify_at"]
        kd.export_tflite(model, path, signatures=signatures, parity_data=False)
        with pytest.raises(ValueError, match="`path` must have its stages"):
            kd.calibrate_tflite(path, x, agreement=0.5)


class TestSetThresholds:
    def test_infinity_lets_nobody_leave(self, made, file):
        _, x, content = made
        set_thresholds(file, [np.inf, np.inf])
        litert = kd.LiteRTModel(file)
        exits = {int(litert.run("classify", image=image)["exit"][0]) for image in x}
        assert exits == {2}
        assert len(file.read_bytes()) <= len(content) + 1024

    def test_a_file_with_one_signature(self, made, file, tmp_path):
        model, x, _ = made
        path = tmp_path / "one.tflite"
        kd.export_tflite(model, path, signatures=["classify"], parity_data=False)
        set_thresholds(path, [-np.inf, 0.0])
        litert = kd.LiteRTModel(path)
        assert {int(litert.run("classify", image=i)["exit"][0]) for i in x[:5]} == {0}

    @pytest.mark.parametrize("thresholds", [[1.0], [1.0, np.nan], [[1.0, 2.0]]])
    def test_refused(self, file, thresholds):
        with pytest.raises(ValueError, match="`thresholds` must be 2 numbers"):
            set_thresholds(file, thresholds)

    def test_outcome_is_that_of_the_table(self, made, file):
        model, x, _ = made
        y = labels(model, x)
        table, _ = file_exit_table(kd.LiteRTModel(file), x, y)
        set_thresholds(file, model.thresholds)
        found = kd.LiteRTModel(file).evaluate(x, y)
        assert found["accuracy"] == outcome(table, model.thresholds).accuracy
