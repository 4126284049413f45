"""A trunk without its last halvings, which computes what it did at more places.

The rest is dilated instead. At every place that the trunk had, the result is the trunk's
own, whatever the size of the picture: windows begin where they began.

Yu, Koltun: Multi-scale context aggregation by dilated convolutions, ICLR 2016, arXiv
1511.07122; here the first layer after a halving that is gone keeps its window
[design of this library].
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._copying import made_anew
from keras_dyngate._graph import Call, FlatGraph, run_calls
from keras_dyngate.models.gating.rebuilding import Copies

KERNELS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _rate(layer: Any) -> int:
    return max(_pair(layer.dilation_rate))


def _before(call: Call, size: Sequence[int]) -> tuple[int, int]:
    """Rows above and columns left of the picture that a kernel's first window covers."""
    layer = call.operation
    if layer.padding != "same":
        return 0, 0
    found = []
    for n, k, t in zip(size, layer.kernel_size, _pair(layer.strides), strict=True):
        window = (k - 1) * _rate(layer) + 1
        found.append(max((-(-n // t) - 1) * t + window - n, 0) // 2)
    return found[0], found[1]


class Dilation:
    """The calls of a trunk run on a picture, no coarser than asked for.

    Args:
        copies: Makes the copies.
        output_stride: Pixels of the picture to one of the last map, at most.

    Attributes:
        stride: Of each tensor of the trunk as it was, by its id, what is here.
    """

    def __init__(self, copies: Copies, output_stride: int) -> None:
        self.copies, self.output_stride = copies, output_stride
        self.stride: dict[int, int] = {}
        self._dilation: dict[int, int] = {}
        self._padded: dict[int, Call] = {}

    def run(
        self, graph: FlatGraph, calls: Sequence[Call], image: Any
    ) -> dict[int, Any]:
        """Tensors by the ids of those of the trunk."""
        (entry,) = graph.inputs
        table = {id(entry): image}
        self.stride[id(entry)] = self._dilation[id(entry)] = 1
        for call in calls:
            stride = max((self.stride[id(x)] for x in call.inputs), default=1)
            dilation = max((self._dilation[id(x)] for x in call.inputs), default=1)
            steps = max(_pair(getattr(call.operation, "strides", 1)))
            spatial = len(call.outputs[0].shape) == 4
            if isinstance(call.operation, keras.layers.ZeroPadding2D):
                self._padded[id(call.outputs[0])] = call
            if spatial and steps > 1 and stride * steps > self.output_stride:
                self._at_every_place(call, dilation, table)
                dilation *= steps
            else:
                if dilation > 1 and spatial:
                    self._dilated(call, dilation, table)
                else:
                    run_calls([call], table, self.copies.of)
                stride *= steps if spatial else 1
            for x in call.outputs:
                self.stride[id(x)], self._dilation[id(x)] = stride, dilation
        return table

    def _layer(self, call: Call, **changed: Any) -> Any:
        """The copy of a kernel, changed."""
        changed["name"] = self.copies.name(call.operation.name)
        made = made_anew(call.operation, lambda config: {**config, **changed})
        self.copies.note(made, call.operation)
        return made

    def _dilated(self, call: Call, dilation: int, table: dict[int, Any]) -> None:
        """Run a call that sees a map of more places than it knew."""
        layer = call.operation
        window = getattr(layer, "kernel_size", getattr(layer, "pool_size", 1))
        if max(_pair(window)) == 1:
            run_calls([call], table, self.copies.of)
            return
        if not isinstance(layer, KERNELS) or layer.padding != "same":
            self._refuse(call)
        if any(k % 2 == 0 for k in layer.kernel_size):  # "same" would begin elsewhere
            self._at_every_place(call, dilation, table)
            return
        made = self._layer(call, dilation_rate=_rate(layer) * dilation)
        run_calls([call], table, lambda _: made)

    def _at_every_place(self, call: Call, dilation: int, table: dict[int, Any]) -> None:
        """Run a kernel without its strides, its windows beginning where they began."""
        layer, source = call.operation, call.inputs[0]
        if not isinstance(layer, KERNELS):
            self._refuse(call)
        above, left = _before(call, source.shape[1:3])
        pad = self._padded.get(id(source))
        if pad is not None:
            (top, _), (side, _) = pad.operation.padding
            above, left, source = above + top, left + side, pad.inputs[0]
        above, left = above * dilation, left * dilation
        rate = _rate(layer) * dilation
        height, width = ((k - 1) * rate for k in layer.kernel_size)
        x = table[id(source)]
        if height or width:
            x = keras.layers.ZeroPadding2D(
                ((above, height - above), (left, width - left)),
                name=self.copies.name(f"{layer.name}_window"),
            )(x)
        changed = {"strides": 1, "padding": "valid", "dilation_rate": rate}
        table[id(call.outputs[0])] = self._layer(call, **changed)(x)

    def _refuse(self, call: Call) -> None:
        raise ValueError(
            "`output_stride` must leave layers alone that cannot be dilated: "
            f"{call.path!r}, a {type(call.operation).__name__}, comes after that many "
            f"pixels. Received: output_stride={self.output_stride}"
        )
