"""From a Keras model to one .tflite file that executes conditionally.

    report = kd.export_tflite(model, "net.tflite", quantization="dynamic")
    print(report)

The file has two signatures, at batch 1:

    classify(image) -> logits, label, executed_macs (thousands of MACs)
    explain(image)  -> the same, and every decision by name

Of a segmentation net, whose logits are [batch, height, width, classes], the first is

    segment(image)  -> labels (uint8, of every pixel), executed_macs

and only `explain` puts the logits out.

A net with early exits has more: see `keras_dyngate.export.exits`. An anytime net has a
signature per step and per sub-network instead of `explain`: `keras_dyngate.export.anytime`.
"""

import json
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
from keras_dyngate._graph import FlatGraph
from keras_dyngate._image_range import RangeWatch
from keras_dyngate.export.anytime import plan_anytime
from keras_dyngate.export.arguments import (
    calibration_images,
    check_kinds,
    check_labels,
    check_model,
    check_recurrent,
    check_signatures,
    class_count,
    parity_images,
)
from keras_dyngate.export.carried_bytes import carry_bytes
from keras_dyngate.export.conversion import QUANTIZATIONS, convert
from keras_dyngate.export.eight_bit_weights import eight_bit_weights
from keras_dyngate.export.exits import plan_exits
from keras_dyngate.export.filled_constants import fill_constants
from keras_dyngate.export.float_kernels import float_depthwise, float_gates
from keras_dyngate.export.graph import Plan, plan_classifier
from keras_dyngate.export.parity import Parity, check_parity, warn_of
from keras_dyngate.export.report import ExportReport
from keras_dyngate.export.subnetwork_costs import subnetwork_costs
from keras_dyngate.export.views import (
    add_view,
    freeze_input,
    keep_signatures,
    make_default,
)
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.layers import ExitHead
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.runtime.litert_model import METADATA_NAME

# The converter and its calibration are not made for several at a time.
_one_at_a_time = threading.Lock()
PARITY_SECONDS = 20.0  # after which a comparison that nobody asked for ends


def _plan(
    model: Any,
    graph: FlatGraph,
    int8: bool,
    input_type: str,
    options: dict[str, Any],
) -> Plan:
    """Trace a model, by its kind."""
    if isinstance(model, AnytimeModel):
        return plan_anytime(model, input_type=input_type, int8=int8, **options)
    options = {**options, "input_type": input_type, "with_force": int8}
    if isinstance(model, EarlyExitModel):
        return plan_exits(model, **options)
    return plan_classifier(model, graph, **options)


def _head_graphs(model: keras.Model) -> list[FlatGraph]:
    """The calls of the heads of exits, if a model has any."""
    gates = model.gates if isinstance(model, EarlyExitModel) else []
    return [gate.graph for gate in gates if isinstance(gate, ExitHead)]


def _described(shape: tuple[int, ...]) -> str:
    """The input of a file in words."""
    if len(shape) != 3:
        return f"numbers as the model takes them, {[1, *shape]}"
    kind = {1: "grey", 3: "RGB"}.get(shape[-1], f"{shape[-1]} channels")
    return f"{kind}, 0 to 255, [1, height, width, channels]"


def _add_signatures(file: Any, plan: Plan) -> None:
    """Freeze what was for calibration, and add the views, the first as default."""
    for name, blocks in plan.forced.items():
        freeze_input(file, name, "force", np.zeros(blocks, np.int32))
    for view in plan.views:
        share = not view.frozen
        add_view(file, view.source, view.name, view.outputs, share)
        for name, value in view.frozen.items():
            freeze_input(file, view.name, name, value)
    make_default(file, plan.views[0].name)


