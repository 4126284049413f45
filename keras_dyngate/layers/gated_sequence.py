"""Layers one after another whose inner channels are gated: a chain of anybody's net."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate import controllers
from keras_dyngate._checks import boolean
from keras_dyngate._registration import serializable
from keras_dyngate._saving import revived
from keras_dyngate.layers.gated_chain import GatedChain, check_units
from keras_dyngate.layers.links import Link, mixes, width_of


@serializable
class GatedSequence(GatedChain):
    """Any layers in a row, two or more of which mix channels, under one channel gate.

    What stands between two kernels that mix treats every channel on its own: `Conv2D`,
    `Dense` and `SeparableConv2D` mix; normalization over the batch, activations,
    depthwise convolutions, padding and pooling do not. `SqueezeExcite` may stand between.

    Args:
        layers: Keras layers, in order.
        channel_gate: A `Controller` with `len(masked) * groups` units, or an identifier
            for `controllers.get`; then each channel has a unit.
        masked: Which zones are masked, by their number: zone n lies between kernel n and
            the next one. Default: the first.
        at_rest: Whether the layers behave as at inference in training too, as in
            `base(x, training=False)`. The gate does not. Default False.

    Input shape: That of the first layer.
    Output shape: That of the last layer.

    Raises:
        ValueError: For layers of another kind, or units that do not divide the channels.

    Example:
        ```python
        layers = [keras.layers.Dense(32, activation="gelu"), keras.layers.Dense(8)]
        mlp = kd.GatedSequence(layers, channel_gate=kd.BinaryGate(4))
        y = mlp(np.ones((2, 8)))  # four groups of the 32 units
        ```
    """

    def __init__(
        self,
        layers: Sequence[Any],
        channel_gate: Any = "binary",
        masked: Sequence[int] = (0,),
        at_rest: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.at_rest = boolean("at_rest", at_rest)
        self.held = [revived(layer) for layer in layers]
        kernels = [x for x in self.held if mixes(x)]
        if len(kernels) < 2:
            raise ValueError(
                "`layers` must hold two kernels that mix channels, or more. "
                f"Received: {[x.name for x in self.held]}"
            )
        self.masked = tuple(int(zone) for zone in masked)
        zones = range(len(kernels) - 1)
        if not self.masked or sorted({*self.masked} & {*zones}) != list(self.masked):
            raise ValueError(
                f"`masked` must be some of {list(zones)}, ascending. "
                f"Received: masked={masked!r}"
            )
        widths = [width_of(kernels[zone]) for zone in self.masked]
        gate = controllers.get(channel_gate, sum(widths))
        if gate is None:
            raise ValueError("`channel_gate` must be a controller. Received: None")
        check_units(gate, widths, f"channels {widths}")
        self.channel_gate = gate

    def links(self) -> tuple[Link, ...]:
        return tuple(self.held)

    def build(self, input_shape: Any) -> None:
        self.build_links(input_shape)

    def run(self, links: Sequence[Link], x: Any, training: bool | None) -> Any:
        return super().run(links, x, False if self.at_rest else training)

    def narrowed(self, config: dict[str, Any], widths: Sequence[int]) -> dict[str, Any]:
        places = [index for index, layer in enumerate(self.held) if mixes(layer)]
        for zone, width in zip(self.masked, widths, strict=True):
            for layer in self.held[places[zone] : places[zone + 1]]:
                if isinstance(layer, keras.Model) or hasattr(layer, "body"):
                    raise NotImplementedError(
                        "Channels cannot be taken out of a net of operators or of "
                        f"squeeze-and-excite. Received: layer {layer.name!r}"
                    )
            held = config["layers"][places[zone]]["config"]
            held["units" if "units" in held else "filters"] = width
        return config

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "layers": [serialize(layer) for layer in self.held],
            "channel_gate": serialize(self.channel_gate),
            "masked": list(self.masked),
            "at_rest": self.at_rest,
        }
