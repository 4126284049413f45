"""Run and time a .tflite file by signature, with ai-edge-litert and NumPy alone.

An exported file has several entry points, each with named inputs and outputs, and one
input of batch size 1. `LiteRTModel` checks what it is given against the file, so that a
wrong image fails with a sentence instead of running on reinterpreted numbers:

    model = LiteRTModel("resnet34.tflite")
    model.run("classify", image=image)["label"]
    model.evaluate((images, labels))["accuracy"]
    model.benchmark("classify", {"image": image}).median_ms
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyngate._checks import positive_int
from keras_dyngate.runtime.scores import ImageScores, PixelScores

METADATA_NAME = "keras_dyngate"
MACS_UNIT = 1000  # `executed_macs` counts thousands, so that it fits an int32
UINT8_CLASSES = 256  # that the labels of pixels can tell apart

_IDENTIFIER = b"TFL3"


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one input or output; -1 stands for a size left open."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape may be fed."""
        return len(shape) == len(self.shape) and all(
            mine in (-1, theirs) for mine, theirs in zip(self.shape, shape, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point of a file: its inputs and outputs by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """Wall-clock times of one signature, in milliseconds per call."""

    signature: str
    num_threads: int
    median_ms: float
    mean_ms: float
    p90_ms: float
    min_ms: float
    repeats: int
    times_ms: tuple[float, ...]


class LiteRTModel:
    """A .tflite file, ready to run.

    The file is read into memory once. An instance serves one caller at a time; use one
    instance per thread.

    Args:
        path: The .tflite file.
        num_threads: Positive int, the CPU threads of the kernels.

    Attributes:
        signatures: Mapping from signature name to its `inputs` and `outputs`, which
            map names to `TensorSpec(shape, dtype)`.
        metadata: What the exporter wrote into the file (labels, units, ...); empty
            for a file from elsewhere.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is no .tflite file that LiteRT can run, or `num_threads`
            is not a positive int.
        ImportError: ai-edge-litert is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 1) -> None:
        self.num_threads = positive_int("num_threads", num_threads)
        self.path = Path(path)
        content = _read(self.path)
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "`LiteRTModel` needs the package ai-edge-litert. Install it with "
                "`pip install keras_dyngate[litert]`."
            ) from error
        try:
            # Verifies the whole flatbuffer before it reads from it.
            interpreter = Interpreter(
                model_content=content, num_threads=self.num_threads
            )
            self._runners = {
                name: interpreter.get_signature_runner(name)
                for name in interpreter.get_signature_list()
            }
        except (ValueError, RuntimeError) as error:
            raise ValueError(_not_tflite(self.path, content, str(error))) from error
        self.signatures = {
            name: Signature(
                inputs=_specs(runner.get_input_details()),
                outputs=_specs(runner.get_output_details()),
            )
            for name, runner in self._runners.items()
        }
        self.metadata = _metadata(self.path, content)

    @property
    def labels(self) -> Any:
        """The class names stored in the file, or None."""
        return self.metadata.get("labels")

    def run(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Run one signature once.

        Args:
            signature: Name of the signature.
            **inputs: One array per input of the signature. The batch axis may be left
                out. Numbers are converted to the dtype of the file where their value
                survives: whole numbers in range for an integer input, any real
                numbers for a float input.

        Returns:
            Mapping from output name to an array that the caller owns.

        Raises:
            ValueError: The signature, the input names, a shape or a value does not
                suit the file.
        """
        self._known(signature)
        return self._timed(signature, self._feed(signature, inputs))[0]

    def evaluate(
        self,
        dataset: Any,
        signature: str | None = None,
        *,
        ignore_class: int | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Classify labelled images, or all pixels of them, one image at a time.

        Args:
            dataset: A tuple `(images, labels)` of arrays, or an iterable of pairs
                `(image, label)`, single or batched; NumPy arrays or tensors. Labels
                are class indices, for a segmentation net maps of them, `[height,
                width]` or `[height, width, 1]`.
            signature: Name of a signature with an output `label`, `labels` or `logits`.
                None: "segment" if the file has it, else "classify".
            ignore_class: For a segmentation net: the label of pixels that do not count.
            **inputs: Its inputs other than the image, the same for every sample.

        Returns:
            A dict with `accuracy` (0 to 1), `samples`, `mean_ms` and `median_ms` per
            image, and `mean_executed_macs` (MACs per image; None if the file does not
            report them). Of images also `labels` (predicted class indices, [samples]),
            and `exit` (exit indices, [samples]) if the signature has that output. Of
            pixels, over the whole dataset, `mean_iou` of the classes that occur in
            labels or answers, `class_iou` ([classes], NaN for a class that does not),
            and `pixels`, the number that counted.

        Raises:
            ValueError: The dataset is empty or does not suit the signature.
        """
        if signature is None:
            signature = "segment" if "segment" in self.signatures else "classify"
        spec = self.signatures[self._known(signature)]
        image_names = [name for name in spec.inputs if name not in inputs]
        scores = self._scores(signature, ignore_class)
        if len(image_names) != 1:
            raise ValueError(
                "Every input of the signature but the image must be given as a keyword "
                f"argument. Received: {sorted(inputs)} for the inputs "
                f"{sorted(spec.inputs)} of signature={signature!r}"
            )
        (image_name,) = image_names
        rank = len(spec.inputs[image_name].shape)
        macs, times = [], []
        for image, label in _samples(dataset, rank, scores.label_shape):
            feed = self._feed(signature, {image_name: image, **inputs})
            outputs, elapsed = self._timed(signature, feed)
            scores.add(label, outputs)
            times.append(elapsed)
            if "executed_macs" in outputs:
                macs.append(np.ravel(outputs["executed_macs"])[0])
        if not times:
            raise ValueError(
                "`dataset` must hold at least one sample. Received: an empty dataset"
            )
        return {
            **scores.result(),
            "samples": len(times),
            "mean_ms": float(np.mean(times)),
            "median_ms": float(np.median(times)),
            "mean_executed_macs": float(np.mean(macs, dtype=np.float64)) * MACS_UNIT
            if macs
            else None,
        }

    def _scores(
        self, signature: str, ignore_class: int | None
    ) -> ImageScores | PixelScores:
        """What is to gather the answers of a signature."""
        outputs = self.signatures[signature].outputs
        decision = next(
            (k for k in ("label", "labels", "logits") if k in outputs), None
        )
        if decision is None:
            raise ValueError(
                "`signature` must have an output 'label', 'labels' or 'logits'. "
                f"Received: signature={signature!r} with outputs {sorted(outputs)}"
            )
        if decision == "labels":
            classes = self.metadata.get("classes", UINT8_CLASSES)
            return PixelScores(outputs["labels"].shape[1:], classes, ignore_class)
        if ignore_class is not None:
            raise ValueError(
                "`ignore_class` is for signatures with an output 'labels'. Received: "
                f"ignore_class={ignore_class} for signature={signature!r}"
            )
        return ImageScores(decision)

    def benchmark(
        self,
        signature: str,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        repeats: int = 20,
        warmup: int = 3,
    ) -> BenchmarkResult:
        """Time a signature as its caller sees it: inputs in, work, outputs out.

        Args:
            signature: Name of the signature.
            inputs: One dict of inputs, or a sequence of dicts to go through in turn,
                since the time of a dynamic network depends on its input.
            repeats: Positive int, the timed calls.
            warmup: Int from 0, the calls before those.

        Returns:
            A `BenchmarkResult`; `times_ms` has one entry per timed call.

        Raises:
            ValueError: An argument is out of range or does not suit the file.
        """
        repeats = positive_int("repeats", repeats)
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
            raise ValueError(
                f"`warmup` must be an integer from 0. Received: warmup={warmup!r}"
            )
        given = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        if not given:
            raise ValueError(
                "`inputs` must be a dict or a sequence of dicts. "
                f"Received: inputs={inputs!r}"
            )
        self._known(signature)
        feeds = [self._feed(signature, feed) for feed in given]
        for i in range(warmup):
            self._timed(signature, feeds[i % len(feeds)])
        times = tuple(
            self._timed(signature, feeds[i % len(feeds)])[1] for i in range(repeats)
        )
        return BenchmarkResult(
            signature=signature,
            num_threads=self.num_threads,
            median_ms=float(np.median(times)),
            mean_ms=float(np.mean(times)),
            p90_ms=float(np.percentile(times, 90)),
            min_ms=min(times),
            repeats=repeats,
            times_ms=times,
        )

    def _known(self, signature: str) -> str:
        if signature not in self.signatures:
            raise ValueError(
                f"`signature` must be one of {sorted(self.signatures)}. "
                f"Received: signature={signature!r}"
            )
        return signature

    def _feed(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs as arrays of the file's shapes and dtypes."""
        specs = self.signatures[signature].inputs
        if set(inputs) != set(specs):
            raise ValueError(
                f"The inputs of signature {signature!r} must be {sorted(specs)}. "
                f"Received: {sorted(inputs)}"
            )
        return {name: _fit(name, inputs[name], spec) for name, spec in specs.items()}

    def _timed(
        self, signature: str, feed: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], float]:
        """Outputs and milliseconds of one call."""
        runner = self._runners[signature]
        start = time.perf_counter()
        outputs = runner(**feed)
        return outputs, 1e3 * (time.perf_counter() - start)


def _fit(name: str, value: Any, spec: TensorSpec) -> np.ndarray:
    """`value` with the shape and dtype of `spec`, or a `ValueError`."""
    array = np.asarray(value)
    if not spec.accepts(array.shape) and spec.accepts((1, *array.shape)):
        array = array[np.newaxis]
    if not spec.accepts(array.shape):
        raise ValueError(
            f"Input `{name}` must have the shape {spec.shape}, where the batch axis "
            f"may be left out. Received: shape={array.shape}"
        )
    if array.dtype == spec.dtype:
        return array
    if spec.dtype.kind == "f" and array.dtype.kind in "biuf":
        return array.astype(spec.dtype)
    if spec.dtype.kind in "iu" and array.dtype.kind in "biuf":
        limits = np.iinfo(spec.dtype)
        if array.size == 0 or limits.min <= array.min() <= array.max() <= limits.max:
            whole = array.astype(spec.dtype)
            if np.array_equal(whole, array):
                return whole
        raise ValueError(
            f"Input `{name}` must hold whole numbers from {limits.min} to {limits.max} "
            f"({spec.dtype}). Received: {array.dtype} values from {array.min()} to "
            f"{array.max()}"
        )
    raise ValueError(
        f"Input `{name}` must be convertible to {spec.dtype}. "
        f"Received: dtype={array.dtype}"
    )


def _samples(
    dataset: Any, rank: int, label_shape: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Single (image, label) pairs of a dataset; batched images have `rank` axes."""
    arrays = isinstance(dataset, tuple) and all(hasattr(x, "shape") for x in dataset)
    pairs: Iterable[Any] = [dataset] if arrays else dataset
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                "`dataset` must consist of pairs (image, label). "
                f"Received: {type(pair).__name__}"
                + (f" of length {len(pair)}" if hasattr(pair, "__len__") else "")
            )
        images, labels = np.asarray(pair[0]), np.asarray(pair[1])
        given = labels.shape
        if images.ndim < rank:
            images, labels = images[np.newaxis], labels[np.newaxis]
        wanted = (len(images), *label_shape)
        fits = (
            labels.shape in (wanted, (*wanted, 1))
            if label_shape
            else (labels.size == len(images))
        )
        if labels.dtype.kind not in "iu" or not fits:
            per = (
                f"map {label_shape} of class indices" if label_shape else "class index"
            )
            raise ValueError(
                f"`dataset` must give one {per} per image. Received: labels of "
                f"shape {given} and dtype {labels.dtype} for {len(images)} "
                "image(s)"
            )
        yield from zip(images, labels.reshape(wanted), strict=True)


def _read(path: Path) -> bytes:
    """The bytes of a file that at least says it is a .tflite file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must name a .tflite file. Received: path={str(path)!r}, "
            "where there is no file"
        )
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        reason = f"no identifier {_IDENTIFIER.decode()} at byte 4"
        raise ValueError(_not_tflite(path, content, reason))
    return content


def _not_tflite(path: Path, content: bytes, reason: str) -> str:
    return (
        f"`path` must name a .tflite file that LiteRT can run ({reason}). Received: "
        f"path={str(path)!r}, {len(content)} bytes, the first {content[:8]!r}"
    )


def _specs(details: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            shape=tuple(int(size) for size in detail["shape_signature"]),
            dtype=np.dtype(detail["dtype"]),
        )
        for name, detail in details.items()
    }


def _metadata(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object that the exporter left in a (verified) file, or {}."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() != METADATA_NAME.encode():
            continue
        data = b""
        if entry.Buffer() < model.BuffersLength():
            buffer = model.Buffers(entry.Buffer())
            data = b"" if buffer.DataIsNone() else buffer.DataAsNumpy().tobytes()
        try:
            found: Any = json.loads(data)
        except ValueError:  # no JSON, or not utf-8
            found = None
        if not isinstance(found, dict):
            raise ValueError(
                f"The metadata {METADATA_NAME!r} of `path` must be a JSON object. "
                f"Received: path={str(path)!r}, {len(data)} bytes, the first "
                f"{data[:16]!r}"
            )
        return found
    return {}
