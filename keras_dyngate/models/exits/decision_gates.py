"""Put early exits on a classifier: decision gates, heads, a first net."""

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._checks import one_of
from keras_dyngate.cost import CostTable
from keras_dyngate.cost.counter import model_profile
from keras_dyngate.layers import DecisionGate, ExitGate, ExitHead
from keras_dyngate.models.exits.cut_points import (
    CutPoint,
    check_trunk,
    checked_graph,
    input_place,
)
from keras_dyngate.models.exits.cutting import resolve_cuts, split
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.first_nets import automatic_net, first_net
from keras_dyngate.models.exits.heads import HEAD_SHARE, KINDS, head_body
from keras_dyngate.models.exits.placement import place_exits

KEPT = 2048  # numbers that a linear gate reads at most for "avg4x4" to be its pooling


def add_decision_gates(
    model: keras.Model,
    after: Sequence[Any] = (),
    *,
    placement: str | None = None,
    exits: int | None = None,
    data: Any = None,
    quantization: str | None = None,
    head: Any = "linear",
    first: keras.Model | str | None = None,
    first_weights: str | os.PathLike[str] | None = "imagenet",
    combine: bool = False,
    pooling: str | Sequence[str] | None = None,
    objective: str | None = None,
    confidence: str | None = None,
    name: str | None = None,
) -> EarlyExitModel:
    """Put early exits on a classifier.

    Args:
        model: Any functional or Sequential classifier with one input and one output:
            this library's, gated ones included, or one of keras.applications. Its layers
            and weights are shared, not copied.
        after: Where, in the order of execution: points of `cut_points(model)`, names of
            layers or operators (inside a nested model by path,
            "mobilenetv2/block_6_expand_relu", or by the name alone where it is the only
            one), the layers themselves, their tensors, or indices into `model.layers`.
            A nested model stands for its last layer. May be empty if `first` is given,
            and is with `placement`.
        placement: "auto": the places are chosen by `place_exits`, which also says why;
            `after` stays empty. None (default): they are those of `after`.
        exits: How many to place at most, `first` apart; default 2. With `placement` only.
        data: What to choose places on, with `placement` only: (pictures, labels),
            pictures, or a dataset of batches.
        quantization: With `placement` only: of the file that will ship, None or
            "float32", "float16", "dynamic" or "int8".
        head: Of the exits, or one per place: "linear" (default), a `DecisionGate`;
            "conv", a 1x1 convolution, pooling and a linear layer; "separable", two 3x3
            separable convolutions before those, with strides until the map has 6 rows or
            fewer: taught by the trunk (`fit_gates`) these win by far. Each is as wide as
            .02 of the net's MACs allow (sizes: design of this library). Or a Keras layer
            or model for one place, or a function from the shape of the features, without
            the batch, to one: from them to `[batch, classes]`, raw scores or
            probabilities.
        first: A net before the trunk, as the exit at its input: any Keras classifier
            over the same classes, of an input size of its own (pictures are resized
            inside), or "auto": MobileNetV2 of width .35 at 160, 128 or 96 pixels, the
            largest of them that costs at most .12 of the trunk's MACs.
        first_weights: Of the automatic first net: "imagenet" (default), which Keras
            loads, the path of a `.weights.h5` file of
            `MobileNetV2(alpha=0.35, include_top=False)`, or None.
        combine: Whether exits average their answers with the earlier ones', and the head
            with all; see `EarlyExitModel`. Default False.
        pooling: Of linear gates, or one per place; see `DecisionGate`. None (default):
            "avg4x4" where height and width are multiples of 4, 8 or more, and the gate
            so reads 2,048 numbers or fewer; else "avg".
        objective: "hinge" (default of linear gates) or "cross_entropy" (of all others).
        confidence: "score" (default of linear gates), "distance" (of those alone),
            "margin", "entropy" or "probability" (default of all others, and with
            `combine` of all).
        name: Of the new model.

    Returns:
        An `EarlyExitModel` whose exits are untrained and whose thresholds are infinite.

    Raises:
        ValueError: If the model cannot carry exits, or cannot be cut after a layer (the
            message names the nearest cut points), if a head or a first net does not put
            out the model's classes, if no place for an exit pays, or for a bad argument.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        model = kd.add_decision_gates(net, after=["early"], head="separable", combine=True)
        print(kd.count_macs(model).per_exit)
        ```
    """
    if isinstance(model, EarlyExitModel):
        raise ValueError(
            "`model` must be a net without exits: give the exits of both at once, on "
            f"its trunk. Received: model={model.name!r} with exits"
        )
    classes = check_trunk(model)
    given = {"exits": exits, "data": data, "quantization": quantization}
    if placement is None:
        _only_with_placement(given)
    else:
        one_of("placement", placement, ("auto",))
        after = _placed(model, after, head, first is not None, given)
    alone = first is not None and isinstance(after, (list, tuple)) and not after
    names = [] if alone else resolve_cuts(model, after)
    heads = _per_place("head", head, names)
    poolings = _per_place("pooling", pooling, names)
    for one in heads:
        if isinstance(one, str):
            one_of("head", one, KINDS)
    options = {"objective": objective, "confidence": confidence}
    if combine and confidence is None:
        options["confidence"] = "probability"
    profile = model_profile(model)
    gates: list[ExitGate] = []
    if first is not None:
        body = _first(model, classes, first, first_weights, profile)
        names = [input_place(checked_graph(model)), *names]
        gates.append(_exit_head(classes, body, "first", options))
    parts = split(model, names, at_input=True)[len(gates) :]
    for index, (kind, pool, part) in enumerate(
        zip(heads, poolings, parts, strict=False), 1
    ):
        title, shape = f"gate_{index}", tuple(part.output_shape)
        if isinstance(kind, str) and kind == "linear":
            pool = _pooling(shape) if pool is None else pool
            given = {k: value for k, value in options.items() if value is not None}
            gates.append(DecisionGate(classes, pooling=pool, name=title, **given))
            continue
        body = _body(kind, shape, classes, HEAD_SHARE * profile.total)
        gates.append(_exit_head(classes, body, title, options))
    return EarlyExitModel(model, names, gates, combine=combine, name=name)


