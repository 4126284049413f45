"""The conditional form of gated blocks: one image, and skipped work is not done.

A group of channels is a branch of a builtin `IF`. Its weights are constants made inside
the branch, so that each branch is an ordinary fused convolution; BN is folded by hand
into the slices, and the last shift is added after all groups, where it fuses with the
ReLU. TensorFlow only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate.cost.mac_row import executed_group_size
from keras_dyngate.layers import GatedBlock
from keras_dyngate.layers.gated_block import pad_for

MIN_GROUP = 16  # channels; thinner convolutions waste the kernels' lanes


@dataclasses.dataclass(frozen=True)
class Branch:
    """One conditional branch of a file.

    Attributes:
        name: Decision and group: "stage1_block1/channel[0]".
        channels: Channels the branch gates; for a layer, all of the block's.
        macs: MACs that only this branch runs, when it and all inside it are open.
        parameters: Weights and biases stored inside it, inner branches included.
    """

    name: str
    channels: int
    macs: int
    parameters: int


@dataclasses.dataclass
class Lowering:
    """Lowers blocks while a model is traced, and gathers what the file tells.

    Attributes:
        group_size: Channels per branch, or None for a default per block.
        forced: int32 `[blocks]` tensor, 1 opens all of a block; None outside int8.
        decisions: Scores by name, `[1, units]`: float, or bool of a hard gate.
        executed: (bool or int32 vector of flags, MACs of each) pairs; their products sum
            up to what was executed conditionally.
        branches: What each branch holds.
        group_sizes: Channels per branch, by block.
    """

    group_size: int | None = None
    forced: Any = None
    decisions: dict[str, Any] = dataclasses.field(default_factory=dict)
    executed: list[tuple[Any, int]] = dataclasses.field(default_factory=list)
    branches: list[Branch] = dataclasses.field(default_factory=list)
    group_sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    _seen: set[str] = dataclasses.field(default_factory=set)

    def child(self) -> "Lowering":
        """For a branch: decisions and flags of its own, all else shared."""
        return dataclasses.replace(self, decisions={}, executed=[])

    def __call__(self, layer: Any, x: Any) -> Any:
        if not isinstance(layer, GatedBlock):
            raise NotImplementedError(
                f"There is no conditional form of {type(layer).__name__} yet. "
                f"Received: layer {layer.name!r}"
            )
        if layer.name in self._seen:
            raise ValueError(
                "A block must be called once, and have a name of its own, to be "
                f"exported. Received: a second call of {layer.name!r}"
            )
        force = None
        if self.forced is not None:
            force = tf.greater(self.forced[len(self._seen)], 0)
        self._seen.add(layer.name)
        return _Block(self, layer, x, force).lower()


def default_group_size(filters: int, own: int) -> int:
    """Channels per branch where none are asked for.

    The controller's own groups if these have 16 channels or more, else the smallest
    multiple of them that has and divides the filters (design of this library).
    """
    sizes = [n for n in range(own, filters + 1, own) if filters % n == 0]
    return next((n for n in sizes if n >= MIN_GROUP), filters)


def value(variable: Any) -> np.ndarray:
    """A variable's value, also while a function is being traced."""
    with tf.init_scope():
        return np.asarray(variable.numpy(), "float32")


def as_constants(layer: keras.Layer) -> keras.StatelessScope:
    """A scope, to be opened inside a branch, in which a layer's weights are constants."""
    return keras.StatelessScope(
        state_mapping=[(v, tf.constant(value(v))) for v in layer.weights]
    )


