"""What residual blocks have in common: the shortcut, the gates, what they record."""

from typing import Any

import keras
from keras import ops

from keras_dyngate import _hooks, controllers
from keras_dyngate._checks import channels_last, one_of, positive_int
from keras_dyngate._saving import KeepsFrozen
from keras_dyngate.controllers import Controller
from keras_dyngate.cost.counter import kernel_macs
from keras_dyngate.cost.mac_row import Gating, MacRow
from keras_dyngate.layers.batch_normalization import BatchNormalization


def conv_bn(
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    epsilon: float,
    momentum: float,
    dtype: Any = None,
    dilation_rate: int = 1,
) -> tuple[keras.layers.Conv2D, keras.layers.BatchNormalization]:
    """A convolution without bias, padded alike on all sides, and its BN.

    The padding is `dilation_rate * (kernel_size // 2)`, so that the map keeps its size
    at stride 1; it is explicit where Keras's "same" would put it on one side only.
    """
    conv = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        dilation_rate=dilation_rate,
        padding="same" if strides == 1 else "valid",
        use_bias=False,
        data_format="channels_last",
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
        dtype=dtype,
    )
    norm = BatchNormalization(
        axis=-1,
        epsilon=epsilon,
        momentum=momentum,
        name=name.replace("conv", "bn"),
        dtype=dtype,
    )
    return conv, norm


def pad_for(conv: keras.layers.Conv2D, x: Any) -> Any:
    """Zeros on all sides of `x`, where the convolution does not add them itself."""
    side = conv.kernel_size[0] // 2
    if conv.padding == "same" or side == 0:
        return x
    return ops.pad(x, [[0, 0], [side, side], [side, side], [0, 0]])