def _only_with_placement(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            kind = type(value).__name__
            raise ValueError(
                f"`{name}` goes with `placement='auto'`. Received: {name} of type {kind} "
                "and placement=None"
            )


def _placed(
    model: keras.Model,
    after: Sequence[Any],
    head: Any,
    with_first: bool,
    given: dict[str, Any],
) -> list[CutPoint]:
    """The places that `place_exits` chooses."""
    if not isinstance(after, (list, tuple)) or after:
        raise ValueError(
            "`after` must be empty where `placement='auto'` chooses the places. "
            f"Received: after={after!r}"
        )
    data, exits = given["data"], given["exits"]
    if data is None:
        raise ValueError(
            "`data` must be pictures, (pictures, labels) or a dataset of batches, to "
            "choose places on, where `placement='auto'`. Received: data=None"
        )
    if isinstance(head, (keras.layers.Layer, list, tuple)):
        raise ValueError(
            "`head` must be a kind or a function that makes a layer where "
            f"`placement='auto'` chooses the places. Received: head={head!r}"
        )
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    found = place_exits(
        model,
        x,
        y,
        exits=2 if exits is None else exits,
        quantization=given["quantization"],
        head=head,
    )
    if not found.exits and not with_first:
        raise ValueError(
            "`placement='auto'` found no place where an exit pays: give places by "
            f"`after`, or a net by `first`. Received: model={model.name!r}, of which\n"
            f"{found}"
        )
    return list(found.exits)


def _per_place(argument: str, value: Any, names: Sequence[str]) -> list[Any]:
    """One value per place, from one for all or a list."""
    if not isinstance(value, (list, tuple)):
        layer = isinstance(value, keras.layers.Layer)
        if layer and len(names) > 1:
            raise ValueError(
                "`head` must be a function that makes a layer, or a list of layers, where "
                f"there are several exits. Received: head={value!r} for {len(names)}"
            )
        return [value] * len(names)
    if len(value) != len(names):
        what = "name" if argument == "pooling" else "head"
        raise ValueError(
            f"`{argument}` must be one {what}, or one per gate ({len(names)}). "
            f"Received: {argument}={value!r}"
        )
    return list(value)


def _pooling(shape: Sequence[int | None]) -> str:
    """A linear gate's pooling for features of a shape, batch first."""
    if len(shape) != 4 or None in shape[1:]:
        return "avg"
    height, width, channels = (int(side or 0) for side in shape[1:])
    whole = height % 4 == 0 == width % 4 and min(height, width) >= 8
    few = channels * (height // 4) * (width // 4) <= KEPT
    return "avg4x4" if whole and few else "avg"


def _exit_head(
    classes: int, body: keras.Model, name: str, options: dict[str, Any]
) -> ExitHead:
    given = {key: value for key, value in options.items() if value is not None}
    return ExitHead(classes, body, name=name, **given)


def _body(kind: Any, shape: tuple[Any, ...], classes: int, macs: float) -> keras.Model:
    """The net of a head, from what a user named it by."""
    if isinstance(kind, str):
        return head_body(kind, shape[1:], classes, macs)
    layer = kind
    if not isinstance(layer, keras.layers.Layer):
        if not callable(layer) or isinstance(layer, type):
            raise ValueError(
                f"`head` must be one of {KINDS}, a Keras layer or a function that makes "
                f"one. Received: head={kind!r}"
            )
        try:
            layer = layer(shape[1:])
        except Exception as error:
            raise ValueError(
                f"`head` must make a Keras layer from the shape {shape[1:]}. Received: "
                f"head={kind!r} ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "`head` must make a Keras layer from the shape of the features. "
                f"Received: head={kind!r}, which made {layer!r}"
            )
    features = keras.Input(shape[1:])
    try:
        scores = layer(features)
        found: Any = tuple(scores.shape)
    except Exception as error:
        raise ValueError(
            f"`head` must take features of shape {shape[1:]}. Received: head="
            f"{layer.name!r}, which does not ({type(error).__name__})"
        ) from error
    if found[1:] != (classes,):
        raise ValueError(
            f"`head` must put out [batch, {classes}], the classes of the trunk. "
            f"Received: head={layer.name!r} with an output of shape {found}"
        )
    return keras.Model(features, scores, name=f"{layer.name}_head")


def _first(
    model: keras.Model,
    classes: int,
    first: Any,
    weights: Any,
    profile: CostTable,
) -> keras.Model:
    """The net of the exit at the input."""
    graph = checked_graph(model)
    shape = tuple(graph.inputs[0].shape)
    if isinstance(first, str):
        if first != "auto":
            raise ValueError(
                "`first` must be a Keras classifier, 'auto' or None. "
                f"Received: first={first!r}"
            )
        first = automatic_net(model, weights)
        if first is None:
            raise ValueError(
                "`first='auto'` needs a trunk of RGB pictures of 96 pixels or more, of "
                "which a small net of that size costs at most .12 of the MACs: give a "
                f"classifier, or None. Received: model={model.name!r} of shape {shape} "
                f"with {profile.total / 1e6:.0f} MMACs"
            )
    if first is model:
        raise ValueError(
            "`first` must be another net than the trunk. "
            f"Received: first={model.name!r}, the trunk itself"
        )
    return first_net(shape, classes, first)
