"""Budgets: their words, what they come to, and what cannot be kept."""

import pytest

import keras_dyngate as kd
from tests.cost.test_fitting import TABLE
from tests.cost.test_table_file import MS


@pytest.mark.parametrize(
    ("text", "what", "unit", "value", "relative"),
    [
        ("macs:0.6x", "macs", "MACs", 0.6, True),
        ("macs:120M", "macs", "MACs", 120e6, False),
        ("macs:1.5G", "macs", "MACs", 1.5e9, False),
        ("macs:1300", "macs", "MACs", 1300, False),
        ("latency:8.0ms", "latency", "ms", 8.0, False),
        ("latency:0.7x", "latency", "ms", 0.7, True),
        ("instructions:35k", "instructions", "instructions", 35e3, False),
        ("accuracy:-1.0", "accuracy", None, -1.0, False),
        ("accuracy:0.5", "accuracy", None, 0.5, False),
    ],
)
def test_forms(text, what, unit, value, relative):
    budget = kd.Budget(text)
    assert (budget.what, budget.unit, budget.relative) == (what, unit, relative)
    assert budget.value == pytest.approx(value)
    assert str(budget) == text and repr(budget) == f"Budget({text!r})"
    assert kd.Budget(budget) == budget and len({budget, kd.Budget(text)}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "macs",
        "macs:",
        "macs:-1",
        "macs:0x",
        "macs:8ms",
        "macs:nanx",
        "macs:1e999",
        "latency:8",
        "latency:8M",
        "latency:ms",
        "accuracy:-1x",
        "accuracy:-100",
        "accuracy:--1",
        "seconds:1",
        " macs:0.5x",
        None,
        0.5,
    ],
)
def test_other_forms(text):
    with pytest.raises(ValueError, match="`budget` must be like .*Received: budget="):
        kd.Budget(text)


def test_costs():
    total, least = TABLE.total, TABLE.least
    assert (total, least) == (2080, 1060)
    assert kd.Budget("macs:0.75x").cost(TABLE) == 0.75 * total
    assert kd.Budget("macs:1.5k").cost(TABLE) == 1500
    assert kd.Budget("macs:1.5k").share(TABLE) == 1500 / total
    assert kd.Budget("latency:0.8x").cost(MS) == pytest.approx(0.8 * 1.25)
    assert kd.Budget("accuracy:-1.5").accuracy_drop == 0.015


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs:0.5x", "with everything shut the net costs 1,060 MACs still, 0.510x"),
        ("macs:1k", "`budget` cannot be kept.*Received: budget='macs:1k'"),
        ("latency:1ms", "needs a table in ms, as `kd.measure_latency"),
        ("instructions:1M", "needs a table in instructions. Received: a table in MACs"),
        ("accuracy:-1", "`budget` must be of a cost"),
    ],
)
def test_what_cannot_be_kept(text, message):
    with pytest.raises(ValueError, match=message):
        kd.Budget(text).cost(TABLE)


def test_no_accuracy():
    with pytest.raises(ValueError, match="`budget` must be of accuracy. Received"):
        _ = kd.Budget("macs:0.5x").accuracy_drop
