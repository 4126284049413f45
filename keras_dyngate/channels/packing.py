"""Per-channel gates made cheap to execute in groups, without training.

    packed, report = kd.pack_channels(model, images, group_size=16)
    print(report)
    kd.export_tflite(packed, "net.tflite", options=kd.GateOptions(group_size=16))

A file runs channels in groups; see `group_channels` for how they are chosen.
"""

from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import built_model, positive_int
from keras_dyngate._deprecation import renamed
from keras_dyngate._images import take_images
from keras_dyngate.channels.grouping import group_channels
from keras_dyngate.channels.importance import gated_masks
from keras_dyngate.channels.packing_report import (
    ExecutedMacs,
    PackingReport,
    compare_outputs,
)
from keras_dyngate.channels.rearranging import Arrangement, rearrange
from keras_dyngate.cost.cost_row import executed_group_size
from keras_dyngate.cost.counter import count_macs
from keras_dyngate.decisions import predict_with_decisions

Decisions = dict[str, np.ndarray]


def _gated_blocks(model: Any, group_size: int) -> list[Any]:
    """The layers to pack, or an error if one of them cannot be."""
    built_model("model", model)
    masks = list(gated_masks(model))
    grouped = [layer.name for _, layer, item in masks if item.channels != item.groups]
    if grouped or not masks:
        found = f"gates of {grouped} decide on groups" if grouped else "no channel gate"
        raise ValueError(
            "`model` must hold channel gates with one decision per channel. "
            f"Received: {model.name!r}, {found}"
        )
    for _, _, item in masks:
        executed_group_size(item.channels, item.groups, group_size)
        if item.controller.forced is not None:
            raise ValueError(
                "`model` must decide for itself to be packed. "
                f"Received: {model.name!r} inside `force_open_rate`"
            )
    return list({id(layer): layer for _, layer, _ in masks}.values())


