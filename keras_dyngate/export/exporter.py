"""From a Keras model to one .tflite file that executes conditionally.

    report = kd.export_tflite(model, "net.tflite", quantization="dynamic")
    print(report)

The file has two signatures, at batch 1:

    classify(image) -> logits, label, executed_macs (thousands of MACs)
    explain(image)  -> the same, and every decision by name

Of a segmentation net, whose logits are [batch, height, width, classes], the first is

    segment(image)  -> labels (uint8, of every pixel), executed_macs

and only `explain` puts the logits out.

A net with early exits has more: see `keras_dyngate.export.plan.exits`. An anytime net has a
signature per step and per sub-network instead of `explain`: `export.plan.anytime`. The
file's metadata say what each of them is for: `keras_dyngate.runtime.signature_table`.
"""

import dataclasses
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate import __version__
from keras_dyngate._checks import one_of, positive_int
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate._image_range import RangeWatch
from keras_dyngate.export.agreement import Parity
from keras_dyngate.export.arguments import (
    calibration_images,
    check_labels,
    check_recurrent,
    check_signatures,
    class_count,
    parity_images,
)
from keras_dyngate.export.conversion import QUANTIZATIONS, convert
from keras_dyngate.export.float_layers import in_float, named_kernels
from keras_dyngate.export.guard import export_guarded
from keras_dyngate.export.options import AnytimeOptions, GateOptions, from_keywords
from keras_dyngate.export.parity import warn_of
from keras_dyngate.export.passes import note_metadata, passes
from keras_dyngate.export.plan import Plan, plan
from keras_dyngate.export.report import ExportReport
from keras_dyngate.export.views import keep_signatures
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.quantization.fake_quantize import check_ranges, is_quantize_aware
from keras_dyngate.runtime import LiteRTModel

# The converter and its calibration are not made for several at a time.
_one_at_a_time = threading.Lock()
PARITY_SECONDS = 20.0  # after which a comparison that nobody asked for ends


def _described(shape: tuple[int, ...]) -> str:
    """The input of a file in words."""
    if len(shape) != 3:
        return f"numbers as the model takes them, {[1, *shape]}"
    kind = {1: "grey", 3: "RGB"}.get(shape[-1], f"{shape[-1]} channels")
    return f"{kind}, 0 to 255, [1, height, width, channels]"


