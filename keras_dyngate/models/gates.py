"""Which gates a net is to have: one object for the builders and for anybody's net."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_dyngate import controllers
from keras_dyngate._checks import one_of, positive_int
from keras_dyngate.layers.gated_bottleneck_block import ACTIVATIONS


def units_of(width: int, group_size: int | None, groups: int | None, where: str) -> int:
    """Decisions over `width` channels of the place `where`, or an error that names it."""
    if group_size is not None and groups is not None:
        raise ValueError(
            "Give one of `group_size` and `groups`. Received: "
            f"group_size={group_size!r}, groups={groups!r}"
        )
    if groups is not None:
        name, value = "groups", groups
        units = positive_int(name, groups)
    else:
        name, value = "group_size", 1 if group_size is None else group_size
        size = positive_int(name, value)
        units = width // size if width % size == 0 else 0
    if units == 0 or width % units:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        near = sorted(sorted(divisors, key=lambda n: abs(n - value))[:3])
        raise ValueError(
            f"`{name}` must divide the {width} channels of {where!r}: {near} do. "
            f"Received: {name}={value!r}"
        )
    return units


@dataclasses.dataclass(frozen=True, repr=False)
class Gates:
    """How channels and layers are gated.

    Args:
        channel: Of channels: a name ("binary", "salience"), a callable that makes a
            `Controller` from `units`, or None: no gates. Default "binary".
        layer: The same, of whole layers. Default None.
        groups: Decisions per gated activation.
        group_size: Or: one decision per so many neighbouring channels. Default 1, the
            paper's.
        channel_regularizers, layer_regularizers: `GateRegularizer`s of each gate.
        activations: Of a bottleneck: "both" of its inner activations or the "last", see
            `GatedBottleneckBlock`. None: "both", and "last" in LC-Nets.

    Example:
        ```python
        price = kd.GateSparsity(0.01, weighting="macs")
        gates = kd.Gates(groups=4, channel_regularizers=[price])
        model = kd.gated_resnet20(gates=gates, input_shape=(16, 16, 3), width=0.25)
        ```
    """

    channel: Any = "binary"
    layer: Any = None
    groups: int | None = None
    group_size: int | None = None
    channel_regularizers: Any = None
    layer_regularizers: Any = None
    activations: str | None = None

    def __post_init__(self) -> None:
        one_of("activations", self.activations, (*ACTIVATIONS, None))

    def __repr__(self) -> str:
        """What was said of them, so that signatures stay short."""
        fields = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))
        said = [f"{f.name}={value!r}" for f, value in fields if value != f.default]
        return f"Gates({', '.join(said)})"

    def for_channels(self, widths: Sequence[int], where: str) -> Any:
        """A new controller for activations of so many channels; None without.

        Raises:
            ValueError: If the groups do not divide the channels, or there would be more
                of them in one activation than in another.
        """
        if self.channel is None:
            return None
        units = [units_of(n, self.group_size, self.groups, where) for n in widths]
        if len(set(units)) > 1:
            raise ValueError(
                "`groups` must be given, not `group_size`, for chains of several widths. "
                f"Received: {where!r} with {list(widths)} channels"
            )
        return make_gate(self.channel, sum(units), self.channel_regularizers)

    def for_layer(self) -> Any:
        """A new controller for a layer as a whole; None without."""
        return make_gate(self.layer, 1, self.layer_regularizers)


def make_gate(identifier: Any, units: int, regularizers: Any) -> Any:
    """A new controller of `units` units, with copies of `regularizers` added."""
    if isinstance(identifier, controllers.Controller):
        raise ValueError(
            "A model needs a gate per place: give a name, or a callable that makes a "
            f"controller from `units`. Received: the instance {identifier!r}"
        )
    gate = controllers.get(identifier, units)
    if gate is None:
        return None
    config = gate.get_config()
    if gate.units != units:
        raise ValueError(
            f"The gate must have {units} units here. Received: units={gate.units}"
        )
    if regularizers is not None:
        items = (
            regularizers if isinstance(regularizers, (list, tuple)) else [regularizers]
        )
        config["regularizers"] = [*config["regularizers"], *items]
    return type(gate).from_config(config)
