"""Which cut points are timed, and what the others get."""

import keras
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits import cut_times
from keras_dyngate.models.exits.cut_times import spread
from tests.stubs import randomize

layers = keras.layers
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def points(*pairs):
    return [
        kd.CutPoint(f"p{i}", int(1000 * share), shape, share)
        for i, (share, shape) in enumerate(pairs)
    ]


def test_spread_takes_the_narrowest_of_each_range_and_the_last_of_equals():
    found = spread(
        points(
            (0.05, (8, 8, 4)),
            (0.10, (8, 8, 9)),
            (0.24, (8, 8, 4)),
            (0.30, (4, 4, 9)),
            (0.49, (4, 4, 20)),
            (0.99, (None, 7)),
        ),
        4,
    )
    assert [p.layer for p in found] == ["p2", "p3", "p5"]
    assert spread([], 4) == []


def dense_net(count):
    x = image = keras.Input((4,))
    for i in range(count):
        x = layers.Dense(4, name=f"d{i}")(x)
    return randomize(keras.Model(image, layers.Dense(4, name="head")(x)))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="files are made on TensorFlow")
class TestTimes:
    @pytest.fixture
    def stage_times(self, monkeypatch):
        """Stages of 1, 2, 3, ... ms in place of measured ones; what was asked for."""
        from keras_dyngate.export import stage_times

        asked = []

        def stub(model, after, quantization, data):
            asked.append((after, quantization, data))
            return [float(i) for i in range(1, len(after) + 2)]

        monkeypatch.setattr(stage_times, "stage_times", stub)
        return asked

    def test_all_points_of_a_small_net_are_measured(self, stage_times):
        found = kd.cut_points(dense_net(3), "int8", "images")
        assert stage_times == [(["d0", "d1", "d2"], "int8", "images")]
        assert [(p.ms, p.time_share) for p in found] == [
            (1, 0.1),
            (3, 0.3),
            (6, 0.6),
        ]
        assert [p.share for p in found] == [0.25, 0.5, 0.75]

    def test_others_lie_between_by_macs(self, stage_times, monkeypatch):
        monkeypatch.setattr(cut_times, "MEASURED", 2)
        found = kd.cut_points(dense_net(7), "float32")
        # d2 of the shares 1/8, 2/8, 3/8 and d6 of 4/8, ..., 7/8: all as narrow
        assert [after for after, *_ in stage_times] == [["d2", "d6"]]
        expected = [1 / 3, 2 / 3, 1, 1.5, 2, 2.5, 3]
        assert [p.ms for p in found] == pytest.approx(expected)
        assert [p.time_share for p in found] == pytest.approx(
            [ms / 6 for ms in expected]
        )

    def test_a_net_without_cut_points(self, stage_times):
        assert kd.cut_points(dense_net(0), "int8") == [] == stage_times

    def test_measured(self):
        found = kd.cut_points(dense_net(2), "dynamic")
        assert 0 < found[0].ms < found[1].ms
        assert 0 < found[0].time_share < found[1].time_share < 1


@pytest.mark.parametrize("measure", ["int4", "", 3, True])
def test_refused(measure):
    with pytest.raises(ValueError, match="`measure` must be one of.*Received: measure"):
        kd.cut_points(dense_net(1), measure)


@pytest.mark.skipif(ON_TENSORFLOW, reason="this is about other backends")
def test_other_backends():
    for measure in ("float32", "net.tflite"):
        with pytest.raises(RuntimeError, match="`measure` needs Keras on TensorFlow"):
            kd.cut_points(dense_net(1), measure)
