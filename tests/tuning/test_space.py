"""What of a net is varied, and what a choice means."""

import keras
import keras_tuner as kt
import pytest

import keras_dyngate as kd
from keras_dyngate._walk import controllers
from keras_dyngate.tuning.making import with_exits, with_gates
from keras_dyngate.tuning.space import (
    GRAINS,
    PARTS,
    SearchSpace,
    Setup,
    costliest,
    grains,
    levels,
)
from tests.tuning.nets import net

layers = keras.layers


def place(name, share):
    return kd.GateablePlace("channel", name, (name,), 16, share)


def test_the_costliest_places_of_all_most_and_half():
    shares = {"a": 0.4, "b": 0.2, "c": 0.1, "d": 0.05, "e": 0.05}
    places = [place(*pair) for pair in shares.items()]
    assert costliest(places, 0.5) == ["a"] and costliest(places, 0.75) == ["a", "b"]
    assert costliest(places, 1.0) == list("abcde") and costliest(places, 0) == []
    assert levels(places) == (0.0, 0.5, 0.75, 1.0)
    # Of places alike all are gated, or none.
    alike = [place(str(k), 0.1 - 0.001 * k) for k in range(4)]
    assert costliest(alike, 0.5) == list("0123")
    assert levels(alike) == (0.0, 1.0) and levels([]) == (0.0,)


def test_grains_divide_the_channels():
    assert grains([16, 32]) == ("2 groups", "4 groups", "8 channels", "16 channels")
    assert grains([8, 16]) == ("2 groups", "4 groups", "8 channels")
    assert grains([6]) == ("2 groups",)
    assert grains([7]) == grains([]) == ()


def test_a_choice_is_read_and_declared():
    space = SearchSpace.of(net(), PARTS)
    assert len(space.channels) == 3 and len(space.layers) == 2
    hp = kt.HyperParameters()
    assert space.read(hp) == space.default == Setup(channels=1.0)
    assert hp.values["channels"] == 1.0
    assert "exit_1" not in hp.values and hp.values["grain"] == "2 groups"
    hp.values |= {"channels": 0.0, "layers": 1.0, "exits": 2}
    hp.values |= {"exit_1": space.places[1], "exit_2": space.places[0]}
    hp.values |= {"head": "linear", "by_gates": 0.3}
    setup = space.read(hp)
    assert setup.channels == 0 and setup.gated
    assert setup.exits == space.places and setup.head == "linear"
    assert setup.by_gates == 0.3
    with_one = space.read(_with(hp, exits=1))
    assert with_one.exits == (space.places[1],)
    both, gates, exits = space.cheapest
    first = space.places[:1]
    assert both.structure == (1.0, space.grains[-1], 1.0, first, "linear")
    assert gates.exits == () and not exits.gated and exits.exits == first


def _with(hp, **values):
    hp = hp.copy()
    hp.values |= values
    return hp


def test_only_what_is_asked_for_is_varied():
    assert set(_declared(["exits"])) == {"exits", "exit_1", "exit_2", "head"}
    assert "by_gates" in _declared(["exits", "layers"])
    assert set(_declared(["channels"])) == {"channels", "grain"}
    training = {"learning_rate", "prime", "budget_end", "temperature", "noise"}
    assert set(_declared(["layers", "training"])) == {"layers", *training}
    exits = SearchSpace.of(net(), ["exits"]).default
    assert len(exits.exits) == 1 and not exits.gated


def _declared(parts):
    hp = kt.HyperParameters()
    SearchSpace.of(net(), parts).read(hp)
    return [item.name for item in hp.space]


def test_a_setup_is_made():
    plain = net()
    space = SearchSpace.of(plain, PARTS)
    assert with_gates(plain, Setup()) is plain
    gated = with_gates(plain, Setup(channels=0.5, temperature=0.4))
    (gate,) = controllers(gated)
    assert gate.temperature == 0.4 and gate.units == 2
    cheapest = space.cheapest[0]
    model = with_exits(with_gates(plain, cheapest), cheapest)
    assert len(list(controllers(model))) == 3  # of two chains and a branch
    assert len(model.gates) == 1
    table = kd.count_macs(model)
    assert table.least < 0.2 * table.total
    both = Setup(exits=(space.places[0], space.places[0] + 0.01))
    assert len(with_exits(plain, both).gates) == 1  # they come to one place


def test_branches_are_found_behind_gated_chains_by_whatever_name():
    image = x = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        x = x + layers.Conv2D(8, 3, padding="same")(y)
    plain = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    model = with_gates(plain, Setup(channels=1.0, layers=1.0))
    assert len(list(controllers(model))) == 4


def test_a_net_of_its_own_gates_can_be_trained():
    model = with_gates(net(), Setup(channels=1.0))
    space = SearchSpace.of(model, ["training"])
    assert space.has_gates and space.default == Setup()
    hp = kt.HyperParameters()
    space.read(hp)
    assert "learning_rate" in hp.values


def test_a_gated_net_may_have_no_place_for_an_exit():
    convs = [layers.Conv2D(8, 3), layers.ReLU(), layers.Conv2D(8, 3)]
    top = [layers.GlobalAveragePooling2D(), layers.Dense(2)]
    plain = keras.Sequential([keras.Input((8, 8, 3)), *convs, *top])
    both = SearchSpace.of(plain, PARTS).cheapest[0]
    assert len(with_exits(plain, both).gates) == 1
    with pytest.raises(ValueError, match="must have a cut point for its exits"):
        with_exits(with_gates(plain, both), both)


def test_a_net_without_a_place():
    image = keras.Input((4,))
    plain = keras.Model(image, layers.Dense(3)(image), name="flat")
    with pytest.raises(ValueError, match="`net` must have a place for channels"):
        SearchSpace.of(plain, ["channels"])
    assert set(GRAINS) >= set(SearchSpace.of(net(), PARTS).grains)
