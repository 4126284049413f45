"""Candidates take turns, round by round, on the same inputs."""

import types

import pytest

from keras_dyngate.runtime import compare_latency


class Clock:
    """Stands in for a model: notes each call and says how long it took."""

    def __init__(self, name, calls, ms):
        self.name, self.calls, self.ms = name, calls, ms

    def benchmark(self, signature, inputs, *, repeats, warmup):
        assert (repeats, warmup) == (1, 0)
        self.calls.append((self.name, signature, inputs["image"]))
        return types.SimpleNamespace(median_ms=self.ms)


def test_candidates_are_interleaved_on_equal_inputs():
    calls = []
    inputs = [{"image": i} for i in range(3)]
    times = compare_latency(
        {
            "a": (Clock("a", calls, 2.0), "classify", inputs),
            "b": (Clock("b", calls, 5.0), "classify", inputs),
        },
        rounds=4,
        warmup=1,
    )
    assert times["a"].tolist() == [2.0] * 4 and times["b"].tolist() == [5.0] * 4
    assert [name for name, *_ in calls] == ["a", "b"] * 5
    assert [image for *_, image in calls] == [2, 2, 0, 0, 1, 1, 2, 2, 0, 0]


def test_rounds_must_be_positive():
    with pytest.raises(ValueError, match="`rounds` must be a positive integer"):
        compare_latency({}, rounds=0)