def folded(conv: Any, norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution with the following BN folded in."""
    scale = value(norm.gamma) / np.sqrt(value(norm.moving_variance) + norm.epsilon)
    shift = value(norm.beta) - value(norm.moving_mean) * scale
    return value(conv.kernel) * scale, shift


def conv2d(
    x: Any,
    kernel: np.ndarray,
    strides: int = 1,
    padding: str = "SAME",
    dilations: int = 1,
) -> Any:
    """A convolution by a constant made here, in the branch that calls it."""
    constant = tf.constant(np.ascontiguousarray(kernel))
    return tf.nn.conv2d(x, constant, strides, padding, dilations=dilations)


def _when(predicate: Any, run: Callable[[], Any], otherwise: Any) -> Any:
    """`run()` if the predicate holds, else `otherwise` handed through."""
    return tf.cond(
        predicate, run, lambda: tf.nest.map_structure(tf.identity, otherwise)
    )


class _Block:
    """One block being lowered."""

    def __init__(self, owner: Lowering, block: Any, x: Any, force: Any) -> None:
        self.owner, self.block, self.x, self.force = owner, block, x, force
        self.weights = [
            folded(*pair) for pair in zip(block.convs, block.norms, strict=True)
        ]
        rows = block.mac_rows(tuple(x.shape))
        self.macs = {row.kernel: row.macs for row in rows}
        self.under_layer_only = sum(
            row.macs for row in rows if [g.key for g in row.gatings] == ["layer"]
        )
        self.size = block.inner_filters
        if block.channel_gate is not None:
            own = block.group_size
            self.size = (
                default_group_size(block.inner_filters, own)
                if owner.group_size is None
                else executed_group_size(
                    block.inner_filters, own_units(block), owner.group_size
                )
            )
            owner.group_sizes[block.name] = self.size
        self.groups = block.inner_filters // self.size

    def lower(self) -> Any:
        shortcut = self.shortcut()
        if self.block.layer_gate is None:
            y, decisions, executed = self.gated(shortcut, None)
        else:
            y, decisions, executed = self.skippable(shortcut)
        for key, value in decisions.items():
            self.owner.decisions[f"{self.block.name}/{key}"] = value
        self.owner.executed += executed
        return y

    def shortcut(self) -> Any:
        if self.block.shortcut_conv is None:
            return self.block.apply_shortcut(self.x)
        kernel, shift = folded(self.block.shortcut_conv, self.block.shortcut_norm)
        return conv2d(self.x, kernel, self.block.strides, "VALID") + shift

    def skippable(self, shortcut: Any) -> tuple[Any, dict[str, Any], list[Any]]:
        """The whole block as a branch: its channel controller is inside too."""
        gate = self.block.layer_gate
        score = self.score(gate, self.x)
        runs = tf.reshape(self.is_open(score, 1), [])
        costs: list[int] = []
        start = len(self.owner.branches)

        def run() -> Any:
            y, decisions, executed = self.gated(
                shortcut, None if gate.binary else self.forced_open(score)
            )
            costs.extend(cost for _, cost in executed)
            return y, decisions, [flags for flags, _ in executed]

        def skip() -> Any:
            decisions, flags = self.nothing_decided()
            return tf.nn.relu(shortcut), decisions, flags

        y, decisions, flags = tf.cond(runs, run, skip)
        decisions["layer"] = score
        executed = list(zip(flags, costs, strict=True))
        executed.append((tf.reshape(runs, [1]), self.under_layer_only))
        self.owner.branches.insert(
            start,
            Branch(
                f"{self.block.name}/layer",
                self.block.inner_filters,
                sum(self.macs[conv.name] for conv in self.block.convs)
                + self.macs.get("channel_gate", 0),
                sum(kernel.size + shift.size for kernel, shift in self.weights),
            ),
        )
        return y, decisions, executed

    def nothing_decided(self) -> tuple[dict[str, Any], list[Any]]:
        """What a skipped block says of its channels: zeros of the right shapes."""
        if self.block.channel_gate is None:
            return {}, []
        masks = self.block.masks
        hard = self.block.channel_gate.binary
        scores = tf.zeros([1, own_units(self.block)], tf.bool if hard else tf.float32)
        if masks == 1:
            flags = [tf.zeros([self.groups], tf.bool)]
        else:
            flags = [tf.zeros([n], tf.int32) for n in (self.groups, self.groups, 1)]
        return dict.fromkeys(self.block.channel_keys, scores), flags

    def score(self, gate: Any, x: Any) -> Any:
        """`[1, units]`: float scores, or bools of a hard gate, which int8 leaves alone."""
        with as_constants(gate):
            score = gate(x, training=False).score
        return tf.cast(score, tf.bool) if gate.binary else score

    def is_open(self, scores: Any, groups: int) -> Any:
        """bool `[groups]`: a group runs when any of its units is open, or if forced."""
        is_open = scores if scores.dtype == tf.bool else scores > 0
        if scores.shape[-1] > groups:
            is_open = tf.reduce_any(tf.reshape(is_open, [groups, -1]), axis=1)
        is_open = tf.reshape(is_open, [groups])
        return is_open if self.force is None else tf.logical_or(is_open, self.force)

    def forced_open(self, score: Any) -> Any:
        """What to multiply by: 1 where calibration forces a unit open."""
        if self.force is None:
            return score
        return tf.maximum(score, tf.cast(self.force, tf.float32))

    def gated(self, acc: Any, scale: Any) -> tuple[Any, dict[str, Any], list[Any]]:
        """The branch under channel gates, added to `acc`; `scale` is a layer's score."""
        gate = self.block.channel_gate
        shift = self.weights[-1][1]
        if scale is not None:
            scale = tf.reshape(scale, [1, 1, 1, 1])
        if gate is None:
            h = self.x
            for index, (kernel, bias) in enumerate(self.weights[:-1]):
                h = tf.nn.relu(self.conv(index, self.padded(index, h), kernel) + bias)
            h = self.conv(-1, h, self.weights[-1][0]) + shift
            return tf.nn.relu(acc + (h if scale is None else h * scale)), {}, []
        if scale is not None:
            shift = shift * scale
        masks = self.block.masks
        score, units = self.score(gate, self.x), own_units(self.block)
        scores = [score[:, i * units : (i + 1) * units] for i in range(masks)]
        opened = [self.is_open(score, self.groups) for score in scores]
        factors = [
            self.factors(score, scale if i == masks - 1 else None)
            for i, score in enumerate(scores)
        ]
        decisions = dict(zip(self.block.channel_keys, scores, strict=True))
        # In float the sum starts from the shortcut. In int8 it has a scale of its own,
        # finer than the shortcut's, and the two are added once, at the end.
        apart = self.force is not None
        total = tf.zeros(acc.shape) if apart else acc
        if masks == 2:
            total = self.bottleneck(total, opened, factors, apart)
        else:
            total = self.one_mask(total, opened[0], factors[0], apart)
        y = acc + (total + shift) if apart else total + shift
        return tf.nn.relu(y), decisions, self.executed(opened)

    def factors(self, score: Any, scale: Any) -> list[Any]:
        """Per group what its channels are multiplied by, `[1, 1, 1, size]`, or None.

        A hard gate with one unit per group needs no factor: its branch ran.
        """
        gate = self.block.channel_gate
        if gate.binary and score.shape[-1] == self.groups and scale is None:
            return [None] * self.groups
        score = self.forced_open(tf.cast(score, tf.float32))
        repeats = self.block.inner_filters // score.shape[-1]
        spread = tf.reshape(score, [self.groups, -1, 1]) * np.ones([1, 1, repeats], "f")
        if scale is not None:
            spread = spread * scale[0]
        return tf.unstack(tf.reshape(spread, [self.groups, 1, 1, 1, self.size]))

    def padded(self, index: int, x: Any) -> Any:
        """`x` with the zeros around it that convolution `index` wants to find."""
        return pad_for(self.block.convs[index], x)

    def conv(self, index: int, x: Any, kernel: np.ndarray) -> Any:
        """Convolution `index` of the branch, or a slice of it, on a padded input."""
        conv = self.block.convs[index]
        (strides, _), (dilations, _) = conv.strides, conv.dilation_rate
        return conv2d(x, kernel, strides, conv.padding.upper(), dilations)

    @property
    def gated_macs(self) -> tuple[int, int]:
        """MACs of the convolutions around a single mask."""
        before, after = self.block.convs[-2:]
        return self.macs[before.name], self.macs[after.name]

    def slices(self) -> list[slice]:
        return [slice(g * self.size, (g + 1) * self.size) for g in range(self.groups)]

    def one_mask(self, acc: Any, opened: Any, factors: list[Any], zero: bool) -> Any:
        """`acc` and what the open groups add to it; `zero` says that it starts at 0.

        The mask stands before the last convolution: a group is a slice of the outputs of
        the one before and of the inputs of the last. Any earlier one runs whole.
        """
        *earlier, (kernel1, bias1), (kernel2, _) = self.weights
        x = self.padded(0, self.x)
        for index, (kernel, bias) in enumerate(earlier):
            h = tf.nn.relu(self.conv(index, x, kernel) + bias)
            x = self.padded(index + 1, h)
        first = len(earlier)
        flags = tf.unstack(opened)
        cost = sum(self.gated_macs) // self.groups
        for g, cut in enumerate(self.slices()):

            def run(acc: Any = acc, cut: slice = cut, factor: Any = factors[g]) -> Any:
                h = tf.nn.relu(self.conv(first, x, kernel1[..., cut]) + bias1[cut])
                h = h if factor is None else h * factor
                part = self.conv(-1, h, kernel2[:, :, cut])
                return part if zero and cut.start == 0 else acc + part

            acc = _when(flags[g], run, acc)
            parameters = kernel1[..., cut].size + kernel2[:, :, cut].size + self.size
            self.note("channel", g, cost, parameters)
        return acc

    def bottleneck(
        self, acc: Any, opened: list[Any], factors: list[list[Any]], zero: bool
    ) -> Any:
        """Pairs of groups: the 3x3 of (a, b) runs when both masks open its two ends."""
        (kernel1, bias1), (kernel2, bias2), (kernel3, _) = self.weights
        first, second = (tf.unstack(flags) for flags in opened)
        cuts = self.slices()
        zeros1 = self.padded(1, tf.zeros([1, *self.x.shape[1:3], self.size]))
        zeros2 = tf.zeros([1, *acc.shape[1:3], self.size])
        reduced = []
        for a, cut in enumerate(cuts):

            def reduce(cut: slice = cut, factor: Any = factors[0][a]) -> Any:
                h = tf.nn.relu(conv2d(self.x, kernel1[..., cut]) + bias1[cut])
                h = h if factor is None else h * factor
                return self.padded(1, h)

            reduced.append(_when(first[a], reduce, zeros1))
            cost = self.macs["conv1"] // self.groups
            self.note("channel", a, cost, kernel1[..., cut].size + self.size)
        for b, cut in enumerate(cuts):

            def expand(
                acc: Any = acc, cut: slice = cut, factor: Any = factors[1][b]
            ) -> Any:
                total = zeros2
                for a, source in enumerate(cuts):
                    kernel = kernel2[:, :, source, cut]

                    def pair(
                        a: int = a, kernel: Any = kernel, total: Any = total
                    ) -> Any:
                        part = self.conv(1, reduced[a], kernel)
                        return part if a == 0 else total + part

                    total = _when(first[a], pair, total)
                h = tf.nn.relu(total + bias2[cut])
                h = h if factor is None else h * factor
                part = conv2d(h, kernel3[:, :, cut])
                return part if zero and cut.start == 0 else acc + part

            acc = _when(second[b], expand, acc)
            self.note(
                "channel_2",
                b,
                (self.macs["conv2"] + self.macs["conv3"]) // self.groups,
                kernel2[..., cut].size + kernel3[:, :, cut].size + self.size,
            )
        return acc

    def executed(self, opened: list[Any]) -> list[tuple[Any, int]]:
        """Flags of what ran, and the MACs of each."""
        n = self.groups
        if len(opened) == 1:
            return [(opened[0], sum(self.gated_macs) // n)]
        flags = [tf.cast(item, tf.int32) for item in opened]
        both = tf.reshape(tf.reduce_sum(flags[0]) * tf.reduce_sum(flags[1]), [1])
        return [
            (flags[0], self.macs["conv1"] // n),
            (flags[1], self.macs["conv3"] // n),
            (both, self.macs["conv2"] // n**2),
        ]

    def note(self, key: str, group: int, macs: int, parameters: int) -> None:
        name = f"{self.block.name}/{key}[{group}]"
        self.owner.branches.append(Branch(name, self.size, macs, parameters))


def own_units(block: GatedBlock) -> int:
    """Decisions per mask of a block's channel gate."""
    assert block.channel_gate is not None
    return block.channel_gate.units // block.masks
