"""Nets that take no pixels from 0 to 255: made to, and noticed.

Cameras, pictures and the tools here give 0 to 255, and a file takes what its net takes. A
net that scales its input itself is fine; one that was trained on scaled arrays is not.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_dyngate as kd
from keras_dyngate._graph import graph_of
from keras_dyngate.layers import ExitHead

# Least `distance` of probabilities. Of nets trained on digits those that take pixels were
# at .001 to .08, those that do not at .28 to .87; as to their answers, nets that normalise
# each image differed by .002 at most, others by .05 and more.
APART = 0.15
DIFFERENT = 0.02
LOOKED_AT = 8  # pictures


def rescaled(
    model: keras.Model, scale: Sequence[float], offset: Sequence[float]
) -> keras.Model:
    """A net that takes pixels, and shows `scale * pixels + offset` to the given one.

    Args:
        model: Functional or Sequential with one input and one output, or an
            `EarlyExitModel`. The layers are copied, of a first net too; other gates of
            exits are shared.
        scale, offset: One number each, or one per channel.

    Raises:
        ValueError: For another model, other numbers, or a scale of 0.
    """
    channels = model.input_shape[-1]
    for name, given in (("scale", scale), ("offset", offset)):
        if len(given) not in (1, channels) or not np.isfinite(given).all():
            raise ValueError(
                f"--input_{name} must be one number, or {channels}, one per channel. "
                f"Received: {','.join(map(str, given))}"
            )
    if 0 in scale:
        raise ValueError(f"--input_scale must not be 0. Received: {scale}")
    if isinstance(model, kd.EarlyExitModel):
        trunk = rescaled(model.trunk, scale, offset)
        gates = list(model.gates)
        if not model.stages[0].part.stretch.calls:  # a first net takes pictures too
            gates[0] = _with_body(gates[0], rescaled(gates[0].body, scale, offset))
        exits = kd.EarlyExitModel(
            trunk, model.after, gates, combine=model.combine, name=model.name
        )
        exits.thresholds, exits.mixing = model.thresholds, model.mixing
        return exits
    graph = None if isinstance(model, kd.AnytimeModel) else graph_of(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            "--input_scale and --input_offset need a functional or Sequential net of "
            f"one input and one output, or early exits. Received: {type(model).__name__}"
        )
    plain = keras.Model(graph.inputs[0], graph.outputs[0], name=model.name)
    name = "input_scale"
    while name in {layer.name for layer in plain.layers}:
        name += "_"
    image = keras.Input(batch_shape=plain.inputs[0].shape, dtype="float32")
    scaled = keras.layers.Rescaling(list(scale), list(offset), name=name)(image)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(
            lambda value: scaled if value is image else value, (args, kwargs)
        )
        return operation(*args, **kwargs)

    copy = keras.models.clone_model(plain, image, call_function=call)
    for layer in plain.layers:
        if layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _with_body(head: ExitHead, body: keras.Model) -> ExitHead:
    """A head like another, of another net."""
    config = {**head.get_config(), "body": body}
    return ExitHead.from_config(config)


def invented(shape: tuple[int, ...], count: int = LOOKED_AT) -> np.ndarray:
    """Pictures of coloured spots, 0 to 255, each tinted; where no others are at hand."""
    rng = np.random.default_rng(0)
    spots = rng.integers(0, 256, (count, 4, 4, shape[2]))
    tints = np.arange(count)[:, None] >> np.arange(shape[2]) & 1  # the cube's corners
    spots = np.round(0.4 * spots + 0.6 * 255 * tints[:, None, None]).astype("float32")
    rows, columns = (np.arange(side) * 4 // side for side in shape[:2])
    return spots[:, rows][:, :, columns]


def seems_scaled(model: keras.Model, images: np.ndarray) -> bool:
    """Whether a net seems to take images of about 0 to 1, or -1 to 1, and not pixels.

    Scaled so they are black, and all the same, to a net that takes pixels. If it tells
    them apart none the less, and answers otherwise than on the pixels (which a net that
    normalises each image would not), it takes numbers of about 1.

    Args:
        model: A classifier, or a segmentation net; with early exits, the trunk is asked.
        images: `[N, height, width, channels]`, 0 to 255, different ones, of which some
            from everywhere are looked at.
    """
    model = getattr(model, "trunk", model)
    if len(images) < 2 or not isinstance(getattr(model, "output_shape", None), tuple):
        return False
    if isinstance(model, kd.AnytimeModel):  # which is made here and normalises inside
        return False
    images = images[:: -(-len(images) // LOOKED_AT)]
    pixels = answers(model, images)
    for scaled in (answers(model, x) for x in (images / 255, images / 127.5 - 1)):
        apart = distance(scaled, scaled.mean(0, keepdims=True))
        if apart > APART and distance(scaled, pixels) > DIFFERENT:
            return True
    return False


def answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Probabilities of a net, large images one by one."""
    batch = max(1, 2**19 // images[0, ..., 0].size)
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    found = [keras.ops.convert_to_numpy(model(x, training=False)) for x in parts]
    return probabilities(np.concatenate(found))


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Of classes, along the last axis, from probabilities or from logits."""
    outputs = outputs.astype("float64")
    if outputs.shape[-1] == 1:
        if outputs.min() < 0 or outputs.max() > 1:
            outputs = 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))
        return np.concatenate((1 - outputs, outputs), -1)
    if outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1, atol=1e-2):
        return outputs
    raised = np.exp(outputs - outputs.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean total variation: 0 if probabilities are the same, 1 if they exclude another."""
    return float(np.abs(ours - theirs).sum(-1).mean() / 2)
