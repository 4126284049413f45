"""Latency reports: their arithmetic by hand, their measuring against loops and Keras."""

import types

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from keras_dyngate.runtime.latency import LatencyReport, time_images  # noqa: E402
from tests.export.nets import (  # noqa: E402
    images,
    small_net,
    spread_gates,
    tinted,
    with_exits,
)
from tests.stubs import randomize  # noqa: E402

TIMES = np.array([[1.0, 2.0, 9.0, 4.0], [3.0, 2.0, 7.0, 6.0], [2.0, 5.0, 8.0, 5.0]])
BY_HAND = LatencyReport(
    "classify",
    1,
    TIMES,
    executed_macs=np.array([10, 20, 80, 50]),
    exits=np.array([0, 0, 2, 1]),
    open_rates=np.array([0.1, 0.2, 0.9, 0.5]),
)


class TestReport:
    def test_distribution_is_of_all_calls(self):
        found = BY_HAND.distribution()
        assert found["min_ms"] == 1 and found["median_ms"] == 4.5
        assert found["mean_ms"] == pytest.approx(54 / 12)
        assert found["p90_ms"] <= found["p99_ms"] < 9
        np.testing.assert_array_equal(BY_HAND.image_ms, [2, 2, 8, 5])

    def test_exits_in_order_with_what_they_cost(self):
        first, second, head = BY_HAND.by_exit()
        assert [g.exit for g in (first, second, head)] == [0, 1, 2]
        assert (first.images, first.share, first.median_ms) == (2, 0.5, 2.0)
        assert first.executed_macs == 15 and first.open_rate == pytest.approx(0.15)
        assert (head.images, head.median_ms, head.executed_macs) == (1, 8.0, 80)

    def test_bins_of_equal_width_that_hold_something(self):
        low, middle, high = BY_HAND.by_open_rate(bins=4)  # edges 0.1 0.3 0.5 0.7 0.9
        assert [g.images for g in (low, middle, high)] == [2, 1, 1]
        assert low.open_rate == pytest.approx(0.15) and low.median_ms == 2
        assert middle.exit is None and middle.executed_macs == 50
        (every,) = BY_HAND.by_open_rate(bins=1)
        assert every.images == 4 and every.share == 1
        with pytest.raises(ValueError, match="`bins` must be a positive integer"):
            BY_HAND.by_open_rate(bins=0)

    def test_equal_rates_are_one_group(self):
        report = LatencyReport("classify", 1, TIMES, open_rates=np.full(4, 1.0))
        (every,) = report.by_open_rate()
        assert every.images == 4 and every.open_rate == 1
        assert every.executed_macs is None

    def test_correlation(self):
        expected = np.corrcoef([10, 20, 80, 50], [2, 2, 8, 5])[0, 1]
        assert BY_HAND.macs_correlation() == pytest.approx(expected)
        constant = LatencyReport("start", 1, TIMES, executed_macs=np.full(4, 7))
        assert constant.macs_correlation() is None

    def test_ratio_is_the_median_of_those_of_the_rounds(self):
        twice = LatencyReport("classify", 1, TIMES * [[2.0], [2.0], [100.0]])
        assert twice.ratio_to(BY_HAND) == 2
        assert BY_HAND.ratio_to(BY_HAND) == 1

    def test_a_file_that_decides_nothing(self):
        plain = LatencyReport("classify", 1, TIMES)
        assert plain.by_exit() == plain.by_open_rate() == []
        assert plain.macs_correlation() is None


