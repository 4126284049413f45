"""A signature whose decisions the caller makes, to measure what each of them costs.

    answer_under(image, decisions)               # int32 [units]: 1 open, 0 shut
    answer_under(image, thresholds, decisions)   # of a net with early exits

It is a view of the one that explains: the controllers run, and are not asked. All others
are frozen at -1, as the net decides.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyngate.export.lowering import Held
from keras_dyngate.export.plan.traced import View
from keras_dyngate.runtime.signature_table import Role

UNDER = "answer_under"
INPUT = "decisions"


def held_in(options: Any, layers: Iterable[Any]) -> Held | None:
    """The decisions that the caller is to make, if that is asked for."""
    if not options.forcible:
        return None
    found = Held(layers)
    return found if found.units else None


def spec(held: Held | None) -> dict[str, tf.TensorSpec]:
    """The input of a function, if there are decisions to make."""
    return {} if held is None else {INPUT: tf.TensorSpec([held.units], tf.int32, INPUT)}


def given(held: Held | None, values: Any) -> Held | None:
    """What lowering asks, with the tensor that is traced."""
    if held is not None:
        held.values = values
    return held


def nobody(held: Held | None) -> Mapping[str, np.ndarray]:
    """The input where the net decides for itself."""
    return {} if held is None else {INPUT: np.full(held.units, -1, np.int32)}


def views(held: Held | None, source: str, outputs: tuple[str, ...]) -> tuple[View, ...]:
    return () if held is None else (View(source, UNDER, outputs),)


def roles(held: Held | None) -> dict[str, Role]:
    return {} if held is None else {UNDER: Role("answer_under")}


def noted(held: Held | None) -> dict[str, Any]:
    """What the file tells of the input: each decision, its units and executed groups."""
    if held is None:
        return {}
    return {
        "decisions": [
            {
                "name": name,
                "units": place.stop - place.start,
                "groups": held.groups[name],
            }
            for name, place in held.places.items()
        ]
    }