def _parity(
    found: Plan, content: bytes, images: np.ndarray, seconds: float | None
) -> Parity:
    """Agreement of a file that has all its signatures still."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        path.write_bytes(content)
        return found.parity(LiteRTModel(path), images, seconds)


def _milliseconds(litert: LiteRTModel, name: str, image: np.ndarray) -> float:
    """Median of 5 runs of a signature; all inputs but the image are zero."""
    inputs = {
        key: image[None] if key == "image" else np.zeros(spec.shape, spec.dtype)
        for key, spec in litert.signatures[name].inputs.items()
    }
    return litert.benchmark(name, inputs, repeats=5, warmup=1).median_ms


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantization: str | None = None,
    representative_data: Any = None,
    options: GateOptions | AnytimeOptions | None = None,
    input_type: str = "float32",
    labels: Sequence[str] | None = None,
    signatures: Sequence[str] | None = None,
    parity_data: Any = None,
    calibration_samples: int = 128,
    tolerance: float = 0.005,
    guard_data: Any = None,
    keep_float: Sequence[str] = (),
    group_size: int | None = None,
    subnetworks: Sequence[int] | None = None,
    share_weights: bool | None = None,
) -> ExportReport:
    """Convert a model to a .tflite file in which skipped work is not done.

    Args:
        model: A classifier, or a segmentation net, on one input of known size (an
            image, a series, a vector), on the TensorFlow backend. Gated blocks become
            branches; all other layers are converted as they are, in float32 whatever
            they were trained in. The model and Keras stay as they are.
        path: Of the file to write; an existing one is replaced at the very end.
        quantization: None or "float32", "float16" (weights), "dynamic" (int8 weights)
            or "int8" (weights and activations), which is the one for a model that
            `quantize_aware` made. The kernels of decision gates and of
            the last linear layers of heads stay float32 in the last two, those of
            depthwise convolutions in "dynamic". A first net of an int8 file has 8-bit
            weights alone, which is faster on x86: see `GateOptions`. "auto": the fastest
            of all that keeps to `tolerance`, int8 with some layers in float32 among
            them; the report's `tried` has a row for each.
        representative_data: For "int8" (a quantize-aware model needs none), and for
            "dynamic" if at hand (features then keep their means through 8-bit kernels):
            images 0 to 255, an array `[N, height, width, channels]`, arrays (images,
            labels), a dataset of images or (image, label), or TensorFlow's form, a
            function that yields lists or dicts of one batch.
        options: What one kind of net takes only: `GateOptions`, of an anytime net
            `AnytimeOptions`. None: their defaults.
        input_type: "float32", or "uint8" for camera frames; always 0 to 255.
        labels: A list of class names, stored in the file; two for a model of one
            output, whose label is 1 where its raw score is above 0.
        signatures: Those to keep in the file, to make it smaller; the first of them in
            the file's order is its default. None: all there are.
        parity_data: Images to compare the file with Keras on. None: 16 of
            `representative_data`, or random ones, and no more than fit into 20 seconds;
            so every export is compared. False: no comparison.
        calibration_samples: How many images of `representative_data` to use: of an
            array evenly spaced ones, which may lie class by class; else the first.
        tolerance: For "auto": accuracy that may be lost against the float32 file, 0 to
            1; of data without labels, the share of labels that may differ. Default .005.
        guard_data: For "auto", to judge on: arrays (images, labels), or images. None:
            `representative_data`.
        keep_float: For "int8": names, or paths, of convolutions and dense layers that
            stay in float32 (`layer_errors` says which lose most). Those of a
            quantize-aware net are named when it is made.
        group_size, subnetworks, share_weights: As in `options`, in the form of version
            0.1.0; they will go in version 0.3.

    Returns:
        An `ExportReport`.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ValueError: For early exits without thresholds, a model without a known image
            size or with several inputs or outputs, a bad argument, missing
            representative data, a group size that does not fit, or an unwritable path.
            Nothing is written then.

    Warns:
        UserWarning: If labels or exits of the file agree with Keras on fewer than 98 %
            of the images it was compared on, near ties apart; or if images that should
            be 0 to 255 are 0 to 1.
        DeprecationWarning: For arguments that are `options` now.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        report = kd.export_tflite(model, "net.tflite", quantization="dynamic")
        print(report)  # sizes, signatures, branches, the comparison with Keras
        ```
    """
    options = from_keywords(
        options,
        group_size=group_size,
        subnetworks=subnetworks,
        share_weights=share_weights,
    )
    one_of("quantization", quantization, ("float32", *QUANTIZATIONS, "auto"))
    rounds = is_quantize_aware(model)
    if rounds and quantization != "int8":
        raise ValueError(
            "`quantization` must be 'int8' for a quantize-aware model, which computes as "
            "such a file does; for others export `kd.strip_quantization(model)`. "
            f"Received: quantization={quantization!r}"
        )
    if keep_float and (rounds or quantization != "int8"):
        raise ValueError(
            "`keep_float` goes with `quantization='int8'` ('auto' finds such layers by "
            "itself) of a net that is not quantize-aware: there `quantize_aware` takes "
            f"the names. Received: keep_float={keep_float!r}, "
            f"quantization={quantization!r}"
        )
    if quantization == "auto":
        return export_guarded(
            export_tflite,
            model,
            writable_target("path", path),
            tolerance=tolerance,
            guard_data=guard_data,
            representative_data=representative_data,
            options=options,
            input_type=input_type,
            labels=labels,
            signatures=signatures,
            calibration_samples=calibration_samples,
        )
    made = plan(model, options)
    graph = made.graph
    shape: tuple[int, ...] = tuple(graph.inputs[0].shape[1:])
    quantization = None if quantization == "float32" else quantization
    one_of("input_type", input_type, ("float32", "uint8"))
    names = check_labels(labels, class_count(graph))
    target = writable_target("path", path)
    images = None
    count = positive_int("calibration_samples", calibration_samples)
    given = representative_data is not None
    kernels = named_kernels(made.graphs, keep_float)
    if rounds:
        check_ranges(model)
    if quantization == "int8":
        check_recurrent(made.graphs)
    if (quantization == "int8" and (given or not rounds)) or (
        quantization == "dynamic" and given
    ):
        images = calibration_images(representative_data, shape, count)
        if images.ndim == 4:
            watch = RangeWatch()
            watch.look(images)
            watch.warn("representative_data")
    compared = parity_images(parity_data, images, shape, input_type)
    with _one_at_a_time:
        traced = made.trace(
            input_type=input_type,
            int8=quantization == "int8",
            images=None if rounds else images,
        )
        if signatures is not None:
            check_signatures(traced.table, signatures)
        feed = None
        if images is not None and quantization == "int8" and not rounds:
            feed = traced.feed(images)
        file = convert(traced.functions, quantization, feed)
        metadata = {
            "keras_dyngate": __version__,
            "model": model.name,
            "quantization": quantization,
            "input": _described(shape),
            "executed_macs": "thousands of MACs, controllers included",
            "macs": traced.profile.total,
            "gateable_macs": traced.profile.gateable,
            "controller_macs": traced.profile.controllers,
            "group_sizes": traced.lowering.group_sizes,
            "labels": names,
            **traced.metadata,
        }
        if rounds:
            metadata["quantize_aware"] = True
        floats = in_float(model, traced) if rounds else {"float_layers": kernels}
        traced = dataclasses.replace(traced, metadata=metadata, **floats)
        for each in passes(quantization):
            each(file, traced)
    content = flatbuffer.write(file)
    parity = None
    if compared is not None:
        seconds = PARITY_SECONDS if parity_data is None else None
        parity = _parity(made, content, compared[0], seconds)
    if signatures is not None:
        keep_signatures(file, signatures)
        note_metadata(file, traced)
        flatbuffer.drop_unused_buffers(file)
        content = flatbuffer.write(file)
    write_whole(target, content)

    litert = LiteRTModel(target)
    kept = [entry.signatureKey.decode() for entry in file.signatureDefs]
    sample = np.zeros(shape, input_type) if images is None else images[0]
    sample = sample.astype(input_type)
    report = ExportReport(
        path=str(target),
        bytes=target.stat().st_size,
        quantization=quantization or "float32",
        signatures={name: tuple(litert.signatures[name].outputs) for name in kept},
        branches=tuple(traced.lowering.branches),
        group_sizes=dict(traced.lowering.group_sizes),
        macs=traced.profile,
        latency_ms=_milliseconds(litert, kept[0], sample),
        parity=parity,
        **made.measure(litert, file, traced.profile, sample),
    )
    if compared is not None and parity is not None:
        warn_of(parity, compared[1])
    return report
