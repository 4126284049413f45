"""Does an exported file say what the Keras model says?"""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_dyngate._logits import plain_logits
from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.models.anytime_model import AnytimeModel
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.anytime_runner import ALONE, STEP, in_order


@dataclasses.dataclass(frozen=True)
class Parity:
    """Agreement of a file with its Keras model on some images.

    Attributes:
        samples: How many images.
        max_difference: Largest difference of a logit, relative to the largest logit.
        argmax_agreement: Share of images (of a segmentation net: of pixels) with the
            same label; of an anytime net, share of answers of all its steps and
            sub-networks.
        decision_agreement: Share of equal decisions, to run or to skip; 1 if there are
            none.
        max_score_difference: Largest difference of a score, where both sides run.
    """

    samples: int
    max_difference: float
    argmax_agreement: float
    decision_agreement: float
    max_score_difference: float = 0.0


def _witness(model: Any, images: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits and decisions in Keras, where everything is computed and masked."""
    with plain_logits(getattr(model, "trunk", model)):
        outputs, decisions = predict_with_decisions(model, images)
    if "exit" not in decisions:
        return outputs, decisions
    every = np.stack([outputs[name] for name in outputs], axis=1)
    exits = decisions["exit"][:, 0]
    return every[np.arange(len(every)), exits], decisions


def _anytime_parity(
    model: AnytimeModel, litert: LiteRTModel, images: np.ndarray
) -> Parity:
    """Every step and every sub-network of a file beside the model's."""
    answers = [model.predict_at(k, images) for k in range(1, model.subnetworks + 1)]
    differences, equal = [], []
    named = [
        pair
        for prefix in (STEP, ALONE)
        for pair in in_order(litert.signatures, prefix).items()
    ]
    for index, image in enumerate(images):
        kept: dict[str, Any] = {"image": image}
        for k, name in named:
            wanted = litert.signatures[name].inputs
            outputs = litert.run(name, **{key: kept[key] for key in wanted})
            theirs = outputs.pop("logits")[0]
            kept |= outputs
            ours = answers[k - 1]
            largest = np.abs(ours).max()
            differences.append(float(np.abs(theirs - ours[index]).max() / largest))
            equal.append(theirs.argmax() == ours[index].argmax())
    return Parity(len(images), max(differences), float(np.mean(equal)), 1.0)


def check_parity(
    model: keras.Model, path: str | os.PathLike[str], images: np.ndarray
) -> Parity:
    """Run images through a file's `explain` and through Keras, and compare.

    Of an anytime net all steps and sub-networks are compared.

    Args:
        model: The Keras model that was exported.
        path: The exported file.
        images: `[N, height, width, channels]`, 0 to 255.
    """
    litert = LiteRTModel(path)
    if isinstance(model, AnytimeModel):
        return _anytime_parity(model, litert, images)
    logits, decisions = _witness(model, images)
    found: dict[str, list[Any]] = {}
    for image in images:
        for name, value in litert.run("explain", image=image).items():
            found.setdefault(name, []).append(value[0])
    theirs = np.stack(found["logits"])
    equal, difference = [np.ones(0, bool)], 0.0
    for name, ours in decisions.items():
        scores = np.stack(found[name]).reshape(ours.shape)
        if name == "exit":
            equal.append((scores == ours).ravel())
            continue
        equal.append(((scores > 0) == (ours > 0)).ravel())
        both = (scores > 0) & (ours > 0)
        difference = max(difference, float(np.abs((scores - ours) * both).max()))
    agreement = np.concatenate(equal)
    return Parity(
        samples=len(images),
        max_difference=float(np.abs(theirs - logits).max() / np.abs(logits).max()),
        argmax_agreement=float((theirs.argmax(-1) == logits.argmax(-1)).mean()),
        decision_agreement=float(agreement.mean()) if agreement.size else 1.0,
        max_score_difference=difference,
    )
