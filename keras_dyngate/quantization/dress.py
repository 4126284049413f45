"""The roundings of a gated chain: of its kernels, and of what its file computes.

In a file every group of channels adds its share to a sum, one after the other; these sums
and shares have ranges of their own, which are watched beside.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate._copying import same_but
from keras_dyngate.cost.cost_row import default_group_size
from keras_dyngate.layers.gated_chain import Worn, weighs
from keras_dyngate.layers.links import Link, shape_after
from keras_dyngate.models.gating.rebuilding import Sharing
from keras_dyngate.quantization.fake_quantize import FakeQuantize, is_watching
from keras_dyngate.quantization.kinds import (
    SAME,
    ends_in_relu,
    is_kernel,
    is_relu,
    kind_name,
    why_not,
)
from keras_dyngate.quantization.quantized_layer import quantized_form
from keras_dyngate.quantization.rewriting import rounded_inside
from keras_dyngate.quantization.squeeze import QuantizedSqueeze

_BN = keras.layers.BatchNormalization


class Dress(keras.layers.Layer):
    """Of one chain, whose layers it shares.

    Args:
        chain: A `GatedChain`, built.
    """

    def __init__(self, chain: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._chain = weakref.ref(chain)  # Keras would take it for a part of this
        refused = [
            f"{link.name!r}, {why}"
            for link in (*chain.links(), *(chain.shortcut_links() or ()))
            if not weighs(link) and (why := why_not(link))
        ]
        if refused:
            raise ValueError(
                "`model` must hold gated blocks of layers that can be quantized, or they "
                f"must be named in `keep_float`. Received: {chain.name!r} with "
                + "; ".join(refused)
            )
        self.held: list[Any] = []
        self.links = self.dressed(chain.links())
        shortcut = chain.shortcut_links()
        self.shortcut = None if shortcut is None else self.dressed(shortcut)
        self.after = self.dressed(chain.after_links())
        if self.shortcut is not None and not self.after:
            self.after = (self.steps("sum"),)
        self.pooled = self.steps("means")
        gates = chain.channel_gate, chain.layer_gate
        soft = [gate is not None and not gate.binary for gate in gates]
        self.scaled = self.steps("scaled") if soft[1] else None
        if soft[0]:
            self.links = self.behind_masks(chain, self.links)
        count = len(chain.masked) if gates[0] is not None else 0
        self.shares = [self.steps(f"shares_{n}") for n in range(count)]
        self.sums = [self.steps(f"sums_{n}") for n in range(count)]

    def steps(self, name: str, **options: Any) -> FakeQuantize:
        """One more rounding."""
        made = FakeQuantize(name=f"{name}_range", **options)
        self.held.append(made)
        return made

    def dressed(self, links: Sequence[Link]) -> tuple[Link, ...]:
        """Links with their kernels rounded, and what a file puts out after each."""
        found: list[Link] = []
        for place, link in enumerate(links):
            after = links[place + 1] if place + 1 < len(links) else None
            name = getattr(link, "name", kind_name(link))
            if is_kernel(link):
                fused = ends_in_relu(link)
                bare = link if fused else same_but(link, activation=_LINEAR)
                made = quantized_form(bare, f"quantized_{name}")
                self.held.append(made)
                found.append(made)
                if isinstance(after, _BN):
                    made.followed_by(after)
                if not fused:
                    found += [self.steps(name), link.activation]
                    name = f"{name}_activation"
                own = not fused or link.activation is not _LINEAR
                waits = not own and (isinstance(after, _BN) or is_relu(after))
            elif weighs(link):
                made = QuantizedSqueeze(link, name=f"quantized_{name}")
                self.held.append(made)
                found += [made, self.steps(name)]
                continue
            elif isinstance(link, keras.Model):
                found.append(self.stretch(link))
                continue
            else:
                found.append(link)
                if kind_name(link) in SAME:
                    continue
                waits = isinstance(link, _BN) and is_relu(after)
            if not waits:
                found.append(self.steps(name))
        return tuple(found)

    def stretch(self, link: keras.Model) -> keras.Model:
        """A small net of operators, rounded after each that a file has."""
        made = rounded_inside(link, Sharing(), (), f"quantized_{link.name}")
        self.held.append(made)
        return made

    def behind_masks(self, chain: Any, links: tuple[Link, ...]) -> tuple[Link, ...]:
        """Links with a rounding behind each mask of scores that are not 0 or 1."""
        zones = chain.zones(links)
        places = {zones[index].mask: index for index in chain.masked}
        found: list[Link] = []
        for place, link in enumerate(links):
            if place in places:
                found.append(self.steps(f"masked_{places[place]}", behind_mask=True))
            found.append(link)
        return tuple(found)

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        for link in self.links:
            self._build(link, shape)
            shape = shape_after(link, shape)
        last, shape = shape, tuple(input_shape)
        for link in self.shortcut or ():
            self._build(link, shape)
            shape = shape_after(link, shape)
        self.pooled.build((None, input_shape[-1]))
        for link in (*self.after, *self.shares, *self.sums):
            self._build(link, last)
        if self.scaled is not None:
            self.scaled.build(last)
        self.built = True

    @staticmethod
    def _build(link: Link, shape: Any) -> None:
        if isinstance(link, keras.layers.Layer) and not link.built:
            link.build(shape)

    def worn(self) -> Worn:
        """The chain's links, rounded."""
        return Worn(self.links, self.shortcut, self.after, self.scaled)

    def partial(self) -> list[tuple[int, FakeQuantize, FakeQuantize]]:
        """By masked zone, the roundings of groups' shares and of their sums."""
        chain = self._chain()
        assert chain is not None
        return list(zip(chain.masked, self.shares, self.sums, strict=False))

    def means(self, x: Any, training: bool | None = None) -> Any:
        """What the gates are given: the means of the channels, rounded."""
        return _means(self.pooled, x, training)

    @staticmethod
    def watches(training: bool | None) -> bool:
        """Whether ranges follow what is computed now."""
        return bool(training) or is_watching()

    def watch_sums(self, index: int, x: Any, training: bool | None) -> None:
        """Let the ranges of the groups' sums follow a batch.

        Args:
            index: Of the masked zone.
            x: `[batch, ..., channels]`, what the kernel after the mask takes.
            training: As in `call`.
        """
        chain = self._chain()
        assert chain is not None
        place = chain.masked.index(index)
        zones = chain.zones(self.links)
        kernel = self.links[zones[index].stop]
        factor = _factor(self.links[zones[index].stop + 1 :])
        units = chain.channel_gate.units // chain.masks
        size = default_group_size(int(x.shape[-1]), units)  # as a file runs them
        x = ops.stop_gradient(x)
        total, shares, sums = None, [], []
        for start in range(0, x.shape[-1], size):
            cut = slice(start, start + size)
            share = ops.stop_gradient(kernel.share(x[..., cut], cut) * factor)
            total = share if total is None else total + share
            shares.append(share)
            sums.append(total)
        self.shares[place](ops.concatenate(shares), training=training)
        self.sums[place](ops.concatenate(sums), training=training)