class GatedBlock(KeepsFrozen, keras.layers.Layer):
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

    masked: tuple[int, ...] = (0,)
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
        self.channel_gate: Controller | None = controllers.get(
            channel_gate, self.masks * self.inner_filters
        )
        self.layer_gate: Controller | None = controllers.get(layer_gate, 1)
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

    @property
    def masks(self) -> int:
        """How many activations the channel gate masks."""
        return len(self.masked)

    def _check_gates(self) -> None:
        gate = self.channel_gate
        if gate is not None and (
            gate.units % self.masks or self.inner_filters % (gate.units // self.masks)
        ):
            raise ValueError(
                f"`channel_gate` must have {self.masks} x a divisor of the "
                f"{self.inner_filters} filters as its number of units. "
                f"Received: units={gate.units}"
            )
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
        shape = tuple(input_shape)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            conv.build(self._padded(conv, shape))
            shape = conv.compute_output_shape(self._padded(conv, shape))
            norm.build(shape)
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
                self.shortcut_conv.build(input_shape)
                self.shortcut_norm.build(
                    self.shortcut_conv.compute_output_shape(input_shape)
                )
            elif channels > out:
                raise ValueError(
                    "`shortcut='pad'` adds channels and cannot take any away. "
                    f"Received: {channels} channels in, {out} out"
                )
        for gate in (self.channel_gate, self.layer_gate):
            if gate is not None and not gate.built:
                gate.build(input_shape)
        self._set_unit_macs(input_shape)
        self.freeze_again()

    def _set_unit_macs(self, input_shape: Any) -> None:
        if None in tuple(input_shape)[1:]:
            return
        rows = [row for row in self.mac_rows(input_shape) if not row.controller]
        for gate, keys in (
            (self.channel_gate, self.channel_keys),
            (self.layer_gate, ("layer",)),
        ):
            if gate is None:
                continue
            units = gate.units // len(keys)
            gate.unit_macs = [
                macs // units
                for key in keys
                for macs in [
                    sum(r.macs for r in rows if key in [g.key for g in r.gatings])
                ]
                for _ in range(units)
            ]

    @property
    def channel_keys(self) -> tuple[str, ...]:
        """Names of the channel decisions: "channel", then "channel_2"."""
        return ("channel", "channel_2")[: self.masks]

    @staticmethod
    def _padded(conv: keras.layers.Conv2D, shape: Any) -> tuple[int | None, ...]:
        side = 0 if conv.padding == "same" else conv.kernel_size[0] // 2
        batch, height, width, channels = shape
        return (
            batch,
            None if height is None else height + 2 * side,
            None if width is None else width + 2 * side,
            channels,
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        built_elsewhere = _hooks.lowered(self, x)
        if built_elsewhere is not None:
            return built_elsewhere
        decisions: dict[str, Any] = {}
        layer = channel = None
        if self.channel_gate is not None:
            channel = self.channel_gate(x, training=training).score
            parts = ops.split(channel, self.masks, axis=-1)
            decisions.update(zip(self.channel_keys, parts, strict=True))
        if self.layer_gate is not None:
            layer = self.layer_gate(x, training=training).score
            runs = ops.cast(layer > 0, "float32")
            decisions = {key: value * runs for key, value in decisions.items()}
            decisions["layer"] = layer
        _hooks.record(self, decisions)
        masks = None
        if channel is not None:
            masks = [self.spread(part, self.compute_dtype) for part in parts]
        y = self.branch(x, masks, training)
        if layer is not None:
            y = y * ops.cast(ops.reshape(layer, (-1, 1, 1, 1)), y.dtype)
        return ops.relu(y + self.apply_shortcut(x, training))

    def spread(self, scores: Any, dtype: str) -> Any:
        """Scores `[batch, groups]` as a mask `[batch, 1, 1, inner_filters]`."""
        scores = ops.repeat(scores, self.inner_filters // scores.shape[-1], axis=-1)
        return ops.cast(ops.expand_dims(scores, (1, 2)), dtype)

    def branch(self, x: Any, masks: list[Any] | None, training: bool | None) -> Any:
        """The residual branch: convolutions, BN, ReLU, and masks.

        A mask stands after BN and ReLU: a shut channel is an exact zero.
        """
        last = len(self.convs) - 1
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(pad_for(conv, x)), training=training)
            if index < last:
                x = ops.relu(x)
                if masks is not None and index in self.masked:
                    x = x * masks[self.masked.index(index)]
        return x

    def apply_shortcut(self, x: Any, training: bool | None = None) -> Any:
        """The ungated path: identity, projection, or subsampling and zero channels."""
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            return self.shortcut_norm(self.shortcut_conv(x), training=training)
        missing = self.filters * self.expansion - x.shape[-1]
        if self.strides > 1:
            x = x[:, :: self.strides, :: self.strides]
        if missing:
            before = missing // 2
            x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [before, missing - before]])
        return x

    def mac_rows(self, input_shape: Any) -> list[MacRow]:
        """MACs of every kernel, and the decisions each is under."""
        layer = (Gating("layer"),) if self.layer_gate is not None else ()
        channel: dict[int, Gating] = {}  # by the convolution that puts the channels out
        if self.channel_gate is not None:
            for index, key in zip(self.masked, self.channel_keys, strict=True):
                channel[index] = Gating(key, self.inner_filters)
        rows, shape = [], tuple(input_shape)
        for gate, name, under in (
            (self.layer_gate, "layer_gate", ()),
            (self.channel_gate, "channel_gate", layer),
        ):
            if gate is not None:
                macs = gate.count_macs(shape[-1])
                rows.append(MacRow(self.name, name, macs, under, controller=True))
        for index, conv in enumerate(self.convs):
            padded = self._padded(conv, shape)
            around = [channel[i] for i in (index - 1, index) if i in channel]
            macs = kernel_macs(conv, padded) or 0
            rows.append(MacRow(self.name, conv.name, macs, (*layer, *around)))
            shape = conv.compute_output_shape(padded)
        if self.shortcut_conv is not None:
            macs = kernel_macs(self.shortcut_conv, tuple(input_shape)) or 0
            rows.append(MacRow(self.name, self.shortcut_conv.name, macs))
        return rows

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
