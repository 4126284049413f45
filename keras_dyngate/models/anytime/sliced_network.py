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
Round = Callable[[str, Any], Any]


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
        self.name, self.layers = name, []
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

    def __call__(
        self, x: Any, join: Join, rounded: Round, first: int, last: int
    ) -> Any:
        u = x
        for norm, conv in self.layers:
            u = rounded(conv.name, ops.relu(norm(u, first=first, last=last)))
            if conv.groups == 1:  # reads earlier slices as well
                u = join(conv.name, u)
            u = conv(u, first=first, last=last)
        return rounded(f"{self.name}_sum", x + rounded(f"{self.name}_branch", u))


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
        self.head = heads(config, width, self.rounded)
        if config.quantized:
            self._round_kernels()

    def _round_kernels(self) -> None:
        from keras_dyngate.quantization.quantized_layer import rounded_slices

        convs = [conv for blocks in self.stages for b in blocks for _, conv in b.layers]
        for layer in (self.conv1, *convs, *self.head.linear):
            layer.kernel_quantizer = rounded_slices

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
                x = block(x, join, self.rounded, **span)
        x = self.rounded("final", ops.relu(self.final_norm(x, **span)))
        return self.rounded("pooled", ops.mean(x, axis=(1, 2))), new

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

    def __init__(self, config: AnytimeConfig, features: int, rounded: Round) -> None:
        self.units, self.rounded = config.levels, rounded
        self.dense = SlicedDense(
            config.levels,
            slices=config.subnetworks,
            execution=config.execution,
            kernel_initializer=initializer(),
            dtype="float32",
            name="heads",
        )
        self.dense.build((None, features))
        self.linear = [self.dense]

    def every(self, pooled: Any) -> list[Any]:
        scores = self.dense(pooled, first=1, last=len(self.units))
        scores, found, at = self.rounded("scores", scores), [], 0
        for units in self.units:
            found.append(scores[:, at : at + units])
            at += units
        return found

    def at(self, k: int, pooled: Any) -> Any:
        return self.rounded("scores", self.dense(pooled, first=k, last=k))

    def step(self, k: int, pooled: Any, carried: Carried) -> tuple[Any, New]:
        return self.at(k, _joined("pooled", pooled, k, carried)), {"pooled": pooled}


class _SharedHeads:
    """One linear layer per level of labels; sub-network k uses a prefix of its rows."""

    def __init__(self, config: AnytimeConfig, features: int, rounded: Round) -> None:
        self.coarse, self.slices = config.coarse_heads, config.subnetworks
        self.rounded, self.quantized = rounded, config.quantized
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
        self.linear = list(self.dense.values())
        for dense in self.linear:
            if self.quantized:
                from keras_dyngate.quantization import fake_quantize

                dense.share_range = fake_quantize.FakeQuantize(name="share_range")
            dense.build((None, features))

    def _level(self, k: int) -> str:
        return "coarse" if k <= self.coarse else "fine"

    def every(self, pooled: Any, last: int | None = None) -> list[Any]:
        found: list[Any] = []
        for k in range(1, (last or self.slices) + 1):
            if self._is_first(k):
                found.append(self._whole(k, pooled[:, : k * self.part]))
                continue
            part = pooled[:, (k - 1) * self.part : k * self.part]
            found.append(self._added(k, part, found[-1]))
        return found

    def at(self, k: int, pooled: Any) -> Any:
        # A sum that is rounded is so at each of its steps.
        return self.every(pooled, k)[-1] if self.quantized else self._whole(k, pooled)

    def _is_first(self, k: int) -> bool:
        """Whether sub-network k is the first that answers its level."""
        return k == 1 or self._level(k) != self._level(k - 1)

    def _whole(self, k: int, pooled: Any) -> Any:
        """Scores of sub-network k from all slices that it has."""
        scores = self.dense[self._level(k)](pooled, first=1, last=k)
        return self.rounded("scores", scores)

    def _added(self, k: int, pooled: Any, scores: Any) -> Any:
        """Scores with what slice k adds to those of the slices before it."""
        level = self._level(k)
        scores = self.dense[level](pooled, scores, first=k, last=k)
        return self.rounded("scores", scores)

    def step(self, k: int, pooled: Any, carried: Carried) -> tuple[Any, New]:
        if not self._is_first(k):
            scores = self._added(k, pooled, carried("scores", k - 1))
        else:
            scores = self._whole(k, _joined("pooled", pooled, k, carried))
        new = {}
        if k <= self.coarse < self.slices:  # the first fine head reads them all
            new["pooled"] = pooled
        if k < self.slices and self._level(k + 1) == self._level(k):
            new["scores"] = scores
        return scores, new
