"""The network of I-ResNeXt: convolutions are nested prefixes, all else is private.

Nothing but the stem's output is of use to a later sub-network.
"""

from typing import Any

import keras
from keras import ops

from keras_dyngate.layers import BatchNormalization, NestedConv2D
from keras_dyngate.models.anytime.config import AnytimeConfig
from keras_dyngate.models.anytime.network import Carried, Network, New, initializer


def batch_norm(name: str) -> keras.layers.BatchNormalization:
    return BatchNormalization(epsilon=1e-5, momentum=0.9, name=name)


class _Block:
    """Pre-activation bottleneck: 1x1, grouped 3x3, 1x1; a BN of each per sub-network."""

    def __init__(self, name: str, width: int, inner: int, groups: int, count: int):
        def conv(index: int, filters: int, size: int, nested: str, groups: int) -> Any:
            return NestedConv2D(
                filters,
                size,
                subnetworks=count,
                nested=nested,
                groups=groups,
                padding="same",
                use_bias=False,
                kernel_initializer=initializer(),
                name=f"{name}_conv{index}",
            )

        self.convs = [
            conv(1, inner, 1, "filters", 1),
            conv(2, inner, 3, "both", groups),
            conv(3, width, 1, "inputs", 1),
        ]
        self.convs[0].build((None, None, None, width))
        for wide in self.convs[1:]:
            wide.build((None, None, None, inner))
        self.norms = [
            [batch_norm(f"{name}_bn{i}_k{k}") for i in (1, 2, 3)]
            for k in range(1, count + 1)
        ]

    def __call__(self, x: Any, k: int) -> Any:
        u = x
        for norm, conv in zip(self.norms[k - 1], self.convs, strict=True):
            u = conv(ops.relu(norm(u)), k=k)
        return x + u


class InclusiveNetwork(Network):
    """K sub-networks that share the stem and prefixes of the convolutions' kernels."""

    def __init__(self, config: AnytimeConfig) -> None:
        super().__init__(config)
        count, groups = config.subnetworks, config.cardinality or 1
        self.conv1 = keras.layers.Conv2D(config.stem_width, **self.stem_options)
        self.stages = [
            [
                _Block(
                    f"stage{stage + 1}_block{index}",
                    self.width_at(stage),
                    groups * (config.branch_width or 1) * 2**stage,
                    groups,
                    count,
                )
                for index in range(1, blocks + 1)
            ]
            for stage, blocks in enumerate(config.blocks)
        ]
        self.final_norms = [batch_norm(f"final_bn_k{k}") for k in range(1, count + 1)]
        self.heads = [
            keras.layers.Dense(
                classes,
                kernel_initializer=initializer(),
                dtype="float32",
                name=f"head_{k}",
            )
            for k, classes in enumerate(config.levels, 1)
        ]

    @property
    def pieces(self) -> int:
        return 1

    def _from_stem(self, k: int, x: Any) -> Any:
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.widen(x, stage)
            for block in blocks:
                x = block(x, k)
        x = ops.relu(self.final_norms[k - 1](x))
        return self.heads[k - 1](ops.mean(x, axis=(1, 2)))

    def every(self, image: Any) -> list[Any]:
        stem = self.stem(image, self.conv1)
        return [self._from_stem(k, stem) for k in range(1, len(self.heads) + 1)]

    def at(self, k: int, image: Any) -> Any:
        return self._from_stem(k, self.stem(image, self.conv1))

    def step(self, k: int, image: Any, carried: Carried) -> tuple[Any, New]:
        if k > 1:
            return self._from_stem(k, carried("stem", 1)), {}
        stem = self.stem(image, self.conv1)
        return self._from_stem(k, stem), {"stem": stem}
