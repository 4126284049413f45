"""A trained net with the roundings of its int8 file in it, to be trained on.

model = kd.quantize_aware(net, x_train[:256])
kd.fine_tune(model, x_train, y_train, epochs=3, teacher=net)
kd.export_tflite(model, "net.tflite", quantization="int8")  # needs no data
"""

from collections.abc import Collection
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import boolean, positive_int
from keras_dyngate._graph import FlatGraph, flat_graph
from keras_dyngate._hooks import recording
from keras_dyngate._images import finite_images, take_images
from keras_dyngate._walk import controllers
from keras_dyngate._warn import warn
from keras_dyngate.controllers import force_open_rate
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.gating.rebuilding import inputs_like, model_like
from keras_dyngate.quantization import _tfmot
from keras_dyngate.quantization.copies import RoundedCopies
from keras_dyngate.quantization.exits import rounded_exits
from keras_dyngate.quantization.fake_quantize import (
    FakeQuantize,
    is_quantize_aware,
    settle_ties,
    watching,
)
from keras_dyngate.quantization.rewriting import Rewriting
from keras_dyngate.quantization.slices import switched_slices

WATCHED = 32  # images at a time


def quantize_aware(
    model: keras.Model,
    representative_data: Any = None,
    *,
    keep_float: Collection[str] = (),
    freeze_norms: bool = True,
    calibration_samples: int = 256,
) -> keras.Model:
    """A copy of a net that computes as its int8 file will: to train it on, and export.

    Kernels are rounded to 8 bits, symmetric and apart for each channel, and what a file's
    operators put out to 256 steps of a range, once for all that a file fuses: kernel,
    batch normalization, ReLU. Gradients pass through the rounding. The rounding is that
    of tensorflow-model-optimization's quantizers, which work with tf_keras alone
    otherwise. What comes before the first kernel (a scaling of pixels, say) is computed in
    float32, and what comes out of it rounded; `keep_float` stays in float32.

    Ranges begin at what `representative_data` takes, and follow the batches of the
    training. `export_tflite(..., quantization="int8")` writes them into the file, and
    needs no data for that.

    Args:
        model: A trained functional or Sequential net of one input, one with early
            exits (`add_decision_gates`), or a sliced one, in float32 and on the TensorFlow
            backend. Gated blocks compute as their files do, their decisions in float32; a
            first net and the last linear layers of heads stay in float32. Nested models
            are opened: the copy is flat. It stays as it is.
        representative_data: Images for the ranges to begin with, as in `export_tflite`;
            some hundred. None: the first batch of the training sets them.
        keep_float: Names of layers, or paths ("base/conv1"), that stay in float32: those
            that lose most, or of a kind that cannot be quantized; a gated block as a
            whole.
        freeze_norms: Whether batch normalizations keep their means and variances, as a
            net that is trained already wants it. False: they learn; freeze them for the
            last epochs (`layer.trainable = False`, and compile again), for a file has
            what they have stored.
        calibration_samples: How many images of `representative_data` to use: of an
            array evenly spaced ones, which may lie class by class; else the first.

    Returns:
        A model of the same function, but for the rounding; not compiled.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ImportError: Without tensorflow-model-optimization:
            `pip install "keras_dyngate[quantization]"`.
        ValueError: For a net that is quantize-aware already, one in mixed precision, a
            layer of another kind (the message names it), or a bad argument.

    Warns:
        UserWarning: If gates open on none of `representative_data`; their ranges are
            then those of all gates open.

    References:
        Jacob et al.: Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, CVPR 2018, arXiv 1712.05877.

    Example:
        ```python
        layers = keras.layers
        convs = [layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(8, 3)]
        top = [layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
        net = keras.Sequential([keras.Input((12, 12, 3)), *convs, *top])
        x = np.random.default_rng(0).uniform(0, 255, (16, 12, 12, 3))
        model = kd.quantize_aware(net, x)
        model.compile("adam", "sparse_categorical_crossentropy")
        history = model.fit(x, np.arange(16) % 2, verbose=0)
        report = kd.export_tflite(model, "net.tflite", quantization="int8")
        ```
    """
    boolean("freeze_norms", freeze_norms)
    count = positive_int("calibration_samples", calibration_samples)
    graph = _checked(model)
    _tfmot.quantizers()
    if isinstance(keep_float, str):
        raise ValueError(
            f"`keep_float` must be a list of names. Received: keep_float={keep_float!r}"
        )
    images = None
    if representative_data is not None:
        shape = tuple(graph.inputs[0].shape[1:])
        images = take_images("representative_data", representative_data, shape, count)
        images = finite_images("representative_data", images)
    copies = RoundedCopies()
    if isinstance(model, EarlyExitModel):
        made = rounded_exits(model, copies, keep_float)
    elif isinstance(model, AnytimeModel):
        if keep_float:
            raise ValueError(
                "`keep_float` must be empty for a sliced net. "
                f"Received: keep_float={list(keep_float)!r}"
            )
        made = switched_slices(model, True)
    else:
        made = _rounded_net(model, graph, copies, keep_float)
    if not is_quantize_aware(made):
        raise ValueError(
            "`model` must hold layers with kernels, which are what is rounded. "
            f"Received: {model.name!r} without any"
        )
    copies.fill()
    if freeze_norms:
        for layer in made._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    if images is not None:
        set_ranges(made, images)
    return made