X = tinted(24)
exporting = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A gated net with an exit between its blocks, and its file."""
    model = with_exits(spread_gates(small_net(groups=4), X), ["block1"], X)
    path = tmp_path_factory.mktemp("gated") / "gated.tflite"
    kd.export_tflite(model, path)
    return model, kd.LiteRTModel(path)


@pytest.fixture(scope="module")
def anytime(tmp_path_factory):
    model = kd.sliced_resnet(
        blocks=1, width=12, subnetworks=3, input_shape=X.shape[1:], classes=7
    )
    path = tmp_path_factory.mktemp("anytime") / "anytime.tflite"
    kd.export_tflite(randomize(model), path)
    return kd.LiteRTModel(path)


@exporting
class TestMeasuring:
    def test_exits_macs_and_open_rates(self, gated):
        model, file = gated
        report = time_images({"a": (file, "classify", X)}, rounds=2)["a"]
        assert report.times_ms.shape == (2, len(X)) and (report.times_ms > 0).all()
        calls = [file.run("classify", image=image) for image in X]
        exits = [int(call["exit"][0]) for call in calls]
        macs = [1000 * int(call["executed_macs"][0]) for call in calls]
        assert report.exits.tolist() == exits and report.executed_macs.tolist() == macs
        assert {g.exit: g.images for g in report.by_exit()} == {
            index: exits.count(index) for index in set(exits)
        }
        assert len(set(exits)) == 2
        decisions = kd.decide(model, X)
        assert exits == decisions.pop("exit").ravel().tolist()
        rates = (np.concatenate(list(decisions.values()), axis=1) > 0).mean(axis=1)
        np.testing.assert_allclose(report.open_rates, rates)
        assert sum(g.images for g in report.by_open_rate()) == len(X)

    def test_thresholds_change_exits_and_what_explains_them(self, gated):
        model, file = gated
        for limit, index in ((1e30, 1), (-1e30, 0)):
            report = time_images(
                {"a": (file, "classify_at", X)}, rounds=1, thresholds=[limit]
            )["a"]
            assert set(report.exits) == {index}
            explained = [file.run("explain_at", image=i, thresholds=[limit]) for i in X]
            later = [(e["block2/channel"] > 0).sum() for e in explained]
            early = [(e["block1/channel"] > 0).sum() for e in explained]
            np.testing.assert_allclose(report.open_rates * 12, np.add(early, later))
            assert (index == 0) == (not any(later))
        own = time_images({"a": (file, "classify_at", X)}, rounds=1)["a"]
        usual = time_images({"a": (file, "classify", X)}, rounds=1)["a"]
        assert own.exits.tolist() == usual.exits.tolist()

    def test_a_stage_is_fed_by_those_before(self, gated):
        _, file = gated
        report = time_images({"a": (file, "stage_2", X)}, rounds=1)["a"]
        expected = []
        for image in X:
            features = file.run("stage_1", image=image)["features"]
            out = file.run("stage_2", features=features)
            expected.append(1000 * int(out["executed_macs"][0]))
        assert report.executed_macs.tolist() == expected
        assert report.exits is None and report.open_rates is None

    def test_a_step_is_fed_by_those_before(self, anytime, monkeypatch):
        called = []
        run = anytime.run

        def noting(signature, **inputs):
            called.append(signature)
            return run(signature, **inputs)

        monkeypatch.setattr(anytime, "run", noting)
        report = time_images({"a": (anytime, "step_3", X[:2])}, rounds=1)["a"]
        assert called == ["start", "step_2", "step_3"] * 2
        steps = anytime.metadata["macs_per_step"]
        np.testing.assert_allclose(report.executed_macs, steps[2], atol=500)

    def test_a_column_of_times_per_image(self, anytime, monkeypatch):
        """Every image in every round, after one round that does not count."""
        called = []

        def fixed(signature, inputs, *, repeats, warmup):
            called.append(float(inputs["image"].mean()))
            return types.SimpleNamespace(median_ms=called[-1])

        monkeypatch.setattr(anytime, "benchmark", fixed)
        report = time_images({"a": (anytime, "start", X[:3])}, rounds=2)["a"]
        means = [float(image.mean()) for image in X[:3]]
        assert called == means * 3
        np.testing.assert_array_equal(report.times_ms, [means, means])

    def test_files_of_different_sizes_take_turns(self, gated, anytime):
        _, file = gated
        small = images(3)
        reports = time_images(
            {"a": (file, "classify", small), "b": (anytime, "start", small)}, rounds=2
        )
        assert list(reports) == ["a", "b"]
        assert reports["b"].exits is None
        assert reports["b"].ratio_to(reports["a"]) > 0

    def test_bad_arguments(self, gated, anytime):
        _, file = gated
        with pytest.raises(ValueError, match="`rounds` must be a positive integer"):
            time_images({"a": (file, "classify", X)}, rounds=0)
        for pair in (X[:0], X[:0]), (X[:1], X[:2]):
            candidates = {i: (file, "classify", x) for i, x in enumerate(pair)}
            with pytest.raises(ValueError, match="equally many images, at least one"):
                time_images(candidates)
        with pytest.raises(ValueError, match="`signature` must be one of 'classify'"):
            time_images({"a": (file, "none", X)})
        with pytest.raises(ValueError, match=r"\['thresholds'\]"):
            time_images({"a": (anytime, "classify", X)}, thresholds=[0.0])
        with pytest.raises(ValueError, match="Input `image` must have the shape"):
            time_images({"a": (file, "classify", X[:, 1:])})

    def test_the_former_name(self, gated):
        from keras_dyngate.runtime import measure_latency

        _, file = gated
        with pytest.warns(DeprecationWarning, match="now `runtime.time_images`"):
            reports = measure_latency({"a": (file, "classify", X[:1])}, rounds=1)
        assert reports["a"].times_ms.shape == (1, 1)