def _split(count: int, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices to choose on and to keep apart, drawn with a fixed seed."""
    if isinstance(holdout, (bool, str)) or not 0.0 < float(holdout) < 1.0:
        raise ValueError(
            "`holdout` must be a number between 0 and 1, neither included. "
            f"Received: holdout={holdout!r}"
        )
    if count < 2:
        raise ValueError(
            "`x` must hold two images or more, some of them to be kept apart. "
            f"Received: {count}"
        )
    apart = min(max(round(count * holdout), 1), count - 1)
    drawn = np.random.default_rng(0).permutation(count)
    return np.sort(drawn[apart:]), np.sort(drawn[:apart])


def _arrange(
    masks: list[np.ndarray], group_size: int, prune: bool, hold: bool = True
) -> list[Arrangement]:
    """Choose the channels of one block from bool `[samples, channels]` per mask."""
    filters = masks[0].shape[1]
    kept = filters
    if prune:  # whole groups stay, or one smaller group
        used = max(int(mask.any(axis=0).sum()) for mask in masks)
        kept = used if used <= group_size else -(-used // group_size) * group_size
        kept = min(max(kept, 1), filters)
    found = []
    for mask in masks:
        never = ~mask.any(axis=0)
        stays = np.sort(np.argsort(never, kind="stable")[:kept])
        order = stays[group_channels(mask[:, stays], min(group_size, kept))]
        always = mask[:, order].all(axis=0) & (prune and hold and len(mask) > 0)
        found.append(Arrangement(order, np.flatnonzero(always)))
    return found


def _take(decisions: Decisions, orders: dict[str, tuple[int, ...]]) -> Decisions:
    """Decisions as they read after packing, if the net decides as before."""
    return {
        key: values[:, list(orders[key])] if key in orders else values
        for key, values in decisions.items()
    }


@renamed(data="x")
def pack_channels(
    model: keras.Model,
    x: Any,
    group_size: int = 16,
    *,
    prune: bool = False,
    holdout: float = 0.25,
    batch_size: int | None = None,
) -> tuple[keras.Model, PackingReport]:
    """Put gated channels that open together side by side.

    An exported file runs channels in groups, and a group when any of its channels is
    open: the fewer groups the open channels of an image are spread over, the less is
    executed. The gated convolutions' channels are reordered, with their gates, by the
    decisions on `x`; what the net computes stays the same for any input, up to the
    rounding of sums in another order. Both masks of a bottleneck are packed, each by
    itself. Design of this library.

    With `prune`, channels that never open on `x` are removed (as many as leave whole
    groups, or one smaller group), and binary gates that never shut on it are held open.
    That may change what the net computes for other images: read the report.

    Args:
        model: A built net with one decision per channel (`Gates(group_size=1)`). It is
            left as it is.
        x: Images as the model takes them, an array or a dataset of images or (image,
            label), two or more. Do not use the test set.
        group_size: Channels that the exported file is to run together. It must divide
            the gated channels of every block that has more.
        prune: Whether to remove and free channels.
        holdout: Share of `x` that the order is not chosen on, between 0 and 1; the
            report compares the nets there.
        batch_size: As in `model.predict`.

    Returns:
        The packed copy, not compiled, and a `PackingReport`.

    Raises:
        ValueError: If the model has no per-channel gates, for data of another shape, or
            for a bad argument.
        NotImplementedError: If a gate's class has no `take_units`.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        packed, report = kd.pack_channels(model, x, group_size=4)
        print(report)  # MACs executed before and after, on `x` and on what was kept apart
        ```
    """
    group_size = positive_int("group_size", group_size)
    blocks = _gated_blocks(model, group_size)
    images = take_images("x", x, tuple(model.input_shape[1:]))
    chosen, apart = _split(len(images), holdout)

    outputs, decisions = predict_with_decisions(model, images, batch_size)
    on_data = {key: values[chosen] for key, values in decisions.items()}
    on_holdout = {key: values[apart] for key, values in decisions.items()}
    plans = {}
    for block in blocks:
        items = block.decisions()
        channels = [item for item in items if not item.whole]
        masks = [on_data[f"{block.name}/{item.key}"] > 0 for item in channels]
        for item in items:
            if item.whole:  # a skipped block decides nothing
                runs = on_data[f"{block.name}/{item.key}"][:, 0] > 0
                masks = [mask[runs] for mask in masks]
        found = _arrange(masks, group_size, prune, hold=channels[0].controller.binary)
        keys = [item.key for item in channels]
        plans[block.name] = dict(zip(keys, found, strict=True))
    packed = rearrange(model, plans)
    outputs_after, after = predict_with_decisions(packed, images[apart], batch_size)

    named = {
        name: (item.channels, plans[layer.name][item.key])
        for name, layer, item in gated_masks(model)
    }
    orders = {key: tuple(plan.order.tolist()) for key, (_, plan) in named.items()}
    profile, profile_after = count_macs(model), count_macs(packed)

    def executed(before: Decisions, after: Decisions) -> ExecutedMacs:
        return ExecutedMacs(
            images=len(next(iter(before.values()))),
            per_channel=float(profile.of(before).mean()),
            before=float(profile.of(before, group_size).mean()),
            after=float(profile_after.of(after, group_size).mean()),
        )

    outputs_before = keras.tree.map_structure(lambda values: values[apart], outputs)
    difference, agreement = compare_outputs(outputs_before, outputs_after)
    expected = _take(on_holdout, orders)
    same = [((after[key] > 0) == (expected[key] > 0)).ravel() for key in orders]
    return packed, PackingReport(
        group_size=group_size,
        plain_macs=profile.total,
        data=executed(on_data, _take(on_data, orders)),
        holdout=executed(on_holdout, after),
        open_rates={key: float((on_data[key] > 0).mean()) for key in orders},
        orders=orders,
        removed={
            key: filters - len(plan.order)
            for key, (filters, plan) in named.items()
            if filters > len(plan.order)
        },
        freed={
            key: len(plan.held_open)
            for key, (_, plan) in named.items()
            if len(plan.held_open)
        },
        max_difference=difference,
        argmax_agreement=agreement,
        decision_agreement=float(np.concatenate(same).mean()),
    )
