"""Does an exported file say what the Keras model says?"""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.export.graph import plain_logits
from keras_dyngate.runtime import LiteRTModel


@dataclasses.dataclass(frozen=True)
class Parity:
    """Agreement of a file with its Keras model on some images.

    Attributes:
        samples: How many images.
        max_difference: Largest difference of a logit, relative to the largest logit.
        argmax_agreement: Share of images with the same label.
        decision_agreement: Share of equal decisions; 1 if there are none.
    """

    samples: int
    max_difference: float
    argmax_agreement: float
    decision_agreement: float


def check_parity(
    model: keras.Model, path: str | os.PathLike[str], images: np.ndarray
) -> Parity:
    """Run images through a file's `explain` and through Keras, and compare.

    Args:
        model: The Keras model that was exported.
        path: The exported file.
        images: `[N, height, width, channels]`, 0 to 255.
    """
    litert = LiteRTModel(path)
    with plain_logits(model):
        logits, decisions = predict_with_decisions(model, images)
    found: dict[str, list[Any]] = {}
    for image in images:
        for name, value in litert.run("explain", image=image).items():
            found.setdefault(name, []).append(value[0])
    theirs = np.stack(found["logits"])
    equal = [
        np.isclose(np.stack(found[name]), decisions[name], rtol=1e-4, atol=1e-6)
        for name in decisions
    ]
    return Parity(
        samples=len(images),
        max_difference=float(np.abs(theirs - logits).max() / np.abs(logits).max()),
        argmax_agreement=float((theirs.argmax(-1) == logits.argmax(-1)).mean()),
        decision_agreement=float(np.concatenate([e.ravel() for e in equal]).mean())
        if equal
        else 1.0,
    )
