"""The block of mobile nets, narrow - wide - narrow, with its wide channels gated per input.

y = x + BN(project * (G(x) . act(BN(depthwise * act(BN(expand * x))))))
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dyngate import controllers
from keras_dyngate._checks import channels_last, positive_int
from keras_dyngate._registration import serializable
from keras_dyngate.layers.gated_block import bn_of, conv_bn
from keras_dyngate.layers.gated_chain import GatedChain, check_units
from keras_dyngate.layers.links import Link, treats_alone
from keras_dyngate.layers.squeeze_excite import SqueezeExcite


def depthwise_bn(
    kernel_size: int,
    strides: int,
    name: str,
    epsilon: float,
    momentum: float,
    dtype: Any = None,
) -> tuple[keras.layers.DepthwiseConv2D, keras.layers.BatchNormalization]:
    """A depthwise convolution without bias, padded as "same", and its BN."""
    conv = keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        depthwise_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
        dtype=dtype,
    )
    return conv, bn_of(name, epsilon, momentum, dtype)


@serializable
class GatedInvertedResidual(GatedChain):
    """Inverted residual with a linear bottleneck and optional gates.

    A 1x1 convolution widens, a depthwise one filters, a 1x1 convolution narrows; BN
    after each, the activation after the first two. Where strides are 1 and the widths
    equal, the input is added. One mask of the wide channels stands before the narrowing
    convolution, and before a squeeze-and-excite: a shut channel saves its slice of all
    three kernels. A layer gate of score 0 leaves the input. Without gates this is the
    plain block. The gates are a design of this library.

    Padding is "same". For images of known size that is also what
    `keras.applications.MobileNetV2` does, by zeros put around and "valid".

    Args:
        filters: Channels of the output.
        inner_filters: Wide channels: of old the input's times 6.
        kernel_size: Of the depthwise convolution. Default 3.
        strides: Of the depthwise convolution. Default 1.
        channel_gate: None, a `Controller` whose number of units divides
            `inner_filters`, or an identifier for `controllers.get`; then each channel
            has a unit.
        layer_gate: None, a `Controller` with one unit, or an identifier.
        activation: A name or a function that treats every channel on its own. Default
            "relu6".
        squeeze_filters: Hidden channels of a squeeze-and-excite before the last
            convolution. Default None: there is none.
        bn_epsilon, bn_momentum: Of every batch normalization. Default 1e-3 and 0.99.
        data_format: "channels_last"; anything else is refused.

    Input shape: `[batch, height, width, channels]`.
    Output shape: `[batch, ceil(height / strides), ceil(width / strides), filters]`.

    Raises:
        ValueError: If the gate's units do not divide the wide channels, for a layer gate
            where there is no shortcut, or for a bad argument.

    References:
        Sandler et al.: MobileNetV2, CVPR 2018, arXiv 1801.04381; Bejnordi, Blankevoort,
        Welling, ICLR 2020, arXiv 1907.06627.

    Example:
        ```python
        block = kd.GatedInvertedResidual(8, 48, channel_gate=kd.BinaryGate(2))
        x = image = keras.Input((16, 16, 8))
        model = keras.Model(image, block(x))
        print(kd.decide(model, np.ones((3, 16, 16, 8))))  # [3, 2]: halves
        ```
    """

    def __init__(
        self,
        filters: int,
        inner_filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        channel_gate: Any = None,
        layer_gate: Any = None,
        activation: str | Callable[..., Any] = "relu6",
        squeeze_filters: int | None = None,
        bn_epsilon: float = 1e-3,
        bn_momentum: float = 0.99,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_int("filters", filters)
        self.inner_filters = positive_int("inner_filters", inner_filters)
        self.kernel_size = positive_int("kernel_size", kernel_size)
        self.strides = positive_int("strides", strides)
        self.activation = keras.activations.get(activation)
        if not treats_alone(keras.layers.Activation(self.activation)):
            raise ValueError(
                "`activation` must treat every channel on its own. "
                f"Received: activation={activation!r}"
            )
        self.squeeze_filters = squeeze_filters
        self.bn_epsilon, self.bn_momentum = bn_epsilon, bn_momentum
        self.data_format = channels_last(data_format)
        self.channel_gate = controllers.get(channel_gate, self.inner_filters)
        self.layer_gate = controllers.get(layer_gate, 1)
        if self.channel_gate is not None:
            widths = [self.inner_filters]
            check_units(self.channel_gate, widths, f"{inner_filters} wide channels")
        if self.layer_gate is not None and self.layer_gate.units != 1:
            raise ValueError(
                "`layer_gate` must have one unit. "
                f"Received: units={self.layer_gate.units}"
            )
        norms = bn_epsilon, bn_momentum, self.dtype_policy
        self.expand = conv_bn(self.inner_filters, 1, 1, "expand_conv", *norms)
        self.depthwise = depthwise_bn(
            self.kernel_size, self.strides, "depthwise_conv", *norms
        )
        self.squeeze = None if squeeze_filters is None else self._squeeze()
        self.project = conv_bn(self.filters, 1, 1, "project_conv", *norms)
        self.adds = False

    def _squeeze(self) -> SqueezeExcite:
        """Two dense layers, the second one's sigmoid the factor of each wide channel."""
        hidden = positive_int("squeeze_filters", self.squeeze_filters)
        options = {"dtype": self.dtype_policy}
        body = keras.Sequential(
            [
                keras.Input((self.inner_filters,)),
                keras.layers.Dense(hidden, self.activation, name="reduce", **options),
                keras.layers.Dense(
                    self.inner_filters, "sigmoid", name="excite", **options
                ),
            ],
            name="squeeze_body",
        )
        return SqueezeExcite(body, name="squeeze", **options)

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The number of input channels must be known. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.adds = self.strides == 1 and channels == self.filters
        if self.layer_gate is not None and not self.adds:
            raise ValueError(
                "`layer_gate` needs a shortcut: strides of 1, and as many channels in "
                f"as out. Received: strides={self.strides}, {channels} channels in, "
                f"{self.filters} out"
            )
        self.build_links(input_shape)

    def links(self) -> tuple[Link, ...]:
        squeeze = () if self.squeeze is None else (self.squeeze,)
        act = self.activation
        return *self.expand, act, *self.depthwise, act, *squeeze, *self.project

    def shortcut_links(self) -> tuple[Link, ...] | None:
        return () if self.adds else None

    def narrowed(self, config: dict[str, Any], widths: Sequence[int]) -> dict[str, Any]:
        (inner,) = widths
        return {**config, "inner_filters": inner}

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        gates = {"channel_gate": self.channel_gate, "layer_gate": self.layer_gate}
        return {
            **super().get_config(),
            "filters": self.filters,
            "inner_filters": self.inner_filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            **{k: None if g is None else serialize(g) for k, g in gates.items()},
            "activation": keras.activations.serialize(self.activation),
            "squeeze_filters": self.squeeze_filters,
            "bn_epsilon": self.bn_epsilon,
            "bn_momentum": self.bn_momentum,
            "data_format": self.data_format,
        }
