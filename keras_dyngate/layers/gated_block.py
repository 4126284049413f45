"""What residual blocks have in common: convolutions, the shortcut, the gates."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dyngate import controllers
from keras_dyngate._checks import channels_last, one_of, positive_int
from keras_dyngate.layers.batch_normalization import BatchNormalization
from keras_dyngate.layers.gated_chain import GatedChain, check_units
from keras_dyngate.layers.links import Link, Padding, Subsampling


def conv_bn(
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    epsilon: float,
    momentum: float,
    dtype: Any = None,
    dilation_rate: int = 1,
    padding: str | None = None,
) -> tuple[keras.layers.Conv2D, keras.layers.BatchNormalization]:
    """A convolution without bias, padded alike on all sides, and its BN.

    The padding is `dilation_rate * (kernel_size // 2)`, so that the map keeps its size
    at stride 1; it is explicit where Keras's "same" would put it on one side only,
    unless that `padding` is asked for.
    """
    conv = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        dilation_rate=dilation_rate,
        padding=padding or ("same" if strides == 1 else "valid"),
        use_bias=False,
        data_format="channels_last",
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
        dtype=dtype,
    )
    return conv, bn_of(name, epsilon, momentum, dtype)


def bn_of(
    conv: str, epsilon: float, momentum: float, dtype: Any
) -> keras.layers.BatchNormalization:
    """The BN behind a convolution, named after it."""
    return BatchNormalization(
        axis=-1,
        epsilon=epsilon,
        momentum=momentum,
        name=conv.replace("conv", "bn"),
        dtype=dtype,
    )


class GatedBlock(GatedChain):
    """Base of the gated residual blocks; use `GatedBasicBlock` or the bottleneck.

    A subclass sets `masked` (which convolutions' activations the channel gate masks),
    `expansion` (output channels per filter) and gives `branch_specs`.

    Args:
        filters: Channels of the gated activations, and `1 / expansion` of the output's.
        strides: Of the block, 1 or 2. Default 1.
        channel_gate: None, a `Controller` with `masks * groups` units, or an identifier
            for `controllers.get`; then each channel has a unit.
        layer_gate: None, a `Controller` with one unit, or an identifier.
        shortcut: Where the shape changes: "projection" (1x1 convolution and BN; default)
            or "pad" (option A: subsample, then zero channels on both sides).
        bn_epsilon, bn_momentum: Of every batch normalization. Default 1e-5 and 0.9.
        data_format: "channels_last"; anything else is refused.
        inner_filters: Channels of the gated activations where they are not `filters`:
            `pack_channels` removes channels that never open and keeps the output.
        dilation_rate: Of the 3x3 convolutions; above 1 only with strides 1. Default 1.

    Input shape: `[batch, height, width, channels]`.
    Output shape: `[batch, ceil(height / strides), ceil(width / strides),
        filters * expansion]`.

    Raises:
        ValueError: If the gate's units do not divide the filters, or for a bad argument.
    """

    expansion = 1

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        channel_gate: Any = None,
        layer_gate: Any = None,
        shortcut: str = "projection",
        bn_epsilon: float = 1e-5,
        bn_momentum: float = 0.9,
        data_format: str | None = None,
        inner_filters: int | None = None,
        dilation_rate: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_int("filters", filters)
        self.inner_filters = positive_int(
            "inner_filters", filters if inner_filters is None else inner_filters
        )
        self.strides = positive_int("strides", strides)
        self.dilation_rate = positive_int("dilation_rate", dilation_rate)
        if strides > 1 and dilation_rate > 1:
            raise ValueError(
                "`dilation_rate` must be 1 where `strides` are not. "
                f"Received: dilation_rate={dilation_rate}, strides={strides}"
            )
        self.shortcut = one_of("shortcut", shortcut, ("projection", "pad"))
        self.bn_epsilon, self.bn_momentum = bn_epsilon, bn_momentum
        self.data_format = channels_last(data_format)
        self.channel_gate = controllers.get(
            channel_gate, self.masks * self.inner_filters
        )
        self.layer_gate = controllers.get(layer_gate, 1)
        self._check_gates()
        self.convs, self.norms = [], []
        for index, (width, size, stride) in enumerate(self.branch_specs(), 1):
            conv, norm = conv_bn(
                width,
                size,
                stride,
                f"conv{index}",
                bn_epsilon,
                bn_momentum,
                self.dtype_policy,
                1 if size == 1 else self.dilation_rate,
            )
            self.convs.append(conv)
            self.norms.append(norm)
        self.shortcut_conv: keras.layers.Conv2D | None = None
        self.shortcut_norm: keras.layers.BatchNormalization | None = None

    def branch_specs(self) -> list[tuple[int, int, int]]:
        """(filters, kernel size, strides) of the branch's convolutions."""
        raise NotImplementedError

    def _check_gates(self) -> None:
        if self.channel_gate is not None:
            widths = [self.inner_filters] * self.masks
            check_units(self.channel_gate, widths, f"{self.inner_filters} filters")
        if self.layer_gate is not None and self.layer_gate.units != 1:
            raise ValueError(
                "`layer_gate` must have one unit. "
                f"Received: units={self.layer_gate.units}"
            )

    @property
    def group_size(self) -> int | None:
        """Channels per decision of the channel gate; None without one."""
        if self.channel_gate is None:
            return None
        return self.inner_filters * self.masks // self.channel_gate.units

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The number of input channels must be known. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        out = self.filters * self.expansion
        if channels != out or self.strides != 1:
            if self.shortcut == "projection":
                self.shortcut_conv, self.shortcut_norm = conv_bn(
                    out,
                    1,
                    self.strides,
                    "shortcut_conv",
                    self.bn_epsilon,
                    self.bn_momentum,
                    self.dtype_policy,
                )
            elif channels > out:
                raise ValueError(
                    "`shortcut='pad'` adds channels and cannot take any away. "
                    f"Received: {channels} channels in, {out} out"
                )
        self.build_links(input_shape)

    def links(self) -> tuple[Link, ...]:
        """The branch: convolutions, padded alike on all sides, BN, ReLU between."""
        found: list[Link] = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            side = conv.kernel_size[0] // 2
            if found:
                found.append(ops.relu)
            if conv.padding == "valid" and side:
                found.append(Padding(side))
            found += [conv, norm]
        return tuple(found)

    def shortcut_links(self) -> tuple[Link, ...]:
        """The ungated path: identity, projection, or subsampling and zero channels."""
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            return self.shortcut_conv, self.shortcut_norm
        if self.shortcut == "pad":
            return (Subsampling(self.strides, self.filters * self.expansion),)
        return ()

    def narrowed(self, config: dict[str, Any], widths: Sequence[int]) -> dict[str, Any]:
        (inner,) = set(widths)
        return {**config, "inner_filters": inner}

    def after_links(self) -> tuple[Link, ...]:
        return (ops.relu,)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        sides = [s if s is None else -(-s // self.strides) for s in (height, width)]
        return (batch, *sides, self.filters * self.expansion)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        gates = {"channel_gate": self.channel_gate, "layer_gate": self.layer_gate}
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            **{k: None if g is None else serialize(g) for k, g in gates.items()},
            "shortcut": self.shortcut,
            "bn_epsilon": self.bn_epsilon,
            "bn_momentum": self.bn_momentum,
            "data_format": self.data_format,
            "inner_filters": self.inner_filters,
            "dilation_rate": self.dilation_rate,
        }
