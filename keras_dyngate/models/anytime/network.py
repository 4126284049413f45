"""What the networks of anytime nets have in common: image, stem, transitions."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_dyngate.layers import ChannelPadding
from keras_dyngate.models.anytime.config import AnytimeConfig
from keras_dyngate.models.parts import normalization

Carried = Callable[[str, int], Any]  # what step j left under a name
New = dict[str, Any]


def initializer() -> keras.initializers.Initializer:
    """Uniform within 1 / sqrt(fan in), as the official code of I-ResNeXt has it."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


class Network:
    """The layers of an anytime net, and how sub-networks run through them.

    A subclass builds its layers once, and calls them for any image and sub-network; so
    the whole net, a sub-network alone and a single step share them. What is kept from
    one step to the next has names; `carried(name, j)` is what step j left under one.
    """

    conv1: keras.layers.Conv2D  # the first convolution, which a subclass makes

    def __init__(self, config: AnytimeConfig) -> None:
        self.config = config
        self.ranges: dict[str, Any] = {}  # roundings of a quantized net, by name
        self.preprocessing = None
        if config.include_preprocessing:
            self.preprocessing = normalization(config.mean, config.std)
        large = config.stem == "imagenet"
        self.paddings = [
            ChannelPadding(
                (config.stem_width if stage == 0 else self.width_at(stage - 1))
                // self.pieces,
                self.width_at(stage) // self.pieces,
                name=f"stage{stage + 1}_padding",
            )
            for stage in range(len(config.blocks))
        ]
        self.stem_options: dict[str, Any] = {
            "kernel_size": 7 if large else 3,
            "strides": 2 if large else 1,
            "padding": "valid" if large else "same",
            "use_bias": False,
            "kernel_initializer": initializer(),
            "name": "conv1",
        }

    @property
    def pieces(self) -> int:
        """How many slices the channels between blocks are made of."""
        raise NotImplementedError

    def every(self, image: Any) -> list[Any]:
        """Raw scores of all sub-networks, `[batch, classes]` each."""
        raise NotImplementedError

    def at(self, k: int, image: Any) -> Any:
        """Raw scores of sub-network k."""
        raise NotImplementedError

    def step(self, k: int, image: Any, carried: Carried) -> tuple[Any, New]:
        """Raw scores of sub-network k, and what later steps may want of this one."""
        raise NotImplementedError

    def rounded(self, name: str, x: Any) -> Any:
        """A tensor that goes by a name, in the steps that an int8 file has for it.

        Slices of one name have one range, so that a file can join them as they are.
        In a net that is not quantized: the tensor.
        """
        if not self.config.quantized:
            return x
        if name not in self.ranges:
            from keras_dyngate.quantization import fake_quantize  # it needs TensorFlow

            self.ranges[name] = fake_quantize.FakeQuantize(
                of_input=name == "image", name=f"{name}_range"
            )
        return self.ranges[name](x)

    def width_at(self, stage: int) -> int:
        """Channels between the blocks of a stage, from 0."""
        return self.config.width * 2**stage

    def stem(self, image: Any, conv: Any, **options: int) -> Any:
        """The first convolution, and for large images a pool and more channels."""
        x = image if self.preprocessing is None else self.preprocessing(image)
        x = self.rounded("image", x)
        if self.config.stem == "cifar":
            return self.rounded("conv1", conv(x, **options))
        x = ops.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
        x = self.rounded("conv1", conv(x, **options))
        x = ops.max_pool(x, 3, 2, "same")
        return self.paddings[0](x)

    def widen(self, x: Any, stage: int) -> Any:
        """From a stage to the next: half the size, twice the channels, slice by slice."""
        return self.paddings[stage](ops.average_pool(x, 2, 2, "valid"))
