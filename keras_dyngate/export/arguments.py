"""What `export_tflite` is given, checked before any work."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._graph import FlatGraph, flat_graph
from keras_dyngate._images import finite_images, take_images
from keras_dyngate.runtime.signature_table import SignatureTable

MAX_CLASSES = 256  # of a pixel
PARITY_SAMPLES = 16  # where nobody says which
Shape = tuple[int, ...]


def check_backend() -> None:
    """Refuse other backends than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Exporting needs Keras on TensorFlow: save the model to a .keras file and "
            "export it in a process with KERAS_BACKEND=tensorflow. "
            f"Received: the {keras.backend.backend()} backend"
        )


def check_model(
    model: Any, *, exported: keras.Model | None = None, scores: bool = True
) -> FlatGraph:
    """The calls of an exportable model, or a clear error.

    Args:
        model: What was given.
        exported: The net in it that is exported, whose output counts; None: itself.
        scores: Whether that must be raw scores of an image, or of its pixels.
    """
    check_backend()
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a built keras.Model. Received: {type(model).__name__}"
        )
    received = f"Received: model={model.name!r}, a {type(model).__name__}"
    graph = flat_graph(model if exported is None else exported)
    if graph is None and isinstance(model, keras.Sequential):
        raise ValueError(
            f"`model` must be built: begin it with a keras.Input. {received}"
        )
    if graph is None:
        raise ValueError(
            "`model` must be functional or a keras.Sequential, or one of this library: "
            "a subclassed model has no graph of layers to convert. Call its layers on a "
            f"keras.Input, and make a keras.Model of that. {received}"
        )
    for kind, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        if len(tensors) != 1:
            raise ValueError(
                f"`model` must have one {kind}: export a keras.Model of the one that is "
                f"meant. {received} with {len(tensors)} {kind}s"
            )
    listed = exported is not None or isinstance(model, keras.Sequential)
    if not listed and isinstance(model.output, dict):
        raise ValueError(
            "`model` must have one output, a tensor: export a keras.Model of the one "
            f"that is meant. {received} with the outputs {sorted(model.output)} by name"
        )
    found, made = tuple(graph.inputs[0].shape), tuple(graph.outputs[0].shape)
    if len(found) < 2 or None in found[1:]:
        raise ValueError(
            "A file has static shapes: build the model for a known image size, "
            "`input_shape=(height, width, 3)`, or a known length. "
            f"Received: input_shape={found}"
        )
    if not scores:
        return graph
    if len(made) not in (2, 4) or None in made[1:]:
        raise ValueError(
            "`model` must have one output, scores [batch, classes] or [batch, height, "
            f"width, classes]. Received: output_shape={made!r}"
        )
    if len(made) == 4 and made[-1] > MAX_CLASSES:
        raise ValueError(
            f"`model` must tell {MAX_CLASSES} classes or fewer apart: the labels of "
            f"pixels are uint8. Received: output_shape={made!r}"
        )
    return graph


def class_count(graph: FlatGraph) -> int:
    """How many names a model's labels have: one output tells two classes apart."""
    outputs = int(graph.outputs[0].shape[-1])
    return 2 if outputs == 1 else outputs


def check_labels(labels: Any, classes: int) -> list[str] | None:
    """Class names as a list."""
    if labels is None:
        return None
    if isinstance(labels, str):
        raise ValueError(
            f"`labels` must be a list of {classes} class names; read those of a file "
            "first, a name per line: `Path(labels).read_text().splitlines()`. "
            f"Received: labels={labels!r}"
        )
    if isinstance(labels, (Mapping, set, frozenset)):
        raise ValueError(
            f"`labels` must be a list of {classes} class names in the order of their "
            f"indices. Received: a {type(labels).__name__}"
        )
    names = list(labels)
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"`labels` must name the model's {classes} classes. "
            f"Received: {len(names)} names, the first {names[:3]!r}"
        )
    return [str(name) for name in names]


def calibration_images(data: Any, shape: Shape, limit: int) -> np.ndarray:
    """Images for an int8 file."""
    if data is None:
        raise ValueError(
            "`quantization='int8'` needs `representative_data`: some hundred images, "
            "0 to 255. Received: representative_data=None"
        )
    images = take_images("representative_data", data, shape, limit)
    return finite_images("representative_data", images)


def check_recurrent(graphs: Iterable[FlatGraph]) -> None:
    """Refuse layers that go over a series in a loop in an int8 file.

    TensorFlow's quantizer does not raise an error for those: it ends the process.

    Raises:
        ValueError: If there are any.
    """
    operations = [call.operation for graph in graphs for call in graph.calls]
    layers = [x for x in operations if isinstance(x, keras.Layer)]
    loops = [
        layer.name
        for layer in layers
        for inner in layer._flatten_layers()
        if isinstance(inner, keras.layers.RNN) and not inner.unroll
    ]
    if loops:
        raise ValueError(
            "`quantization` must not be 'int8' for recurrent layers, which TensorFlow "
            "cannot quantize: take 'dynamic', or make them with `unroll=True`. Received: "
            f"quantization='int8' for {sorted(set(loops))}"
        )


def parity_images(
    data: Any, representative: Any, shape: Shape, input_type: str
) -> tuple[np.ndarray, str] | None:
    """Images to compare a file on, and what they are in words; None for False.

    Args:
        data: The user's; None: a few of `representative`, else random ones.
        representative: An array, or None.
        shape: Of one image.
        input_type: "uint8" takes whole numbers.
    """
    if data is False:
        return None
    given = data is not None
    if given or representative is not None:
        name = "parity_data" if given else "representative_data"
        images = (
            representative[:PARITY_SAMPLES]
            if not given
            else finite_images(name, take_images(name, data, shape))
        )
        if input_type == "uint8":
            images = np.clip(np.rint(images), 0, 255)
        return images, f"images of `{name}`"
    rng = np.random.default_rng(0)
    size = (PARITY_SAMPLES, *shape)
    if len(shape) == 3 or input_type == "uint8":
        return rng.integers(0, 256, size).astype("float32"), "random pictures"
    return rng.normal(size=size).astype("float32"), "random inputs"


def check_signatures(table: SignatureTable, wanted: Sequence[str]) -> None:
    """Those that are kept must be there, and steps not lack one before them."""
    if isinstance(wanted, str) or not wanted or set(wanted) - set(table):
        raise ValueError(
            f"`signatures` must be a list of one or more of {sorted(table)}. "
            f"Received: signatures={wanted!r}"
        )
    steps = list(table.numbered("step").values())
    kept = [name for name in steps if name in wanted]
    missing = set(steps[: len(kept)]) - set(kept)
    if missing:
        raise ValueError(
            f"`signatures` must hold every step before its last one, {kept[-1]!r}, too. "
            f"Received: signatures={wanted!r}"
        )
