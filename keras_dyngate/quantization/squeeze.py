"""Squeeze-and-excite of a gated chain, rounded as its file has it."""

from typing import Any

from keras_dyngate.layers.squeeze_excite import SqueezeExcite
from keras_dyngate.models.gating.rebuilding import Sharing
from keras_dyngate.quantization.fake_quantize import FakeQuantize
from keras_dyngate.quantization.rewriting import rounded_inside


class QuantizedSqueeze(SqueezeExcite):
    """Computes with the means, the small net and its factors in 8 bits.

    Args:
        layer: Whose layers are used.
    """

    def __init__(self, layer: SqueezeExcite, **kwargs: Any) -> None:
        body = rounded_inside(layer.body, Sharing(), (), f"quantized_{layer.body.name}")
        super().__init__(body, **kwargs)
        self.means = FakeQuantize(name="means_range")

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.means.build((None, input_shape[-1]))

    def scale(self, means: Any, training: bool | None = False) -> Any:
        return super().scale(self.means(means, training=training), training)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.weigh(x, training)
