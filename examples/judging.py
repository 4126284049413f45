"""What the training scripts share at the end: test images once, files, executed MACs."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

import keras_dyngate as kd
from keras_dyngate._walk import controllers
from keras_dyngate.callbacks import decision_statistics
from keras_dyngate.datasets import Data
from keras_dyngate.decisions import DecisionModel

FLAGS = flags.FLAGS


def limited(data: Data) -> Data:
    """`data` with no more images than the flags allow; by the seed of the split."""
    train, test = data.train, data.test
    if FLAGS.train_samples is not None and FLAGS.train_samples < len(train):
        train = train.subset(range(FLAGS.train_samples))
    if FLAGS.test_samples is not None and FLAGS.test_samples < len(test):
        test = test.subset(range(FLAGS.test_samples))
    return dataclasses.replace(data, train=train, test=test)


def exports() -> bool:
    """Whether files are asked for and can be made here."""
    return bool(FLAGS.export) and keras.backend.backend() == "tensorflow"


def export_files(
    model: keras.Model, folder: Path, data: Data, samples: int = 200
) -> dict[str, Any]:
    """Export in float32 and with 8-bit weights; all test images through each file.

    Nothing, and an empty dict, with `--noexport` or on another backend than TensorFlow.

    Args:
        model: What to export.
        folder: Where to put `float32.tflite` and `dynamic.tflite`.
        data: Its test images are gone through one by one.
        samples: How many of them are compared with Keras.
    """
    files: dict[str, Any] = {}
    if not exports():
        return files
    size = FLAGS.export_group_size
    options = None if size is None else kd.GateOptions(group_size=size)
    for quantization in (None, "dynamic"):
        name = quantization or "float32"
        report = kd.export_tflite(
            model,
            folder / f"{name}.tflite",
            quantization=quantization,
            options=options,
            labels=data.classes,
            parity_data=data.test.arrays(samples)[0],
        )
        print(report)
        kept = {} if data.ignore_class is None else {"ignore_class": data.ignore_class}
        found = kd.LiteRTModel(report.path).evaluate(
            data.test.batches(16).as_numpy_iterator(), **kept
        )
        files[name] = {
            "bytes": report.bytes,
            "group_sizes": report.group_sizes,
            "agreement": report.parity.argmax_agreement,
            "decision_agreement": report.parity.decision_agreement,
            **{k: v for k, v in found.items() if isinstance(v, (int, float))},
        }
    return files


def look(
    model: keras.Model, data: Data, files: dict[str, Any], batch_size: int = 128
) -> dict[str, Any]:
    """The test images in Keras: what was right, what was decided, what that costs.

    Args:
        model: A classifier, or a net that labels pixels.
        data: Images and labels; pixels of `ignore_class` do not count.
        files: From `export_files`; which groups of channels run together.
        batch_size: Images at a time.

    Returns:
        `accuracy` (for pixels also `mean_iou`), `plain_macs`, `macs` (the paper's
        count) and `executed_macs` (in the files' groups) per image, controllers
        included; of a gated net also `open_rate` and the shares of gates that are
        `always_on`, `always_off` and `conditional`.
    """
    gated = any(True for _ in controllers(model))
    runner = DecisionModel(model) if gated else model
    pixels = len(model.output_shape) == 4
    ignore = data.ignore_class
    overlap = keras.metrics.MeanIoU(len(data.classes), ignore_class=ignore)
    right = counted = 0
    decided: dict[str, list[np.ndarray]] = {}
    for images, labels in data.test.batches(batch_size).as_numpy_iterator():
        outputs = runner.predict_on_batch(images)
        if gated:
            for name, values in outputs["decisions"].items():
                decided.setdefault(name, []).append(values)
            outputs = outputs["outputs"]
        answers = outputs.argmax(-1)
        valid = labels != (-1 if ignore is None else ignore)
        right += int(((answers == labels) & valid).sum())
        counted += int(valid.sum())
        if pixels:
            overlap.update_state(labels, answers)
    profile = kd.count_macs(model)
    found: dict[str, Any] = {"accuracy": right / counted, "plain_macs": profile.total}
    if pixels:
        found["mean_iou"] = float(overlap.result())
    if not gated:
        return {**found, "macs": profile.total, "executed_macs": profile.total}
    decisions = {name: np.concatenate(parts) for name, parts in decided.items()}
    statistics = decision_statistics(decisions)
    for name in ("open_rate", "always_on", "always_off", "conditional"):
        found[name] = statistics[name]
    found["macs"] = float(profile.of(decisions).mean())
    if files:
        groups = files["float32"]["group_sizes"]
        found["executed_macs"] = float(profile.of(decisions, groups).mean())
    return found
