"""A sliced net that computes as its int8 file will, or does so no more."""

from typing import Any

from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.quantization.copies import own_weights


def switched_slices(model: AnytimeModel, quantized: bool) -> AnytimeModel:
    """A sliced net of the same weights, with the roundings of its file or without.

    Each tensor's slices share one range, in which a file joins them as they are: so a
    step's slice is the same in every sub-network.

    Raises:
        ValueError: For an I-ResNeXt.
    """
    if quantized and model.family == "inclusive_resnext":
        raise ValueError(
            "`model` must be a sliced net if it is one of several sub-networks: the file "
            "of an I-ResNeXt has its kernels in pieces, whose sums have ranges of their "
            f"own. Received: {model.name!r} of the family {model.family}"
        )
    made: Any = type(model).from_config({**model.get_config(), "quantized": quantized})
    theirs = {layer.name: layer for layer in model.layers}
    for layer in made.layers:
        if layer.name in theirs:
            pairs = zip(
                own_weights(layer), own_weights(theirs[layer.name]), strict=True
            )
            for ours, weight in pairs:
                ours.assign(weight)
    return made
