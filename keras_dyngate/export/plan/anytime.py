"""Anytime nets in a file: a signature per step, and per sub-network in one go.

start(image)                    the first answer, and what later steps want of it
step_2(image, ...) .. step_K    one slice more, from what earlier steps left
classify_k2(image)              sub-network 2 at once, from the same weights
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate._checks import member
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.export.agreement import Parity
from keras_dyngate.export.arguments import check_model
from keras_dyngate.export.conversion import traced
from keras_dyngate.export.exact_norms import exact_norms
from keras_dyngate.export.lowering import Lowering, weights_as_constants
from keras_dyngate.export.options import AnytimeOptions
from keras_dyngate.export.plan.answers import KILO, label_of
from keras_dyngate.export.plan.anytime_parity import network_parity
from keras_dyngate.export.plan.base import Plan, plan
from keras_dyngate.export.plan.subnetwork_costs import subnetwork_costs
from keras_dyngate.export.plan.traced import Traced, View, call_traced
from keras_dyngate.export.preparing import copy_state, is_float32
from keras_dyngate.flatfile.flatbuffer import schema
from keras_dyngate.models.anytime.model import AnytimeModel, carried_name
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.signature_table import Role, SignatureTable

ANSWER = ("logits", "label", "executed_macs")


class AnytimePlan(Plan[AnytimeOptions]):
    """Of an anytime net, built on images of known size."""

    takes = AnytimeOptions
    model: AnytimeModel

    def __init__(self, model: AnytimeModel, options: Any = None) -> None:
        super().__init__(model, (check_model(model, scores=False),), options)
        self.chosen = _chosen(model, self.options.subnetworks)
        self.sliced = model.family != "inclusive_resnext"
        share_weights = self.options.share_weights
        if self.sliced and share_weights is not None:
            raise ValueError(
                "`share_weights` is for an I-ResNeXt only: a sliced net's are always "
                f"shared. Received: share_weights={share_weights!r}"
            )

    @property
    def shared(self) -> bool:
        """Whether an I-ResNeXt's convolutions are stored once, in pieces with the batch
        normalization apart, but for sub-network 1, which is one piece and folded; or
        else in folded copies, one per sub-network."""
        if self.sliced:
            return False
        if self.options.share_weights is not None:
            return bool(self.options.share_weights)
        # Weights of those between would be copied: what is smaller.
        return any(1 < k < self.chosen[-1] for k in self.chosen)

    def trace(
        self, *, input_type: str, int8: bool, images: np.ndarray | None = None
    ) -> Traced:
        model, chosen, sliced = self.model, self.chosen, self.sliced
        profile = count_macs(model)
        prepared = _in_float32(model)
        network = prepared.network
        image_spec = tf.TensorSpec([1, *model.input_shape[1:]], input_type, "image")

        def stepwise(k: int) -> Callable[..., dict[str, Any]]:
            def step(image: Any, **kept: Any) -> dict[str, Any]:
                scores, new = network.step(
                    k,
                    tf.cast(image, tf.float32),
                    lambda name, j: network.rounded(name, kept[carried_name(name, j)]),
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

                for j in range(
                    1, k + 1
                ):  # as the steps do, so that weights are the same
                    scores, new = network.step(j, x, carried)
                    kept |= {
                        carried_name(name, j): value for name, value in new.items()
                    }
                return _answer(scores, profile.per_subnetwork[k - 1])

            return classify

        functions: dict[str, Any] = {}
        table = SignatureTable()
        lowering = Lowering(None)

        cuts = tuple({*chosen, 1}) if self.shared else ()

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
            trace(_step(k), stepwise(k), **spec)
            table[_step(k)] = Role("step", k, follows=_step(k - 1) if k > 1 else None)
        for k in chosen:
            trace(f"classify_k{k}", at_once(k))
            table[f"classify_k{k}"] = Role("subnetwork", k)
        table["classify"] = Role("answer")
        return Traced(
            functions=functions,
            views=(View(f"classify_k{chosen[-1]}", "classify"),),
            table=table,
            feed=lambda images: _feed(images, functions, table, input_type),
            lowering=lowering,
            profile=profile,
            metadata={
                "family": model.family,
                "subnetworks": model.subnetworks,
                "coarse_heads": model.coarse_heads,
                "coarse_labels": model.taxonomy and model.taxonomy.coarse_names,
                "macs_per_subnetwork": list(profile.per_subnetwork),
                "macs_per_step": list(profile.per_step),
                "shared_weights": sliced or self.shared,
            },
        )

    def parity(
        self, litert: LiteRTModel, images: np.ndarray, seconds: float | None = None
    ) -> Parity:
        """Every step and every sub-network of a file beside the model's."""
        return network_parity(_in_float32(self.model).network, litert, images, seconds)

    def measure(
        self,
        litert: LiteRTModel,
        file: schema.ModelT,
        profile: CostTable,
        image: np.ndarray,
    ) -> dict[str, Any]:
        """What each step and sub-network costs."""
        return {"subnetworks": subnetwork_costs(litert, file, profile, image)}


@plan.register
def _(model: AnytimeModel, options: Any = None) -> Plan:
    return AnytimePlan(model, options)


def _chosen(model: AnytimeModel, wanted: Sequence[int] | None) -> list[int]:
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


def _in_float32(model: AnytimeModel) -> AnytimeModel:
    """An anytime net in float32: the net itself, or a twin."""
    if all(is_float32(layer) for layer in model.layers):
        return model
    config = {**model.get_config(), "policy": "float32"}
    twin = type(model).from_config(config)
    copy_state(twin, model)
    return twin


def _step(k: int) -> str:
    """The signature of the step to sub-network k."""
    return f"step_{k}" if k > 1 else "start"


def _answer(scores: Any, macs: int) -> dict[str, Any]:
    thousands = (macs + KILO // 2) // KILO
    return {
        "logits": scores,
        "label": label_of(scores),
        "executed_macs": tf.constant([thousands], tf.int32),
    }


def _feed(
    images: np.ndarray,
    functions: dict[str, Any],
    table: Mapping[str, Role],
    input_type: str,
) -> Callable[[], Iterator[tuple[str, dict[str, np.ndarray]]]]:
    """Calibration inputs of every signature: steps get what earlier steps leave."""

    def feed() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for image in images:
            kept: dict[str, Any] = {"image": image[None].astype(input_type)}
            for name, function in functions.items():
                wanted = function.structured_input_signature[1]
                inputs = {key: kept[key] for key in wanted}
                yield name, inputs
                if table[name].kind == "step":
                    found = call_traced(function, inputs)
                    kept |= {key: x for key, x in found.items() if key not in ANSWER}

    return feed
