"""A gated chain in a file: every group of channels is a branch.

Kernel by kernel: what comes in is a whole map, or the groups of a masked one, and so is
what goes out. A group that is used once is computed where it is used, in one branch with
its share of the next kernel; one that several groups read is a branch of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate.cost.cost_row import default_group_size, executed_group_size
from keras_dyngate.export.lowering.steps import (
    Kernel,
    Step,
    Weigh,
    again,
    compiled,
    rounded,
    run_steps,
    zero_to_one,
)
from keras_dyngate.layers.dynamic_layer import Decision
from keras_dyngate.layers.links import shape_after


@dataclasses.dataclass
class _Group:
    """One group of the channels of a masked zone.

    Attributes:
        flag: bool `[]`: whether it runs.
        cut: Its channels.
        make: Its map, computed where it is called.
    """

    flag: Any
    cut: slice
    make: Callable[[], Any]


@dataclasses.dataclass
class _Part:
    """A kernel that mixes, and what follows up to the next one.

    Attributes:
        kernel: With a normalization right after it folded in.
        rest: What treats its channels one by one, up to their mask.
        weigh: A squeeze-and-excite after it.
        tail: What treats channels one by one after that.
        product: Shape of what the kernel puts out.
        masked: Of what the mask is for.
        handed: Of what the next kernel takes.
    """

    kernel: Kernel
    rest: list[Step]
    weigh: Weigh | None
    tail: list[Step]
    product: tuple[int, ...]
    masked: tuple[int, ...]
    handed: tuple[int, ...]


@dataclasses.dataclass
class _Mask:
    """A decision about channels, and the groups that a file runs for it."""

    decision: Decision
    size: int
    macs: int = 0  # per group, of kernels that it alone runs
    parameters: int = 0

    @property
    def groups(self) -> int:
        return self.decision.channels // self.size

    @property
    def cuts(self) -> list[slice]:
        return [slice(g * self.size, (g + 1) * self.size) for g in range(self.groups)]


def _group_size(decision: Decision, wanted: int | None) -> int:
    if wanted is None:
        return default_group_size(decision.channels, decision.groups)
    return executed_group_size(decision.channels, decision.groups, wanted)


class _Chain:
    """One chain being lowered."""

    def __init__(self, chain: Any, x: Any, tools: Any) -> None:
        self.chain, self.x, self.tools = chain, x, tools
        self.worn = chain.worn()
        links = self.worn.links
        zones = chain.zones(links)
        shapes = [tuple(x.shape)]
        for link in links:
            shapes.append(shape_after(link, shapes[-1]))
        starts = [zones[0].start, *(zone.stop for zone in zones)]
        masks = [*(zone.mask for zone in zones), len(links)]
        ends = [*starts[1:], len(links)]
        self.before = compiled(links[: starts[0]])
        self.parts: list[_Part] = []
        for start, mask, end in zip(starts, masks, ends, strict=True):
            # What a kernel does to each channel first is for those that come in.
            first, kernel, rest = _parted(compiled(links[start:mask]))
            if first and self.parts:
                into = self.parts[-1]
                into.tail += first
                into.handed = (*shapes[start + 1][:-1], into.handed[-1])
            elif first:
                self.before += first
            tail = compiled(links[mask:end])
            weigh = tail[0] if tail and isinstance(tail[0], Weigh) else None
            tail = tail if weigh is None else tail[1:]
            product = (*shapes[start + 1][:-1], kernel.weight.shape[-1])
            shape = shapes[mask], shapes[end]
            self.parts.append(_Part(kernel, rest, weigh, tail, product, *shape))
        self.rows = chain.cost_rows(shapes[0])
        self.masks: dict[int, _Mask] = {}  # by the kernel that puts the channels out
        if chain.channel_gate is not None and not tools.owner.ungated:
            for zone, item in zip(chain.masked, chain.decisions(), strict=False):
                size = _group_size(item, tools.owner.group_size)
                self.masks[zone] = _Mask(item, size)
        for zone, shares, sums in chain.dress.partial() if chain.dress else ():
            self.parts[zone + 1].kernel.rounds = shares.constant, sums.constant
        self._account()

    def _account(self) -> None:
        """What each mask's branches hold: a kernel counts for the last of its masks."""
        for row in self.rows:
            keys = [gating.key for gating in row.gatings]
            for mask in reversed(self.masks.values()):
                if mask.decision.key in keys:
                    mask.macs += row.macs // mask.groups
                    break
        for index, part in enumerate(self.parts):
            out, into = self.masks.get(index), self.masks.get(index - 1)
            last = out or into
            if last is not None:
                last.parameters += part.kernel.weight.size // last.groups
            if out is not None:
                bias = part.kernel.bias
                shifts = 0 if bias is None else bias.size
                shifts += sum(step.parameters for step in (*part.rest, *part.tail))
                out.parameters += shifts // out.groups

    def lower(self) -> Any:
        chain, tools = self.chain, self.tools
        start, links = None, self.worn.shortcut
        if links is not None:
            start = run_steps(compiled(links), self.x)
        sizes = {mask.size for mask in self.masks.values()}
        for mask in self.masks.values():
            same = f"{chain.name}/{mask.decision.key}" if len(sizes) > 1 else chain.name
            tools.owner.group_sizes[same] = mask.size
        if chain.layer_gate is None or tools.owner.ungated:
            return self.gated(start, None, tools)
        return self.skippable(start)

    def skippable(self, start: Any) -> Any:
        """The whole chain as a branch: its channel controller is inside too."""
        chain, tools = self.chain, self.tools
        score = tools.score(chain.layer_gate, self.x)
        first = len(tools.owner.branches)

        def run(inside: Any) -> Any:
            hard = chain.layer_gate.binary
            self.x = again(self.x)
            scale = None if hard else tools.forced_open(score)
            return self.gated(None if start is None else again(start), scale, inside)

        def skip() -> Any:
            return self.after(
                tf.zeros(self.parts[-1].masked) if start is None else start
            )

        y = tools.skippable("layer", score, run, skip)
        ends = compiled(self.worn.after) or [*self.parts[-1].rest, *self.parts[-1].tail]
        y = rounded(ends, y)
        steps = [
            step
            for part in self.parts
            for step in (part.kernel, *part.rest, *part.tail)
        ]
        name = f"{chain.name}/layer"
        macs = sum(row.macs for row in self.rows if row.is_under(name))
        size = sum(step.parameters for step in steps)
        tools.note("layer", max(chain.widths()), macs, size, before=first)
        return y

    def after(self, y: Any) -> Any:
        """What follows the sum."""
        return run_steps(compiled(self.worn.after), y)

    def gated(self, start: Any, scale: Any, tools: Any) -> Any:
        """The chain under its masks, added to `start`; `scale` is a layer's score."""
        end = self.parts[-1]
        if scale is not None:
            scale = tf.reshape(scale, [1] * len(end.masked))
        # A score that the last mask's factors take in needs no product of its own.
        # A squeeze-and-excite between the two would see it in its means.
        taken = bool(self.masks) and max(self.masks) == len(self.parts) - 2
        taken = taken and not end.rest and self.parts[-2].weigh is None
        taken = taken and self.worn.scaled is None
        flags, factors = self.asked(scale if taken else None, tools)
        # In float the sum starts from the shortcut. In int8 it has a scale of its own,
        # finer than the shortcut's, and the two are added once, at the end.
        apart = tools.force is not None or start is None or not taken
        y = self.through(None if apart else start, flags, factors, tools)
        if end.kernel.bias is not None:
            shift = end.kernel.bias
            y = y + (shift * scale if taken and scale is not None else shift)
        y = run_steps(end.rest, y)
        if scale is not None and not taken:
            y = y * scale
            y = y if self.worn.scaled is None else self.worn.scaled.constant(y)
        if apart and start is not None:
            y = start + y
        return self.after(y)

    def asked(self, scale: Any, tools: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        """By mask, of each group whether it runs, and what its channels are to take."""
        flags: dict[int, Any] = {}
        factors: dict[int, Any] = {}
        if not self.masks:
            return flags, factors
        score = tools.score(self.chain.channel_gate, self.x)
        for index, mask in self.masks.items():
            units = mask.decision.units
            part = score if len(self.masks) == 1 else score[:, units]
            opened = tools.is_open(part, mask.groups)
            tools.tell(mask.decision.key, part, opened)
            flags[index] = tf.unstack(opened)
            last = index == max(self.masks)
            factors[index] = self.factors(mask, part, scale if last else None, tools)
        return flags, factors

    def factors(self, mask: _Mask, score: Any, scale: Any, tools: Any) -> list[Any]:
        """Per group what its channels are multiplied by, `[1, ..., size]`, or None.

        A hard gate with one unit per group needs no factor: its branch ran.
        """
        hard = mask.decision.controller.binary
        if hard and score.shape[-1] == mask.groups and scale is None:
            return [None] * mask.groups
        score = tools.forced_open(tf.cast(score, tf.float32))
        repeats = mask.decision.channels // score.shape[-1]
        spread = tf.reshape(score, [mask.groups, -1, 1]) * np.ones([1, 1, repeats], "f")
        if scale is not None:
            spread = spread * tf.reshape(scale, [1, 1, 1])
        ones = [1] * (len(self.parts[-1].masked) - 1)
        return tf.unstack(tf.reshape(spread, [mask.groups, *ones, mask.size]))

    def through(self, total: Any, flags: Any, factors: Any, tools: Any) -> Any:
        """`total` (None: 0) and what comes out of the last kernel, its bias apart."""
        whole = run_steps(self.before, self.x)
        groups: list[_Group] = []
        for index, part in enumerate(self.parts):
            mask = self.masks.get(index)
            if mask is not None:
                if groups:  # several read each
                    groups = self.branches_of(groups, self.parts[index - 1], tools)
                makes = self.makes(part, mask, whole, groups, factors[index], tools)
                triples = zip(flags[index], mask.cuts, makes, strict=True)
                groups = [_Group(*triple) for triple in triples]
                if part.weigh is not None:
                    groups = self.weighed(part, groups, tools)
                for g in range(mask.groups):
                    name = f"{mask.decision.key}[{g}]"
                    tools.note(name, mask.size, mask.macs, mask.parameters)
            elif index < len(self.parts) - 1:
                y = self.product(part, whole, groups, None, tools)
                y = run_steps(part.rest, part.kernel.shifted(y))
                y = y if part.weigh is None else part.weigh.run(y)
                whole, groups = run_steps(part.tail, y), []
        return self.product(self.parts[-1], whole, groups, total, tools)

    def branches_of(
        self, groups: list[_Group], before: _Part, tools: Any
    ) -> list[_Group]:
        """Groups that several others read: each a branch of its own, or zeros."""
        shape = before.handed
        size = groups[0].cut.stop - groups[0].cut.start
        zeros = tf.zeros([*shape[:-1], size])
        found = []
        for group in groups:
            h = tools.when(group.flag, group.make, zeros)
            h = rounded([*before.rest, *before.tail], h)
            found.append(_Group(group.flag, group.cut, _held(h)))
        return found

    def weighed(self, part: _Part, groups: list[_Group], tools: Any) -> list[_Group]:
        """Groups, each times the factors that all open ones' means make."""
        size = groups[0].cut.stop - groups[0].cut.start
        nothing = tf.zeros([*part.masked[:-1], size]), tf.zeros([1, size])
        found, weigh = [], part.weigh
        assert weigh is not None
        for group in groups:

            def run(group: _Group = group) -> Any:
                h = group.make()
                return h, weigh.means(h)

            h, means = tools.when(group.flag, run, nothing)
            found.append((rounded(part.rest, h), means))
        scale = weigh.scale(tf.concat([means for _, means in found], -1))

        def make(h: Any, factor: Any, cut: slice) -> Any:
            return run_steps(part.tail, again(h) * again(factor), cut)

        def then(h: Any, cut: slice) -> Callable[[], Any]:
            return functools.partial(make, h, scale[..., cut], cut)

        return [
            _Group(group.flag, group.cut, then(h, group.cut))
            for group, (h, _) in zip(groups, found, strict=True)
        ]

    def makes(
        self,
        part: _Part,
        mask: _Mask,
        whole: Any,
        sources: list[_Group],
        factors: list[Any],
        tools: Any,
    ) -> list[Callable[[], Any]]:
        """What computes each group of a masked zone, from a map or from groups of it."""
        empty = tf.zeros([*part.product[:-1], mask.size]) if sources else None

        def make(cut: slice, factor: Any) -> Any:
            if sources:
                y = _sum(part.kernel, sources, cut, empty, True, tools)
            else:
                y = part.kernel.product(again(whole), outer=cut)
            y = run_steps(part.rest, part.kernel.shifted(y, cut), cut)
            if factor is not None:
                if self.chain.dress is None:
                    y = y * factor
                elif mask.decision.controller.binary:  # the product has y's steps
                    y = rounded(part.rest, y * zero_to_one(factor))
                else:  # its own follow
                    y = y * factor
            return y if part.weigh is not None else run_steps(part.tail, y, cut)

        pairs = zip(mask.cuts, factors, strict=True)
        return [functools.partial(make, *pair) for pair in pairs]

    def product(
        self, part: _Part, whole: Any, groups: list[_Group], total: Any, tools: Any
    ) -> Any:
        """`total` and what a kernel makes of a map, or of the open groups of one."""
        if groups:
            zero = total is None
            start = tf.zeros(part.product) if zero else total
            return _sum(part.kernel, groups, slice(None), start, zero, tools)
        y = part.kernel.product(whole)
        return y if total is None else total + y


def _parted(steps: list[Step]) -> tuple[list[Step], Kernel, list[Step]]:
    """Steps before the kernel that mixes, it, and those after it."""
    places = [n for n, step in enumerate(steps) if isinstance(step, Kernel)]
    (place,) = places
    kernel = steps[place]
    assert isinstance(kernel, Kernel)
    return steps[:place], kernel, steps[place + 1 :]


def _held(x: Any) -> Callable[[], Any]:
    return lambda: again(x)


def _sum(
    kernel: Kernel,
    groups: list[_Group],
    outer: slice,
    total: Any,
    zero: bool,
    tools: Any,
) -> Any:
    """`total`, which may be `zero`, and what a kernel makes of the open groups."""
    round_share, round_sum = kernel.rounds
    for group in groups:

        def run(total: Any = total, group: _Group = group) -> Any:
            part = kernel.product(group.make(), group.cut, outer)
            if zero and group.cut.start == 0:
                return round_sum(part)
            return round_sum(again(total) + round_share(part))

        total = round_sum(tools.when(group.flag, run, total))
    return total


def lower_chain(chain: Any, x: Any, tools: Any) -> Any:
    """The conditional form of a `GatedChain`, for one input."""
    return _Chain(chain, x, tools).lower()
