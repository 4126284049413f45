"""Run and time a .tflite file by signature, with ai-edge-litert and NumPy alone.

An exported file has several entry points, each with named inputs and outputs of batch
size 1. `LiteRTModel` checks what it is given against the file, so that a wrong image fails
with a sentence instead of running on reinterpreted numbers:

    model = LiteRTModel("resnet34.tflite")
    model.run("classify", image=image)["label"]
    model.evaluate(images, labels)["accuracy"]
    model.benchmark("classify", {"image": image}).median_ms

The output `executed_macs` of a file counts thousands of MACs (`macs_of` makes them MACs);
everything else in Python is in MACs.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyngate._checks import positive_int
from keras_dyngate._deprecation import renamed
from keras_dyngate._image_range import RangeWatch
from keras_dyngate.runtime.labels import LabelSpec, class_count
from keras_dyngate.runtime.samples import labelled_samples
from keras_dyngate.runtime.scores import ImageScores, PixelScores
from keras_dyngate.runtime.signature_table import SignatureTable
from keras_dyngate.runtime.tensors import Signature, TensorSpec, fit

__all__ = ["BenchmarkResult", "LiteRTModel", "Signature", "TensorSpec", "macs_of"]

METADATA_NAME = "keras_dyngate"
MACS_UNIT = 1000  # `executed_macs` counts thousands, so that it fits an int32
UINT8_CLASSES = 256  # that the labels of pixels can tell apart

_IDENTIFIER = b"TFL3"


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

    The file is read into memory once. Threads may share an instance: they wait for each
    other, so that each call is whole, from its inputs to copies of its outputs. For calls
    at the same time, use one instance per thread.

    Args:
        path: The .tflite file.
        num_threads: Positive int, the CPU threads of the kernels.

    Attributes:
        signatures: Mapping from signature name to its `inputs` and `outputs`, which
            map names to `TensorSpec(shape, dtype)`.
        table: What each signature is for, a `SignatureTable`.
        metadata: What the exporter wrote into the file (labels, units, ...); empty
            for a file from elsewhere.
        lock: Held during each call. `with model.lock:` keeps several calls together.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is no .tflite file that LiteRT can run, or `num_threads`
            is not a positive int.
        ImportError: ai-edge-litert is not installed.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        kd.export_tflite(model, "net.tflite", parity_data=False)
        net = kd.LiteRTModel("net.tflite")
        found = net.run("classify", image=x[0])  # logits, label, executed_macs
        print(net.evaluate(x, np.arange(8) % 2))  # accuracy, ms and MACs per image
        ```
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 1) -> None:
        self.num_threads = positive_int("num_threads", num_threads)
        self.lock = threading.RLock()
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
        self.table = SignatureTable.read(self.metadata, self.signatures)

    @property
    def labels(self) -> Any:
        """The class names stored in the file, or None."""
        return self.metadata.get("labels")

    @property
    def takes_255(self) -> bool:
        """Whether the exporter noted that images are from 0 to 255."""
        return "0 to 255" in str(self.metadata.get("input"))

    def run(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Run one signature once.

        Args:
            signature: Name of the signature.
            **inputs: One array per input of the signature. The batch axis may be left
                out. Numbers are converted to the dtype of the file where their value
                survives: whole numbers in range for an integer input, any real
                numbers for a float input.

        Returns:
            Mapping from output name to an array that the caller owns. `executed_macs`
            is as in the file, in thousands of MACs.

        Raises:
            ValueError: The signature, the input names, a shape or a value does not
                suit the file.
        """
        self._known(signature)
        return self._timed(signature, self._feed(signature, inputs))[0]

    @renamed(dataset="x")
    def evaluate(
        self,
        x: Any,
        y: Any = None,
        signature: str | None = None,
        *,
        sample_weight: Any = None,
        ignore_class: int | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Classify labelled images, or all pixels of them, one image at a time.

        Takes what Keras' `evaluate` takes: `evaluate(images, labels)`,
        `evaluate((images, labels))` or `evaluate(dataset)`.

        Args:
            x: Images, if `y` is given: an array `[N, height, width, channels]`
                (or of the file's rank), or arrays by name for a file with several
                inputs. Else a tuple `(images, labels)` or `(images, labels, weights)`
                of arrays, or an iterable of such tuples, single or batched; NumPy
                arrays or tensors.
            y: Labels: class indices `[N]`, whole floats among them, or one-hot
                `[N, classes]`; for a segmentation net maps of them, `[N, height,
                width]`, with or without a last axis of 1. In place of `y`, the name of
                a signature is taken for `signature`.
            signature: Name of a signature with an output `label`, `labels` or `logits`.
                None: the file's answer, "classify" or "segment".
            sample_weight: How much each sample (or pixel) counts, `[N]` or as the maps;
                None: all the same.
            ignore_class: For a segmentation net: the label of pixels that do not count.
            **inputs: Its inputs other than the image, the same for every sample.

        Returns:
            A dict with `accuracy` (0 to 1), `samples`, `mean_ms` and `median_ms` per
            image, and `mean_executed_macs` (MACs per image, not thousands; None if the
            file does not report them). Of images also `labels` (predicted class
            indices, [samples]), and `exit` (exit indices, [samples]) if the signature
            has that output. Of pixels, over the whole dataset, `mean_iou` of the
            classes that occur in labels or answers, `class_iou` ([classes], NaN for a
            class that does not), and `pixels`, the number that counted. Weights change
            `accuracy` and the IoUs alone.

        Raises:
            ValueError: The dataset is empty or does not suit the signature, or a label
                is no class of the file.

        Warns:
            UserWarning: All images are from 0 to 1 where the file takes 0 to 255.
        """
        if isinstance(y, str) and signature is None:
            y, signature = None, y
        if signature is None:
            signature = self.table.first("answer")
        signature = self._known(signature)
        spec = self.signatures[signature]
        varying = {k: v for k, v in spec.inputs.items() if k not in inputs}
        if not varying or not set(inputs) <= set(spec.inputs):
            raise ValueError(
                "Every input of the signature but the image may be given as a keyword "
                f"argument. Received: {sorted(inputs)} for the inputs "
                f"{sorted(spec.inputs)} of signature={signature!r}"
            )
        scores = self._scores(signature, ignore_class)
        macs, times, watch = [], [], RangeWatch()
        for sample in labelled_samples(
            x,
            y,
            sample_weight,
            specs=varying,
            labels=scores.labels,
            watch=watch,
        ):
            feed = self._feed(signature, {**sample.inputs, **inputs})
            outputs, elapsed = self._timed(signature, feed)
            scores.add(sample.label, outputs, sample.weight)
            times.append(elapsed)
            executed = macs_of(outputs)
            if executed is not None:
                macs.append(executed)
        if not times:
            raise ValueError(
                "`x` must hold at least one sample. Received: an empty dataset"
            )
        if self.takes_255:
            watch.warn("x")
        return {
            **scores.result(),
            "samples": len(times),
            "mean_ms": float(np.mean(times)),
            "median_ms": float(np.median(times)),
            "mean_executed_macs": float(np.mean(macs)) if macs else None,
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
        classes = self._classes(signature)
        if decision == "labels":
            shape = outputs["labels"].shape[1:]
            return PixelScores(LabelSpec(shape, classes or UINT8_CLASSES, ignore_class))
        if ignore_class is not None:
            raise ValueError(
                "`ignore_class` is for signatures with an output 'labels'. Received: "
                f"ignore_class={ignore_class} for signature={signature!r}"
            )
        return ImageScores(LabelSpec((), classes), decision)

    def _classes(self, signature: str) -> int | None:
        """How many classes a signature tells apart, as far as the file says."""
        outputs, noted = (
            self.signatures[signature].outputs,
            self.metadata.get("classes"),
        )
        if isinstance(noted, int):
            return class_count(noted)
        scores = outputs["logits"].shape if "logits" in outputs else ()
        if len(scores) > 1 and scores[-1] > 0:
            return class_count(scores[-1])
        return class_count(len(self.labels)) if self.labels else None

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
        with self.lock:  # no other thread's calls in between
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

    def _known(self, signature: str | None) -> str:
        if signature is None or signature not in self.signatures:
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
        return {name: fit(name, inputs[name], spec) for name, spec in specs.items()}

    def _timed(
        self, signature: str, feed: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], float]:
        """Outputs and milliseconds of one call, without waiting for other threads."""
        runner = self._runners[signature]
        with self.lock:  # all signatures share one interpreter
            start = time.perf_counter()
            outputs = runner(**feed)  # copies of what the interpreter holds
            elapsed = time.perf_counter() - start
        return outputs, 1e3 * elapsed


def macs_of(outputs: Mapping[str, np.ndarray]) -> int | None:
    """MACs that ran, from a signature's outputs: the file counts thousands.

    Args:
        outputs: Of `LiteRTModel.run`.

    Returns:
        MACs, exact to a thousand; None if the signature does not report them.
    """
    if "executed_macs" not in outputs:
        return None
    return MACS_UNIT * int(np.ravel(outputs["executed_macs"])[0])


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
