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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate import __version__
from keras_dyngate._checks import one_of
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate._images import take_images
from keras_dyngate.export.anytime import plan_anytime
from keras_dyngate.export.carried_bytes import carry_bytes
from keras_dyngate.export.conversion import QUANTIZATIONS, convert
from keras_dyngate.export.exits import limits_to, plan_exits
from keras_dyngate.export.filled_constants import fill_constants
from keras_dyngate.export.graph import Plan, plan_classifier
from keras_dyngate.export.parity import Parity, check_parity
from keras_dyngate.export.report import ExportReport
from keras_dyngate.export.subnetwork_costs import subnetwork_costs
from keras_dyngate.export.views import (
    add_view,
    freeze_input,
    keep_signatures,
    make_default,
)
from keras_dyngate.models.anytime_model import AnytimeModel
from keras_dyngate.models.early_exit import EarlyExitModel
from keras_dyngate.runtime import LiteRTModel, flatbuffer
from keras_dyngate.runtime.litert_model import METADATA_NAME

MAX_CLASSES = 256  # of a pixel


def _check_model(model: Any) -> tuple[int, ...]:
    """The image shape of an exportable model, or a clear error."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Exporting needs Keras on TensorFlow: save the model to a .keras file and "
            "export it in a process with KERAS_BACKEND=tensorflow. "
            f"Received: the {keras.backend.backend()} backend"
        )
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built keras.Model. Received: {type(model).__name__}"
        )
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "`model` must have one input, [batch, height, width, channels]. "
            f"Received: input_shape={shape!r}"
        )
    if None in shape[1:]:
        raise ValueError(
            "A file has static shapes: build the model for a known image size, "
            f"`input_shape=(height, width, 3)`. Received: input_shape={shape}"
        )
    found = model.output_shape
    if not isinstance(model, (AnytimeModel, EarlyExitModel)) and not (
        isinstance(found, tuple) and len(found) in (2, 4) and None not in found[1:]
    ):
        raise ValueError(
            "`model` must have one output, scores [batch, classes] or [batch, height, "
            f"width, classes]. Received: output_shape={found!r}"
        )
    if len(found) == 4 and found[-1] > MAX_CLASSES:
        raise ValueError(
            f"`model` must tell {MAX_CLASSES} classes or fewer apart: the labels of "
            f"pixels are uint8. Received: output_shape={found!r}"
        )
    return shape[1:]


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


def _check_signatures(plan: Plan, wanted: Sequence[str]) -> None:
    """Those that are kept must be there, and steps not lack one before them."""
    known = {*plan.functions, *(view.name for view in plan.views)}
    if isinstance(wanted, str) or not wanted or set(wanted) - known:
        raise ValueError(
            f"`signatures` must be a list of one or more of {sorted(known)}. "
            f"Received: signatures={wanted!r}"
        )
    kept = [name for name in plan.steps if name in wanted]
    missing = set(plan.steps[: len(kept)]) - set(kept)
    if missing:
        raise ValueError(
            f"`signatures` must hold every step before its last one, {kept[-1]!r}, too. "
            f"Received: signatures={wanted!r}"
        )


def _parity(model: keras.Model, content: bytes, images: np.ndarray) -> Parity:
    """Agreement of a file that has all its signatures still."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        path.write_bytes(content)
        return check_parity(model, path, images)


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
        model: A classifier, or a segmentation net, on one image input of known size, on
            the TensorFlow backend. Gated blocks become branches; all other layers are
            converted as they are.
        path: Of the file to write; an existing one is replaced at the very end.
        quantization: None (float32), "float16" (weights), "dynamic" (int8 weights) or
            "int8" (weights and activations).
        representative_data: For "int8": images 0 to 255, an array `[N, height, width,
            channels]` or a dataset of images or (image, label).
        group_size: Channels that run together. None: the gates' own groups, or as many
            of them as make 16 channels. Per-channel scores still multiply inside.
        input_type: "float32", or "uint8" for camera frames; always 0 to 255.
        labels: Class names, stored in the file.
        signatures: Those to keep in the file, to make it smaller; the first of them in
            the file's order is its default. None: all there are.
        subnetworks: Of an anytime net, those that get a signature `classify_k<k>`.
            None: the largest of a sliced net, all of an I-ResNeXt.
        share_weights: Of an I-ResNeXt with several `subnetworks`: True stores the
            convolutions once; False a folded copy for each, which is faster. None: what
            is smaller. The report says what each costs.
        parity_data: Images to compare the file with Keras on. None: no comparison.
        calibration_samples: How many images of `representative_data` to use.

    Returns:
        An `ExportReport`.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ValueError: For early exits without thresholds, a model without a known image
            size, a bad argument, missing representative data, a group size that does
            not fit, or an unwritable path. Nothing is written then.
    """
    shape = _check_model(model)
    one_of("quantization", quantization, QUANTIZATIONS)
    one_of("input_type", input_type, ("float32", "uint8"))
    target = writable_target("path", path)
    images = None
    if quantization == "int8":
        if representative_data is None:
            raise ValueError(
                "`quantization='int8'` needs `representative_data`: some hundred images, "
                "0 to 255. Received: representative_data=None"
            )
        images = take_images(
            "representative_data", representative_data, shape, calibration_samples
        )
    if parity_data is not None:
        parity_data = take_images("parity_data", parity_data, shape)
    if labels is not None and len(labels) != model.output_shape[-1]:
        raise ValueError(
            f"`labels` must name the model's {model.output_shape[-1]} classes. "
            f"Received: {len(labels)} names"
        )

    anytime = isinstance(model, AnytimeModel)
    given = {
        "group_size": group_size if anytime else None,
        "subnetworks": None if anytime else subnetworks,
        "share_weights": None if anytime else share_weights,
    }
    for name, value in given.items():
        if value is not None:
            kind = "gated nets" if anytime else "anytime nets"
            raise ValueError(f"`{name}` is for {kind} only. Received: {name}={value!r}")
    if anytime:
        plan = plan_anytime(
            model,
            subnetworks=subnetworks,
            input_type=input_type,
            share_weights=share_weights,
            int8=quantization == "int8",
        )
    else:
        make_plan = plan_exits if isinstance(model, EarlyExitModel) else plan_classifier
        plan = make_plan(
            model,
            group_size=group_size,
            input_type=input_type,
            with_force=quantization == "int8",
        )
    if signatures is not None:
        _check_signatures(plan, signatures)
    feed = None if images is None else plan.feed(images)
    file = flatbuffer.read(
        convert(plan.functions, quantization, feed, plan.float_kernels)
    )
    if quantization == "int8":
        carry_bytes(file, plan.steps)
    fill_constants(file)
    _add_signatures(file, plan)
    metadata = {
        "keras_dyngate": __version__,
        "model": model.name,
        "quantization": quantization,
        "input": "RGB, 0 to 255, [1, height, width, channels]",
        "executed_macs": "thousands of MACs, controllers included",
        "macs": plan.profile.total,
        "gateable_macs": plan.profile.gateable,
        "controller_macs": plan.profile.controllers,
        "group_sizes": plan.lowering.group_sizes,
        "labels": None if labels is None else list(labels),
        **plan.metadata,
    }
    flatbuffer.set_metadata(file, METADATA_NAME, json.dumps(metadata).encode())
    content = flatbuffer.write(file)
    parity = None if parity_data is None else _parity(model, content, parity_data)
    if signatures is not None:
        keep_signatures(file, signatures)
        content = flatbuffer.write(file)
    write_whole(target, content)

    litert = LiteRTModel(target)
    names = [entry.signatureKey.decode() for entry in file.signatureDefs]
    sample = np.zeros(shape, input_type) if images is None else images[0]
    sample = sample.astype(input_type)
    return ExportReport(
        path=str(target),
        bytes=target.stat().st_size,
        quantization=quantization,
        signatures={name: tuple(litert.signatures[name].outputs) for name in names},
        branches=tuple(plan.lowering.branches),
        group_sizes=dict(plan.lowering.group_sizes),
        macs=plan.profile,
        latency_ms=_milliseconds(litert, names[0], sample),
        exit_ms=_time_exits(litert, sample),
        subnetworks=subnetwork_costs(litert, content, plan.profile, sample)
        if plan.profile.per_subnetwork
        else (),
        parity=parity,
    )
