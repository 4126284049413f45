"""A first net: a small classifier before a trunk, as the exit at its input.

    body = first_net(trunk.input_shape, 10, small)     # resizes the pictures for `small`

Cascades of whole nets: Streeter, Approximation algorithms for cascading prediction
models, ICML 2018; Wang et al., Wisdom of Committees, 2021, arXiv 2012.01988.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_dyngate._graph import flat_graph
from keras_dyngate.cost import count_macs
from keras_dyngate.cost.counter import model_profile
from keras_dyngate.models.exits.cut_points import checked_graph
from keras_dyngate.models.exits.data import takes_bytes
from keras_dyngate.models.exits.heads import MOMENTUM

SIZES = (160, 128, 96)  # pixels, tried in turn
ALPHA = 0.35
MOST = 0.12  # of the trunk's MACs that the automatic one may cost


def first_net(
    input_shape: Sequence[int | None],
    classes: int,
    small: keras.Model,
    what: str = "first",
) -> keras.Model:
    """A classifier behind a resizing to its own input size.

    Args:
        input_shape: Of the trunk, `(batch, height, width, channels)`.
        classes: Of the trunk.
        small: Any Keras classifier of one picture, which takes pixels of the values that
            the trunk takes. Its layers and weights are shared, not copied.
        what: What the user gave it as, for messages.

    Returns:
        A functional model from the trunk's input to `[batch, classes]`.

    Raises:
        ValueError: If it is no such classifier.
    """
    or_auto = ", or 'auto'" if what == "first" else ""
    graph = flat_graph(small) if isinstance(small, keras.Model) else None
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"`{what}` must be a functional or Sequential classifier of one input and one "
            f"output, built{or_auto}. Received: {what}={small!r}"
        )
    own, scores = tuple(graph.inputs[0].shape), tuple(graph.outputs[0].shape)
    if scores[1:] != (classes,):
        raise ValueError(
            f"`{what}` must tell the trunk's {classes} classes apart, its output of shape "
            f"[batch, {classes}]. Received: {what}={small.name!r} with an output of shape "
            f"{scores}"
        )
    shape = tuple(input_shape)
    if len(own) != len(shape) or own[-1] not in (None, shape[-1]):
        raise ValueError(
            f"`{what}` must take inputs of the trunk's kind, {shape}, of another height "
            f"and width perhaps. Received: {what}={small.name!r} for {own}"
        )
    image = keras.Input(shape[1:])
    x = image
    if len(own) == 4 and None not in own[1:3] and own[1:3] != shape[1:3]:
        x = keras.layers.Resizing(own[1], own[2], interpolation="bilinear")(x)
    elif len(own) != 4 and own[1:] != shape[1:]:
        raise ValueError(
            f"`{what}` must take inputs of shape {shape[1:]}. "
            f"Received: {what}={small.name!r} for {own[1:]}"
        )
    return keras.Model(image, small(x), name=f"{small.name}_first")


def small_net(
    size: int,
    classes: int,
    *,
    weights: str | os.PathLike[str] | None = "imagenet",
    scales: bool = True,
) -> keras.Model:
    """MobileNetV2 of width .35 with a new head of its own.

    Args:
        size: Pixels of its square input.
        classes: Number of outputs, raw scores.
        weights: "imagenet" (Keras loads them), the path of a `.weights.h5` file of
            `keras.applications.MobileNetV2(alpha=0.35, include_top=False)`, or None.
        scales: Whether it scales pictures from 0..255 itself.

    Raises:
        ValueError: If the weights cannot be had.
    """
    named = weights if weights in (None, "imagenet") else None
    if weights is not None and named is None and not Path(weights).is_file():
        raise ValueError(
            "`first_weights` must be 'imagenet', None or the path of a .weights.h5 "
            f"file. Received: first_weights={str(weights)!r}"
        )
    try:
        base = keras.applications.MobileNetV2(
            input_shape=(size, size, 3),
            alpha=ALPHA,
            include_top=False,
            weights=named,
            name="mobilenetv2_035",
        )
    except Exception as error:
        if named is None:
            raise
        raise ValueError(
            "`first_weights` must be the path of a .weights.h5 file, or None, where Keras "
            f"cannot load those of ImageNet ({type(error).__name__}). Received: "
            "first_weights='imagenet'"
        ) from error
    if weights is not None and named is None:
        base.load_weights(weights)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    image = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image) if scales else image
    x = keras.layers.GlobalAveragePooling2D()(base(x))
    x = keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(x))
    return keras.Model(image, x, name=f"first_{size}")


def automatic_size(input_shape: Sequence[int | None], macs: int) -> int | None:
    """The largest of 160, 128 and 96 pixels that costs at most .12 of a trunk's MACs.

    Args:
        input_shape: Of the trunk.
        macs: Of the trunk.

    Returns:
        None where none does, or where the trunk's own pictures are smaller.
    """
    *_, height, width, channels = (None, *input_shape)
    if len(input_shape) != 4 or channels != 3 or None in (height, width):
        return None
    for size in SIZES:
        if size <= min(int(height or 0), int(width or 0)):
            if count_macs(small_net(size, 2, weights=None)).total <= MOST * macs:
                return size
    return None


def automatic_net(
    model: keras.Model, weights: str | os.PathLike[str] | None
) -> keras.Model | None:
    """The `small_net` of `automatic_size` before a trunk; None where none suits it.

    Args:
        model: The trunk.
        weights: See `small_net`.
    """
    graph = checked_graph(model)
    size = automatic_size(tuple(graph.inputs[0].shape), model_profile(model).total)
    if size is None:
        return None
    return small_net(
        size,
        int(graph.outputs[0].shape[-1]),
        weights=weights,
        scales=takes_bytes(graph.calls),
    )
