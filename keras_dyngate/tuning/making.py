"""From a net and a setup to the net with its gates and exits, none of it taught."""

from collections.abc import Callable
from typing import Any

import keras

from keras_dyngate.controllers import BinaryGate
from keras_dyngate.models.exits.decision_gates import add_decision_gates
from keras_dyngate.models.gating.gate_model import add_channel_gates, add_layer_gates
from keras_dyngate.regularizers import GateSparsity
from keras_dyngate.tuning.space import Setup, costliest, exit_points, open_places


def with_gates(net: keras.Model, setup: Setup) -> keras.Model:
    """A net with the gates of a setup; the net itself where there are none.

    Args:
        net: Plain, or with gates of its own, which stay.
        setup: See `Setup`.

    Raises:
        ValueError: If the groups of channels do not suit this net.
    """
    number, kind = setup.grain.split()
    grain: dict[str, Any] = {
        "groups" if kind == "groups" else "group_size": int(number)
    }
    options: dict[str, Any] = {
        "gate": _gates(setup.temperature, setup.noise),
        "regularizers": [GateSparsity(0.0, weighting="macs")],
    }
    model = net
    chains = costliest(open_places(net, "channel"), setup.channels)
    branches = costliest(open_places(net, "layer"), setup.layers)
    if chains:
        model = add_channel_gates(
            model, lambda place: place.name in chains, **grain, **options
        )
    if branches:
        model = add_layer_gates(model, lambda place: place.name in branches, **options)
    return model


def with_exits(trunk: keras.Model, setup: Setup) -> keras.Model:
    """A net with the exits of a setup, each at the place nearest to its share.

    Args:
        trunk: With gates or without.
        setup: See `Setup`; two exits that come to one place are one.

    Raises:
        ValueError: If there is no place, as gates make one layer of a chain.
    """
    points = exit_points(trunk) if setup.exits else []
    if setup.exits and not points:
        raise ValueError(
            "A net must have a cut point for its exits. "
            f"Received: {trunk.name!r} with gates, without any"
        )
    chosen = []
    for share in setup.exits:
        nearest = min(points, key=lambda point: abs(point.share - share))
        if nearest not in chosen:
            chosen.append(nearest)
    if not chosen:
        return trunk
    return add_decision_gates(trunk, chosen, head=setup.head)


def _gates(temperature: float, noise: float) -> Callable[[int], BinaryGate]:
    return lambda units: BinaryGate(units, temperature=temperature, noise=noise)
