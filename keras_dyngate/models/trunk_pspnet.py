"""Pyramid scene parsing on any classifier's trunk, with a head for phones.

    trunk = keras.applications.MobileNetV2(weights="imagenet")
    model = pspnet(trunk, classes=11, input_shape=(360, 480, 3))
    gated = add_layer_gates(model)

The map is reduced to few channels, laid beside its averages over grids, and read by one
separable convolution. A finer map of the trunk adds to the scores what is small
[design of this library, after LR-ASPP].
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dyngate._checks import one_of, positive_int
from keras_dyngate._graph import Call, FlatGraph, flat_graph
from keras_dyngate.layers.gated_inverted_residual import GatedInvertedResidual
from keras_dyngate.models.dilating import Dilation
from keras_dyngate.models.gating.rebuilding import Copies, rebuilt
from keras_dyngate.models.pspnet import DROPOUT, apply_conv, apply_pyramid, upsample

STRIDES = (8, 16, 32)
FINE = 8  # pixels of the picture to one of the finer map


def pspnet(
    trunk: keras.Model,
    *,
    classes: int,
    input_shape: Sequence[int],
    after: str | None = None,
    output_stride: int = 16,
    fine: bool = True,
    filters: int = 128,
    bins: Sequence[int] = (1, 2, 3, 6),
    name: str = "pspnet",
) -> keras.Model:
    """PSPNet with a light head on the trunk of any classifier, a class for every pixel.

    The trunk's layers are copied with their weights, normalization of pixels included; its
    last halvings give way to dilation, so that at every place that it had it computes what
    it did. Gates are added to the result as to any net. Design of this library.

    Args:
        trunk: Functional or Sequential classifier of pictures.
        classes: Of a pixel.
        input_shape: (height, width, channels), known.
        after: Name of the trunk's layer that the head comes after. None: the last map
            before its pooling.
        output_stride: Pixels to one of that map: 8, 16 (default) or 32.
        fine: Whether scores from the narrowest map of 8 pixels to one are added. Default
            True; without effect where `output_stride` is 8.
        filters: Channels of the head. Default 128.
        bins: Cells along a side of each grid of the pyramid. Default (1, 2, 3, 6).
        name: Of the model.

    Returns:
        A `keras.Model` from pictures as the trunk takes them to float32 logits
        `[batch, height, width, classes]`.

    Raises:
        ValueError: For a trunk without a graph or a map, layers that cannot be dilated,
            a picture too small for the pyramid, or a bad argument.

    References:
        Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105; Howard et
        al., Searching for MobileNetV3, ICCV 2019, arXiv 1905.02244 (the finer map).

    Example:
        ```python
        trunk = keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None)
        model = kd.pspnet(trunk, classes=3, input_shape=(96, 128, 3), after="out_relu")
        gated = kd.add_layer_gates(model)
        ```
    """
    classes = positive_int("classes", classes)
    one_of("output_stride", output_stride, STRIDES)
    graph = _graph(opened(trunk), input_shape)
    end = _end(graph, trunk, after)
    copies = Copies()
    dilation = Dilation(copies, output_stride)
    shape = tuple(input_shape)
    image = keras.Input(shape, name=copies.name("image"))
    table = dilation.run(graph, graph.calls[: graph.calls.index(end) + 1], image)
    made = end.outputs[0]
    x = apply_conv(table[id(made)], positive_int("filters", filters), 1, "reduce")
    x = apply_pyramid(x, bins)
    separable = keras.layers.SeparableConv2D(
        filters, 3, padding="same", use_bias=False, name=copies.name("head_conv")
    )
    x = keras.layers.BatchNormalization(name=copies.name("head_bn"))(separable(x))
    x = keras.layers.Dropout(DROPOUT)(
        keras.layers.ReLU(name=copies.name("head_relu"))(x)
    )
    x = keras.layers.Conv2D(classes, 1, name=copies.name("head_classifier"))(x)
    finer = _finer(graph, dilation, end) if fine and output_stride > FINE else None
    if finer is not None:
        y = table[id(finer)]
        y = keras.layers.Conv2D(classes, 1, name=copies.name("fine_classifier"))(y)
        x = upsample(x, y.shape[1:3], "head_up")
        x = keras.layers.Add(name="scores")([x, y])
    x = upsample(x, shape[:2], "logits", "float32")
    model = keras.Model(image, x, name=name)
    copies.fill()
    return model


def opened(trunk: Any) -> Any:
    """A net in which plain inverted residuals of this library are layers of their own.

    Their sums are `<block>_add`, the others `<block>_<layer>`; weights are copies.
    """
    graph = flat_graph(trunk) if isinstance(trunk, keras.Model) else None
    if graph is None:
        return trunk
    plain = [call for call in graph.calls if _is_plain_block(call.operation)]
    if not plain:
        return trunk
    copies = Copies()
    replaced = [([call], call.inputs[0], _opener(call, copies)) for call in plain]
    made = rebuilt(trunk, graph, copies, replaced)
    copies.fill()
    return made


def _is_plain_block(operation: Any) -> bool:
    if not isinstance(operation, GatedInvertedResidual):
        return False
    return operation.channel_gate is None and operation.layer_gate is None


def _opener(call: Call, copies: Copies) -> Callable[[Any], Any]:
    block = call.operation

    def make(x: Any) -> Any:
        y = x
        for number, link in enumerate(block.links()):
            if isinstance(link, keras.Layer):
                y = copies.layer(link, copies.name(f"{block.name}_{link.name}"))(y)
            else:
                name = copies.name(f"{block.name}_activation{number}")
                y = keras.layers.Activation(link, name=name)(y)
        if not block.adds:
            return y
        return keras.layers.Add(name=copies.name(f"{block.name}_add"))([x, y])

    return make


def _graph(trunk: Any, input_shape: Sequence[int]) -> FlatGraph:
    """The trunk's calls on pictures of that shape."""
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels), known. "
            f"Received: input_shape={input_shape!r}"
        )
    graph = flat_graph(trunk) if isinstance(trunk, keras.Model) else None
    if graph is None or len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4:
        raise ValueError(
            "`trunk` must be a functional or Sequential classifier of pictures, built. "
            f"Received: trunk={trunk!r}"
        )
    try:
        found = flat_graph(trunk, [(None, *shape)])
    except (ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise ValueError(
            f"`trunk` must take pictures of {shape}, its classifier too. Received: trunk="
            f"{trunk.name!r} ({reason})"
        ) from error
    assert found is not None
    return found


def _is_map(call: Call) -> bool:
    shape = call.outputs[0].shape
    return len(shape) == 4 and (shape[1] or 0) * (shape[2] or 0) > 1


def _end(graph: FlatGraph, trunk: keras.Model, after: str | None) -> Call:
    """The call that the head comes after."""
    maps = [call for call in graph.calls if _is_map(call)]
    if after is None:
        if not maps:
            raise ValueError(f"`trunk` must have maps. Received: trunk={trunk.name!r}")
        return maps[-1]
    named = [call for call in maps if after in (call.path, call.operation.name)]
    if len(named) != 1:
        raise ValueError(
            "`after` must name one layer of the trunk that puts out a map. "
            f"Received: after={after!r}"
        )
    return named[0]


def _finer(graph: FlatGraph, dilation: Dilation, end: Call) -> Any:
    """The narrowest map of 8 pixels to one before the end, the last of those."""
    calls = graph.calls[: graph.calls.index(end)]
    fine = [
        c for c in calls if _is_map(c) and dilation.stride[id(c.outputs[0])] == FINE
    ]
    if not fine:
        return None
    return min(reversed(fine), key=lambda call: call.outputs[0].shape[-1]).outputs[0]
