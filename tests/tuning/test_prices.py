"""Cost tables of a search: each made once, kept, and made anew where it is damaged."""

import dataclasses

import pytest

import keras_dyngate as kd
from keras_dyngate.cost.executed import executed_together
from keras_dyngate.tuning.prices import Prices, without_exits
from tests.tuning.nets import net, pictures


@pytest.fixture(scope="module")
def gated():
    return kd.add_layer_gates(kd.add_channel_gates(net()))


def in_ms(model):
    return dataclasses.replace(kd.count_macs(model), unit="ms")


def test_macs_are_counted(gated):
    assert Prices(None, None, pictures()[0]).of(gated, "a") == kd.count_macs(gated)


def test_a_damaged_table_and_one_of_another_net_are_made_anew(gated, tmp_path):
    asked = []

    def made():
        prices = Prices(lambda m: asked.append(1) or in_ms(m), None, pictures()[0])
        prices.folder = tmp_path
        return prices

    first = made()
    table = first.of(gated, "a")
    assert first.of(gated, "a") is table and made().of(gated, "a") == table
    assert len(asked) == 1
    (path,) = (tmp_path / "tables").iterdir()
    path.write_text("{")
    with pytest.warns(UserWarning, match=r"tables.*is made anew"):
        assert made().of(gated, "a") == table
    in_ms(kd.add_channel_gates(net())).save(path)
    with pytest.warns(UserWarning, match="must be of this model"):
        assert made().of(gated, "a") == table
    assert len(asked) == 3


def test_the_trunk_s_table_is_told_from_that_with_exits(gated):
    model = kd.add_decision_gates(gated, [kd.cut_points(gated)[2]], head="conv")
    names = [gate.name for gate in model.gates]
    found = without_exits(kd.count_macs(model), names)
    assert found == kd.count_macs(gated)
    assert executed_together(model) == executed_together(gated)