def _parity(
    model: keras.Model, content: bytes, images: np.ndarray, seconds: float | None
) -> Parity:
    """Agreement of a file that has all its signatures still."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        path.write_bytes(content)
        return check_parity(model, path, images, seconds=seconds)


def _milliseconds(litert: LiteRTModel, name: str, image: np.ndarray) -> float:
    """Median of 5 runs of a signature; all inputs but the image are zero."""
    inputs = {
        key: image[None] if key == "image" else np.zeros(spec.shape, spec.dtype)
        for key, spec in litert.signatures[name].inputs.items()
    }
    return litert.benchmark(name, inputs, repeats=5, warmup=1).median_ms


def _time_exits(litert: LiteRTModel, image: np.ndarray) -> tuple[float, ...] | None:
    """Median ms of 5 runs to each exit of a file, the head last; None without exits."""
    if "classify_at" not in litert.signatures:
        return None
    (gates,) = litert.signatures["classify_at"].inputs["thresholds"].shape
    times = []
    for gate in range(gates + 1):
        inputs = {"image": image, "thresholds": limits_to(gate, gates)}
        found = litert.benchmark("classify_at", inputs, repeats=5, warmup=1)
        times.append(found.median_ms)
    return tuple(times)


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantization: str | None = None,
    representative_data: Any = None,
    group_size: int | None = None,
    input_type: str = "float32",
    labels: Sequence[str] | None = None,
    signatures: Sequence[str] | None = None,
    subnetworks: Sequence[int] | None = None,
    share_weights: bool | None = None,
    parity_data: Any = None,
    calibration_samples: int = 128,
) -> ExportReport:
    """Convert a model to a .tflite file in which skipped work is not done.

    Args:
        model: A classifier, or a segmentation net, on one input of known size (an
            image, a series, a vector), on the TensorFlow backend. Gated blocks become
            branches; all other layers are converted as they are, in float32 whatever
            they were trained in. The model and Keras stay as they are.
        path: Of the file to write; an existing one is replaced at the very end.
        quantization: None or "float32", "float16" (weights), "dynamic" (int8 weights)
            or "int8" (weights and activations). The kernels of decision gates and of
            the last linear layers of heads stay float32 in the last two, those of
            depthwise convolutions in "dynamic". A first net of an int8 file has 8-bit
            weights alone, which is faster: see `eight_bit_weights`.
        representative_data: For "int8", and for "dynamic" if at hand (features then keep
            their means through 8-bit kernels): images 0 to 255, an array `[N, height,
            width, channels]`, arrays (images, labels), a dataset of images or (image,
            label), or TensorFlow's form, a function that yields lists or dicts of one
            batch.
        group_size: Channels that run together. None: the gates' own groups, or as many
            of them as make 16 channels. Per-channel scores still multiply inside.
        input_type: "float32", or "uint8" for camera frames; always 0 to 255.
        labels: A list of class names, stored in the file; two for a model of one
            output, whose label is 1 where its raw score is above 0.
        signatures: Those to keep in the file, to make it smaller; the first of them in
            the file's order is its default. None: all there are.
        subnetworks: Of an anytime net, those that get a signature `classify_k<k>`.
            None: the largest of a sliced net, all of an I-ResNeXt.
        share_weights: Of an I-ResNeXt with several `subnetworks`: True stores the
            convolutions once; False a folded copy for each, which is faster. None: what
            is smaller. The report says what each costs.
        parity_data: Images to compare the file with Keras on. None: 16 of
            `representative_data`, or random ones, and no more than fit into 20 seconds;
            so every export is compared. False: no comparison.
        calibration_samples: How many images of `representative_data` to use.

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

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        report = kd.export_tflite(model, "net.tflite", quantization="dynamic")
        print(report)  # sizes, signatures, branches, the comparison with Keras
        ```
    """
    graph = check_model(model)
    shape: tuple[int, ...] = tuple(graph.inputs[0].shape[1:])
    one_of("quantization", quantization, ("float32", *QUANTIZATIONS))
    quantization = None if quantization == "float32" else quantization
    one_of("input_type", input_type, ("float32", "uint8"))
    names = check_labels(labels, class_count(graph))
    target = writable_target("path", path)
    anytime = isinstance(model, AnytimeModel)
    check_kinds(
        anytime,
        group_size=group_size,
        subnetworks=subnetworks,
        share_weights=share_weights,
    )
    images = None
    count = positive_int("calibration_samples", calibration_samples)
    given = representative_data is not None
    if quantization == "int8":
        check_recurrent([graph, *_head_graphs(model)])
    if quantization == "int8" or (quantization == "dynamic" and given):
        images = calibration_images(representative_data, shape, count)
        if images.ndim == 4:
            watch = RangeWatch()
            watch.look(images)
            watch.warn("representative_data")
    compared = parity_images(parity_data, images, shape, input_type)
    options: dict[str, Any] = {"group_size": group_size, "images": images}
    if anytime:
        options = {"subnetworks": subnetworks, "share_weights": share_weights}
    with _one_at_a_time:
        plan = _plan(model, graph, quantization == "int8", input_type, options)
        if signatures is not None:
            known = {*plan.functions, *(view.name for view in plan.views)}
            check_signatures(known, plan.steps, signatures)
        feed = None
        if images is not None and quantization == "int8":
            feed = plan.feed(images)
        content = convert(plan.functions, quantization, feed, plan.float_kernels)
        file = flatbuffer.read(content)
        if quantization == "dynamic":
            float_gates(file, plan.gate_kernels)
            float_depthwise(file, lambda: convert(plan.functions, None))
    if quantization == "int8":
        eight_bit_weights(file, [k for forms in plan.gate_kernels for k in forms])
        carry_bytes(file, plan.steps)
    fill_constants(file)
    _add_signatures(file, plan)
    metadata = {
        "keras_dyngate": __version__,
        "model": model.name,
        "quantization": quantization,
        "input": _described(shape),
        "executed_macs": "thousands of MACs, controllers included",
        "macs": plan.profile.total,
        "gateable_macs": plan.profile.gateable,
        "controller_macs": plan.profile.controllers,
        "group_sizes": plan.lowering.group_sizes,
        "labels": names,
        **plan.metadata,
    }
    flatbuffer.set_metadata(file, METADATA_NAME, json.dumps(metadata).encode())
    content = flatbuffer.write(file)
    parity = None
    if compared is not None:
        seconds = PARITY_SECONDS if parity_data is None else None
        parity = _parity(model, content, compared[0], seconds)
    if signatures is not None:
        keep_signatures(file, signatures)
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
        branches=tuple(plan.lowering.branches),
        group_sizes=dict(plan.lowering.group_sizes),
        macs=plan.profile,
        latency_ms=_milliseconds(litert, kept[0], sample),
        exit_ms=_time_exits(litert, sample),
        subnetworks=subnetwork_costs(litert, content, plan.profile, sample)
        if plan.profile.per_subnetwork
        else (),
        parity=parity,
    )
    if compared is not None and parity is not None:
        warn_of(parity, compared[1])
    return report
