import pytest

from keras_dyngate import LinearSchedule
from tests.layer_checks import check_config


@pytest.mark.parametrize(
    ("progress", "value"),
    [(0.0, 0.75), (0.05, 0.5625), (0.1, 0.375), (0.2, 0.0), (0.7, 0.0), (1.0, 0.0)],
)
def test_batch_shaping_falls_to_zero_in_the_first_fifth(progress, value):
    assert LinearSchedule(0.75, 0.0, end=0.2)(progress) == pytest.approx(value)


@pytest.mark.parametrize(
    ("progress", "value"), [(0.0, 0.0), (0.2, 0.0), (0.3, 1.0), (0.6, 4.0), (1.0, 4.0)]
)
def test_sparsity_rises_between_a_fifth_and_three(progress, value):
    assert LinearSchedule(0.0, 4.0, 0.2, 0.6)(progress) == pytest.approx(value)


def test_a_step():
    step = LinearSchedule(1.0, 0.0, begin=0.5, end=0.5)
    assert [step(p) for p in (0.0, 0.499, 0.5, 1.0)] == [1.0, 1.0, 0.0, 0.0]


def test_config():
    check_config(LinearSchedule(1, 2, 0.25, 0.5))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"begin": -0.1}, "begin"),
        ({"end": 1.1}, "end"),
        ({"end": "1"}, "end"),
        ({"begin": 0.6, "end": 0.5}, "begin"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        LinearSchedule(0.0, 1.0, **arguments)