def _rounded_net(
    model: keras.Model,
    graph: FlatGraph,
    copies: RoundedCopies,
    keep_float: Collection[str],
) -> keras.Model:
    """A functional net, rounded, its weights still to be filled in."""
    inputs = inputs_like(graph)
    return model_like(model, inputs, Rewriting(graph, copies, keep_float).run(inputs))


def set_ranges(model: keras.Model, images: np.ndarray) -> None:
    """Let the ranges of a quantize-aware net be the mean ranges of batches of images.

    Behind gates that opened on none of them all is shut: then a second look, with all gates
    open, widens the ranges.

    Warns:
        UserWarning: Of gates that opened on none.
    """
    roundings = [x for x in model._flatten_layers() if isinstance(x, FakeQuantize)]

    def watch() -> list[str]:
        """Take the ranges; the blocks that are shut on all images."""
        opened: dict[str, bool] = {}
        with watching():
            for start in range(0, len(images), WATCHED):
                with recording() as found:
                    model(images[start : start + WATCHED], training=False)
                for name, scores in found.items():
                    is_open = bool(np.any(keras.ops.convert_to_numpy(scores)))
                    opened[name] = opened.get(name, False) or is_open
        for each in roundings:
            each.settle()
        gated = {n for g in controllers(model) for n, _ in g.decision_names}
        return [name for name in opened if name in gated and not opened[name]]

    shut = watch()
    if not shut:
        settle_ties(roundings)
        return
    before = [(float(x.low), float(x.high)) for x in roundings]
    with force_open_rate(model, 1.0):
        watch()
    for each, (low, high) in zip(roundings, before, strict=True):
        each.set_range(min(float(each.low), low), max(float(each.high), high))
    settle_ties(roundings)
    warn(
        f"On none of the {len(images)} representative images these open: {shut}. Their "
        "ranges are those of all gates open: give images that open them, or train on"
    )


def _checked(model: Any) -> FlatGraph:
    """The calls of a net that can be made quantize-aware."""
    net = model.trunk if isinstance(model, EarlyExitModel) else model
    graph = flat_graph(net) if isinstance(net, keras.Model) else None
    if graph is None or len(graph.inputs) != 1:
        raise ValueError(
            "`model` must be a functional or Sequential model of one input, built. "
            f"Received: {getattr(model, 'name', model)!r}, a {type(model).__name__}"
        )
    if is_quantize_aware(model):
        raise ValueError(
            "`model` must not be quantize-aware already: train it, or take it back by "
            f"`strip_quantization` first. Received: {model.name!r}"
        )
    others = [
        layer
        for layer in model._flatten_layers()
        if layer.dtype_policy.compute_dtype != "float32"
        and keras.backend.is_float_dtype(layer.dtype_policy.compute_dtype)
    ]
    if others:
        raise ValueError(
            "`model` must compute in float32: 8 bits are rounded to from there. Load it "
            "under `keras.config.set_dtype_policy('float32')`. "
            f"Received: layer {others[0].name!r} of {others[0].dtype_policy.name}"
        )
    return graph
