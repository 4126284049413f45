import keras
import pytest

from keras_dyngate import (
    BatchShaping,
    GateRegularizer,
    GateSparsity,
    LinearSchedule,
    regularizers,
)


def test_coefficient_is_a_number_or_a_schedule():
    assert [GateSparsity(0.3).coefficient_at(p) for p in (0.0, 1.0)] == [0.3, 0.3]
    scheduled = GateSparsity(LinearSchedule(0.0, 2.0, 0.2, 0.6))
    found = [scheduled.coefficient_at(p) for p in (0.1, 0.4, 1)]
    assert found == pytest.approx([0, 1, 2])
    assert scheduled.scheduled and not GateSparsity(0.3).scheduled


@pytest.mark.parametrize("bad", [-0.1, float("nan"), "big", None])
def test_bad_coefficient(bad):
    with pytest.raises(ValueError, match="`coefficient` must be .*Received: coeff"):
        BatchShaping(coefficient=bad)


def test_a_schedule_survives_a_config():
    item = GateSparsity(LinearSchedule(0.0, 2.0, 0.2, 0.6))
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(item)
    )
    assert isinstance(again.coefficient, LinearSchedule)
    assert again.coefficient_at(0.5) == pytest.approx(1.5)
    assert again.get_config() == item.get_config()


@pytest.mark.parametrize(
    ("identifier", "cls", "coefficient"),
    [
        ("batch_shaping", BatchShaping, 0.75),
        ("gate_sparsity", GateSparsity, 0.01),
        (GateSparsity(0.3), GateSparsity, 0.3),
        (keras.saving.serialize_keras_object(BatchShaping(0.5)), BatchShaping, 0.75),
    ],
)
def test_get(identifier, cls, coefficient):
    found = regularizers.get(identifier)
    assert type(found) is cls and found.coefficient == coefficient
    assert found is not identifier


@pytest.mark.parametrize("bad", ["l2", None, BatchShaping, keras.regularizers.L2(0.1)])
def test_get_refuses_others(bad):
    with pytest.raises(ValueError, match="A gate regularizer must be .*Received: "):
        regularizers.get(bad)


def test_the_base_has_no_penalty():
    with pytest.raises(NotImplementedError):
        GateRegularizer(1.0, "base")(None)
