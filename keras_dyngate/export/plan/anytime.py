"""Anytime nets in a file: a signature per step, and per sub-network in one go.

start(image)                    the first answer, and what later steps want of it
step_2(image, ...) .. step_K    one slice more, from what earlier steps left
classify_k2(image)              sub-network 2 at once, from the same weights
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._checks import member
from keras_dyngate.cost import count_macs
from keras_dyngate.export.conversion import traced
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.graph import (
    KILO,
    Plan,
    View,
    call_traced,
    label_of,
)
from keras_dyngate.export.lowering import Lowering, weights_as_constants
from keras_dyngate.export.preparing import prepared_anytime
from keras_dyngate.models.anytime.model import AnytimeModel, carried_name

ANSWER = ("logits", "label", "executed_macs")


def chosen_subnetworks(model: AnytimeModel, wanted: Sequence[int] | None) -> list[int]:
    """Sub-networks that get a signature of their own, ascending.

    Raises:
        ValueError: For a k out of range, or none.
    """
    if wanted is None:
        inclusive = model.family == "inclusive_resnext"
        return list(range(1 if inclusive else model.subnetworks, model.subnetworks + 1))
    if isinstance(wanted, int) or not len(wanted):
        raise ValueError(
            "`subnetworks` must be a list of one or more. "
            f"Received: subnetworks={wanted!r}"
        )
    found = sorted({member("subnetworks", k, model.subnetworks) for k in wanted})
    return found


def step_name(k: int) -> str:
    """The signature of the step to sub-network k."""
    return f"step_{k}" if k > 1 else "start"


def _answer(scores: Any, macs: int) -> dict[str, Any]:
    thousands = (macs + KILO // 2) // KILO
    return {
        "logits": scores,
        "label": label_of(scores),
        "executed_macs": tf.constant([thousands], tf.int32),
    }


def plan_anytime(
    model: AnytimeModel,
    *,
    subnetworks: Sequence[int] | None,
    input_type: str,
    share_weights: bool | None = None,
    int8: bool = False,
) -> Plan:
    """Trace the steps and the chosen sub-networks of an anytime net at batch 1.

    Args:
        model: Built on images of known size.
        subnetworks: Which get `classify_k<k>`. None: the largest of a sliced net, all of
            an I-ResNeXt.
        input_type: "float32" or "uint8".
        share_weights: Store an I-ResNeXt's convolutions once, in pieces with the batch
            normalization apart (but for sub-network 1, which is one piece and folded); or
            else folded copies, one per sub-network. None: what is smaller.
        int8: Whether the file is to be fully quantized.
    """
    profile = count_macs(model)
    chosen = chosen_subnetworks(model, subnetworks)
    prepared = prepared_anytime(model)
    network = prepared.network
    image_spec = tf.TensorSpec([1, *model.input_shape[1:]], input_type, "image")
    sliced = model.family != "inclusive_resnext"

    def stepwise(k: int) -> Callable[..., dict[str, Any]]:
        def step(image: Any, **kept: Any) -> dict[str, Any]:
            scores, new = network.step(
                k,
                tf.cast(image, tf.float32),
                lambda name, j: kept[carried_name(name, j)],
            )
            answer = _answer(scores, profile.per_step[k - 1])
            left = {carried_name(name, k): value for name, value in new.items()}
            return {**answer, **left}

        return step

    def at_once(k: int) -> Callable[..., dict[str, Any]]:
        def classify(image: Any) -> dict[str, Any]:
            x = tf.cast(image, tf.float32)
            if not sliced:
                return _answer(network.at(k, x), profile.per_subnetwork[k - 1])
            kept: dict[str, Any] = {}

            def carried(name: str, j: int) -> Any:
                return kept[carried_name(name, j)]

            for j in range(1, k + 1):  # as the steps do, so that weights are the same
                scores, new = network.step(j, x, carried)
                kept |= {carried_name(name, j): value for name, value in new.items()}
            return _answer(scores, profile.per_subnetwork[k - 1])

        return classify

    if sliced and share_weights is not None:
        raise ValueError(
            "`share_weights` is for an I-ResNeXt only: a sliced net's are always shared. "
            f"Received: share_weights={share_weights!r}"
        )
    functions: dict[str, Any] = {}
    lowering = Lowering(None)

    between = any(1 < k < chosen[-1] for k in chosen)  # their weights would be copied
    shared = not sliced and (between if share_weights is None else share_weights)
    cuts = tuple({*chosen, 1}) if shared else ()

    def trace(name: str, function: Any, **spec: tf.TensorSpec) -> None:
        def constant(**inputs: Any) -> Any:
            constant, form = weights_as_constants([prepared]), exact_norms(int8)
            with constant, _hooks.lowering(lowering), form, _hooks.in_pieces(cuts):
                return function(**inputs)

        functions[name] = traced(constant, image=image_spec, **spec)

    for k, part in enumerate(model.steps() if sliced else (), 1):
        spec = {
            name: tf.TensorSpec([1, *tensor.shape[1:]], tf.float32, name)
            for name, tensor in part.input.items()
            if name != "image"
        }
        trace(step_name(k), stepwise(k), **spec)
    for k in chosen:
        trace(f"classify_k{k}", at_once(k))
    return Plan(
        functions=functions,
        views=(View(f"classify_k{chosen[-1]}", "classify"),),
        feed=lambda images: _feed(images, functions, input_type),
        lowering=lowering,
        profile=profile,
        steps=tuple(name for name in functions if not name.startswith("classify")),
        metadata={
            "family": model.family,
            "subnetworks": model.subnetworks,
            "coarse_heads": model.coarse_heads,
            "coarse_labels": model.taxonomy and model.taxonomy.coarse_names,
            "macs_per_subnetwork": list(profile.per_subnetwork),
            "macs_per_step": list(profile.per_step),
            "shared_weights": bool(sliced or shared),
        },
    )


def _feed(
    images: np.ndarray, functions: dict[str, Any], input_type: str
) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Calibration inputs of every signature: steps get what earlier steps leave."""

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for image in images:
            kept: dict[str, Any] = {"image": image[None].astype(input_type)}
            for name, function in functions.items():
                wanted = function.structured_input_signature[1]
                inputs = {key: kept[key] for key in wanted}
                yield name, inputs
                if not name.startswith("classify"):
                    found = call_traced(function, inputs)
                    kept |= {key: x for key, x in found.items() if key not in ANSWER}

    return feed
