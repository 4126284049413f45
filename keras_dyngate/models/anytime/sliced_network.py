"""The network of sliced nets: every layer in K slices, later ones read earlier ones.

Slice j is the same in every sub-network that has it: the step from k to k + 1 computes
slice k + 1 alone, from what earlier steps have left.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_dyngate.layers import (
    NestedDense,
    SlicedBatchNormalization,
    SlicedConv2D,
    SlicedDense,
)
from keras_dyngate.models.anytime.config import AnytimeConfig
from keras_dyngate.models.anytime.network import Carried, Network, New, initializer

Join = Callable[[str, Any], Any]


def _nothing(name: str, j: int) -> Any:
    raise KeyError(f"{name}_{j}")


def _joined(name: str, x: Any, first: int, carried: Carried) -> Any:
    """Slices 1 to `last`, of which `x` are `first` to `last`."""
    earlier = [carried(name, j) for j in range(1, first)]
    return ops.concatenate([*earlier, x], axis=-1) if earlier else x


class _Block:
    """Pre-activation block: BN, ReLU and a convolution, two or three times.

    Args:
        name: Prefix of the layers' names.
        width: Channels in and out.
        convs: (filters, kernel size, groups) of each convolution.
        slices, execution: See `SlicedConv2D`.
    """

    def __init__(
        self,
        name: str,
        width: int,
        convs: list[tuple[int, int, int]],
        slices: int,
        execution: str,
    ) -> None:
        self.layers = []
        channels = width
        for index, (filters, size, groups) in enumerate(convs, 1):
            norm = SlicedBatchNormalization(
                slices=slices, epsilon=1e-5, momentum=0.9, name=f"{name}_bn{index}"
            )
            conv = SlicedConv2D(
                filters,
                size,
                slices=slices,
                execution=execution,
                groups=groups,
                padding="same",
                use_bias=False,
                kernel_initializer=initializer(),
                name=f"{name}_conv{index}",
            )
            for layer in (norm, conv):
                layer.build((None, None, None, channels))
            self.layers.append((norm, conv))
            channels = filters

    def __call__(self, x: Any, join: Join, first: int, last: int) -> Any:
        u = x
        for norm, conv in self.layers:
            u = ops.relu(norm(u, first=first, last=last))
            if conv.groups == 1:  # reads earlier slices as well
                u = join(conv.name, u)
            u = conv(u, first=first, last=last)
        return x + u


class SlicedNetwork(Network):
    """Residual nets of slices, with grouped bottlenecks or plain blocks."""

    def __init__(self, config: AnytimeConfig) -> None:
        super().__init__(config)
        slices, execution = config.subnetworks, config.execution
        self.conv1 = SlicedConv2D(
            config.stem_width,
            slices=slices,
            sliced_inputs=False,
            execution=execution,
            **self.stem_options,
        )
        self.conv1.build((None, None, None, config.channels))
        self.stages = []
        for stage, blocks in enumerate(config.blocks):
            width = self.width_at(stage)
            convs = [(width, 3, 1), (width, 3, 1)]
            if config.family == "sliced_resnext":
                groups = config.cardinality or 1
                inner = groups * (config.branch_width or 1) * 2**stage
                convs = [(inner, 1, 1), (inner, 3, groups), (width, 1, 1)]
            names = [f"stage{stage + 1}_block{i}" for i in range(1, blocks + 1)]
            self.stages.append(
                [_Block(name, width, convs, slices, execution) for name in names]
            )
        self.final_norm = SlicedBatchNormalization(
            slices=slices, epsilon=1e-5, momentum=0.9, name="final_bn"
        )
        self.final_norm.build((None, None, None, width))
        heads = _SharedHeads if config.heads == "shared" else _PrivateHeads
        self.head = heads(config, width)

    @property
    def pieces(self) -> int:
        return self.config.subnetworks

    def _pooled(
        self, image: Any, first: int, last: int, carried: Carried = _nothing
    ) -> tuple[Any, New]:
        """Pooled features of slices `first..last`, and all that is worth keeping."""
        new: New = {}

        def join(name: str, x: Any) -> Any:
            new[name] = x
            return _joined(name, x, first, carried)

        span = {"first": first, "last": last}
        x = self.stem(image, self.conv1, **span)
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.widen(x, stage)
            for block in blocks:
                x = block(x, join, **span)
        x = ops.relu(self.final_norm(x, **span))
        return ops.mean(x, axis=(1, 2)), new

    def every(self, image: Any) -> list[Any]:
        pooled, _ = self._pooled(image, 1, self.pieces)
        return self.head.every(pooled)

    def at(self, k: int, image: Any) -> Any:
        pooled, _ = self._pooled(image, 1, k)
        return self.head.at(k, pooled)

    def step(self, k: int, image: Any, carried: Carried) -> tuple[Any, New]:
        pooled, new = self._pooled(image, k, k, carried)
        scores, more = self.head.step(k, pooled, carried)
        return scores, {**new, **more} if k < self.pieces else {}


class _PrivateHeads:
    """A linear layer per sub-network, on all the slices it has."""

    def __init__(self, config: AnytimeConfig, features: int) -> None:
        self.units = config.levels
        self.dense = SlicedDense(
            config.levels,
            slices=config.subnetworks,
            execution=config.execution,
            kernel_initializer=initializer(),
            dtype="float32",
            name="heads",
        )
        self.dense.build((None, features))

    def every(self, pooled: Any) -> list[Any]:
        scores, found, at = self.dense(pooled, first=1, last=len(self.units)), [], 0
        for units in self.units:
            found.append(scores[:, at : at + units])
            at += units
        return found

    def at(self, k: int, pooled: Any) -> Any:
        return self.dense(pooled, first=k, last=k)

    def step(self, k: int, pooled: Any, carried: Carried) -> tuple[Any, New]:
        return self.at(k, _joined("pooled", pooled, k, carried)), {"pooled": pooled}


class _SharedHeads:
    """One linear layer per level of labels; sub-network k uses a prefix of its rows."""

    def __init__(self, config: AnytimeConfig, features: int) -> None:
        self.coarse, self.slices = config.coarse_heads, config.subnetworks
        self.part = features // config.subnetworks
        self.dense = {
            level: NestedDense(
                units,
                slices=config.subnetworks,
                kernel_initializer=initializer(),
                dtype="float32",
                name=f"{level}_head",
            )
            for level, units in (
                ("coarse", config.levels[0]),
                ("fine", config.levels[-1]),
            )
            if level == self._level(1) or level == self._level(self.slices)
        }
        for dense in self.dense.values():
            dense.build((None, features))

    def _level(self, k: int) -> str:
        return "coarse" if k <= self.coarse else "fine"

    def every(self, pooled: Any) -> list[Any]:
        found: list[Any] = []
        for k in range(1, self.slices + 1):
            if k == 1 or self._level(k) != self._level(k - 1):
                found.append(self.at(k, pooled[:, : k * self.part]))
                continue
            part = pooled[:, (k - 1) * self.part : k * self.part]
            dense = self.dense[self._level(k)]
            found.append(dense(part, found[-1], first=k, last=k))
        return found

    def at(self, k: int, pooled: Any) -> Any:
        return self.dense[self._level(k)](pooled, first=1, last=k)

    def step(self, k: int, pooled: Any, carried: Carried) -> tuple[Any, New]:
        if k > 1 and self._level(k) == self._level(k - 1):
            dense = self.dense[self._level(k)]
            scores = dense(pooled, carried("scores", k - 1), first=k, last=k)
        else:
            scores = self.at(k, _joined("pooled", pooled, k, carried))
        new = {}
        if k <= self.coarse < self.slices:  # the first fine head reads them all
            new["pooled"] = pooled
        if k < self.slices and self._level(k + 1) == self._level(k):
            new["scores"] = scores
        return scores, new