class SumDress(keras.layers.Layer):
    """The roundings of a gated residual beside those of its body.

    Args:
        soft: Whether its branch is multiplied by a score that is not 0 or 1.
    """

    def __init__(self, soft: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pooled = FakeQuantize(name="means_range")
        self.scaled = FakeQuantize(name="scaled_range") if soft else None
        self.total = FakeQuantize(name="sum_range")

    def build(self, input_shape: Any) -> None:
        self.pooled.build((None, input_shape[-1]))
        for steps in (self.scaled, self.total):
            if steps is not None:
                steps.build(input_shape)
        self.built = True

    def means(self, x: Any, training: bool | None = None) -> Any:
        """What the gate is given: the means of the channels, rounded."""
        return _means(self.pooled, x, training)

    def sum(self, x: Any, y: Any, training: bool | None = None) -> Any:
        """The identity and the branch, its score multiplied in."""
        y = y if self.scaled is None else self.scaled(y, training=training)
        return self.total(x + y, training=training)


def _means(steps: FakeQuantize, x: Any, training: bool | None) -> Any:
    if len(x.shape) > 2:
        x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))
    return steps(x, training=training)


_LINEAR = keras.activations.linear


def _factor(links: Sequence[Link]) -> Any:
    """What a batch normalization right after a kernel multiplies its channels by."""
    norm = links[0] if links else None
    if not isinstance(norm, _BN):
        return 1.0
    found = ops.rsqrt(norm.moving_variance + norm.epsilon)
    return found * norm.gamma if norm.scale else found
