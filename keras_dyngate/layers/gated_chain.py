"""A chain of layers whose inner channels are gated per input.

A kernel that mixes channels, layers that treat every channel on its own, the next kernel
that mixes: the channels between the two fall into groups, and a shut group needs none of
its slices: of the first kernel's outputs, of everything between, of the second kernel's
inputs.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_dyngate._checks import boolean
from keras_dyngate.controllers import Controller
from keras_dyngate.cost.cost_row import CostRow, Gating
from keras_dyngate.cost.counter import kernel_macs
from keras_dyngate.layers.dynamic_layer import Decision, DynamicLayer
from keras_dyngate.layers.links import (
    Link,
    is_padding,
    mixes,
    run,
    shape_after,
    sides,
    width_of,
)
from keras_dyngate.layers.squeeze_excite import SqueezeExcite


class Zone(NamedTuple):
    """The channels from one kernel that mixes to the next, as places in a chain's links.

    Attributes:
        start: Of the kernel that puts them out.
        mask: Of the link that their mask stands before.
        stop: Of the kernel that takes them in.
    """

    start: int
    mask: int
    stop: int


class Worn(NamedTuple):
    """What a chain computes, link by link.

    Attributes:
        links, shortcut, after: As the chain's methods of these names give them.
        scaled: What follows a layer gate's factor. None: nothing.
    """

    links: tuple[Link, ...]
    shortcut: tuple[Link, ...] | None
    after: tuple[Link, ...]
    scaled: Any = None


class GatedChain(DynamicLayer):
    """Base of the blocks whose inner channels are gated: links, masks, a shortcut.

    A subclass gives `links`, and may give `shortcut_links` (what is added at the end),
    `after_links` (what comes after that) and `masked` (which zones are masked; default:
    the first). It sets `channel_gate` and `layer_gate`: None, or a `Controller` with as
    many units for each mask, or with one.

    A mask stands right before a kernel that mixes, or before the zeros put around what
    that takes: batch normalization of a channel that is shut would not be 0. Where a
    squeeze-and-excite stands between, it stands before that. A layer gate of score 0
    leaves the shortcut alone.

    Args:
        quantized: Whether it computes as an int8 file will; `quantize_aware` sets it.

    Example:
        ```python
        class Pair(kd.GatedChain):  # the channels between two convolutions
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.channel_gate = kd.BinaryGate(4)
                self.first = keras.layers.Conv2D(16, 3, activation="relu")
                self.last = keras.layers.Conv2D(8, 1)

            def links(self):
                return self.first, self.last

            def build(self, input_shape):
                self.build_links(input_shape)

        image = keras.Input((8, 8, 3))
        print(kd.count_macs(keras.Model(image, Pair()(image))).gateable)
        ```
    """

    masked: tuple[int, ...] = (0,)
    channel_gate: Controller | None
    layer_gate: Controller | None

    def __init__(self, quantized: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.quantized = boolean("quantized", quantized)
        self.dress: Any = None  # the roundings of a quantized chain
        self.channel_gate = self.layer_gate = None

    def links(self) -> tuple[Link, ...]:
        """Layers and functions, one after the other; two kernels that mix or more."""
        raise NotImplementedError

    def shortcut_links(self) -> tuple[Link, ...] | None:
        """What makes of the input that which is added; None: nothing is."""
        return None

    def after_links(self) -> tuple[Link, ...]:
        """What follows the sum: functions that treat every number on its own."""
        return ()

    def build_links(self, input_shape: Any) -> None:
        """Build the links, the shortcut's and the gates; a subclass's `build` calls it."""
        for links in (self.links(), self.shortcut_links() or ()):
            shape = tuple(input_shape)
            for link in links:
                if isinstance(link, keras.layers.Layer) and not link.built:
                    link.build(shape)
                shape = shape_after(link, shape)
        for gate in (self.channel_gate, self.layer_gate):
            if gate is not None and not gate.built:
                gate.build(input_shape)
        self.set_unit_macs(input_shape)
        if self.quantized:
            from keras_dyngate.quantization.dress import Dress  # it needs TensorFlow

            self.dress = Dress(self, name="dress")
            self.dress.build(input_shape)
        self.freeze_again()

    def worn(self) -> "Worn":
        """What is computed: the links, with the roundings of a quantized chain."""
        if self.dress is not None:
            return self.dress.worn()
        return Worn(self.links(), self.shortcut_links(), self.after_links())

    def zones(self, links: Sequence[Link] | None = None) -> tuple[Zone, ...]:
        """The channels between the chain's kernels, in order.

        Args:
            links: Where roundings stand between them too. None: `links()`.
        """
        links = self.links() if links is None else links
        kernels = [index for index, link in enumerate(links) if mixes(link)]
        found = []
        for start, stop in zip(kernels, kernels[1:], strict=False):
            weighed = [n for n in range(start, stop) if weighs(links[n])]
            mask = stop
            while stays_behind(links[mask - 1]):
                mask -= 1
            mask = weighed[0] if weighed else mask
            found.append(Zone(start, mask, stop))
        return tuple(found)

    def parts(self) -> list[Any]:
        links = (*self.links(), *(self.shortcut_links() or ()), *self.after_links())
        return [link for link in links if isinstance(link, keras.layers.Layer)]

    def widths(self) -> tuple[int, ...]:
        """Channels of each masked zone."""
        links, zones = self.links(), self.zones()
        return tuple(width_of(links[zones[index].start]) for index in self.masked)

    @property
    def masks(self) -> int:
        """How many activations the channel gate masks."""
        return len(self.masked)

    @property
    def channel_keys(self) -> tuple[str, ...]:
        """Names of the channel decisions: "channel", then "channel_2" and so on."""
        rest = (f"channel_{n}" for n in range(2, self.masks + 1))
        return ("channel", *rest)[: self.masks]

    def decisions(self) -> tuple[Decision, ...]:
        found = []
        if self.channel_gate is not None:
            units = self.channel_gate.units // self.masks
            for n, (key, width) in enumerate(
                zip(self.channel_keys, self.widths(), strict=True)
            ):
                part = slice(n * units, (n + 1) * units)
                found.append(Decision(key, self.channel_gate, part, width))
        if self.layer_gate is not None:
            found.append(Decision("layer", self.layer_gate, slice(0, 1), 1))
        return tuple(found)

    def channel_weights(self) -> dict[str, list[tuple[Any, int]]]:
        """By key, every weight that has the masked channels, and on which axis.

        The last is of the kernel that takes them in.
        """
        links, zones = self.links(), self.zones()
        found: dict[str, list[tuple[Any, int]]] = {}
        for key, index in zip(self.channel_keys, self.masked, strict=True):
            zone = zones[index]
            pairs = [
                (weight, outer)
                for link in links[zone.start : zone.stop]
                for weight, _, outer in sides(link)
            ]
            pairs += [(weight, inner) for weight, inner, _ in sides(links[zone.stop])]
            found[key] = [(w, axis) for w, axis in pairs if axis is not None]
        return found

    def narrowed(self, config: dict[str, Any], widths: Sequence[int]) -> dict[str, Any]:
        """A config of this layer with other numbers of masked channels, its gate apart."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `narrowed` for channels to be taken "
            f"out. Received: layer {self.name!r} without it"
        )

    def dense(self, x: Any, scores: dict[str, Any], training: bool | None) -> Any:
        worn = self.worn()
        links, zones = worn.links, self.zones(worn.links)
        y, at = x, 0
        if self.channel_gate is not None:
            for key, index in zip(self.channel_keys, self.masked, strict=True):
                zone = zones[index]
                y = self.run(links[at : zone.mask], y, training)
                y, at = y * spread(scores[key], y), zone.mask
                if self.dress is not None and self.dress.watches(training):
                    between = self.run(links[at : zone.stop], y, training)
                    self.dress.watch_sums(index, between, training)
        y = self.run(links[at:], y, training)
        if self.layer_gate is not None:
            shape = (-1, *[1] * (len(y.shape) - 1))
            y = y * ops.cast(ops.reshape(scores["layer"], shape), y.dtype)
            y = y if worn.scaled is None else worn.scaled(y, training=training)
        if worn.shortcut is not None:
            y = y + self.run(worn.shortcut, x, training)
        return self.run(worn.after, y, training)

    def run(self, links: Sequence[Link], x: Any, training: bool | None) -> Any:
        """What some links make of `x`, one after the other."""
        return run(links, x, training)

    def gate_input(self, x: Any, training: bool | None = None) -> Any:
        return x if self.dress is None else self.dress.means(x, training)

    def lower(self, x: Any, tools: Any) -> Any:
        return tools.chain(self, x)

    def cost_rows(self, input_shape: Any) -> list[CostRow]:
        links, zones = self.links(), self.zones()
        # Decisions about the channels that come into a link, and about those it puts out.
        inner: list[list[Gating]] = [[] for _ in links]
        outer: list[list[Gating]] = [[] for _ in links]
        for item, index in zip(self.decisions(), self.masked, strict=False):
            if not item.whole:
                zone, gating = zones[index], Gating(item.key, item.channels)
                outer[zone.start].append(gating)
                for place in range(zone.start + 1, zone.stop + 1):
                    if not weighs(links[place]):
                        inner[place].append(gating)
        layer = (Gating("layer"),) if self.layer_gate is not None else ()
        rows, shape = [], tuple(input_shape)
        for gate, name, above in (
            (self.layer_gate, "layer_gate", ()),
            (self.channel_gate, "channel_gate", layer),
        ):
            if gate is not None:
                macs = gate.count_macs(shape[-1])
                rows.append(CostRow(self.name, name, macs, above, controller=True))
        for link, into, out in zip(links, inner, outer, strict=True):
            rows += self._rows(link, shape, (*layer, *into), tuple(out))
            shape = shape_after(link, shape)
        shape = tuple(input_shape)
        for link in self.shortcut_links() or ():
            rows += self._rows(link, shape, (), ())
            shape = shape_after(link, shape)
        return rows

    def _rows(
        self,
        link: Link,
        shape: Any,
        inner: tuple[Gating, ...],
        outer: tuple[Gating, ...],
    ) -> list[CostRow]:
        """The rows of a link, if it has kernels."""
        if not isinstance(link, keras.layers.Layer):
            return []
        macs, around = kernel_macs(link, shape) or 0, (*inner, *outer)
        if not macs:
            return []
        if not isinstance(link, keras.layers.SeparableConv2D):
            return [CostRow(self.name, link.name, macs, around)]
        pixels: Any = shape_after(link, shape)[1:-1]
        each = math.prod(pixels) * math.prod(link.depthwise_kernel.shape)
        return [
            CostRow(self.name, f"{link.name}/depthwise", each, inner),
            CostRow(self.name, f"{link.name}/pointwise", macs - each, around),
        ]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quantized": self.quantized}

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        for link in (*self.links(), *self.after_links()):
            shape = shape_after(link, shape)
        return shape


def stays_behind(link: Any) -> bool:
    """Whether a mask stands before a link, though it mixes nothing."""
    return is_padding(link) or getattr(link, "behind_mask", False)


def weighs(link: Any) -> bool:
    """Whether a link is a squeeze-and-excite: all channels decide on each one's factor."""
    return isinstance(link, SqueezeExcite)


def check_units(gate: Controller, widths: Sequence[int], what: str) -> None:
    """Refuse a gate whose units do not divide the channels of each activation alike.

    Args:
        gate: Of all activations together.
        widths: Channels of each.
        what: These in words.
    """
    groups, rest = divmod(gate.units, len(widths))
    if rest or any(width % groups for width in widths):
        raise ValueError(
            f"`channel_gate` must have {len(widths)} x a divisor of the {what} as its "
            f"number of units. Received: units={gate.units}"
        )


def spread(scores: Any, y: Any) -> Any:
    """Scores `[batch, units]` as a mask for `y`, `[batch, 1, ..., 1, channels]`."""
    channels = y.shape[-1]
    scores = ops.repeat(scores, channels // scores.shape[-1], axis=-1)
    return ops.cast(
        ops.reshape(scores, (-1, *[1] * (len(y.shape) - 2), channels)), y.dtype
    )
