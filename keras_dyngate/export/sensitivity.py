"""Which layer of a net loses most in 8 bits: each is rounded alone.

for row in kd.layer_errors(model, images):
    print(row)          # conv1: error 3.1%, labels that change 0.4%
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyngate._checks import positive_int
from keras_dyngate._graph import run_calls
from keras_dyngate._images import finite_images, take_images
from keras_dyngate._labels import label_of
from keras_dyngate.export.arguments import check_model
from keras_dyngate.export.preparing import Prepared
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.quantization.fake_quantize import is_quantize_aware
from keras_dyngate.quantization.quantized_layer import kernels

SAMPLES = 32


@dataclasses.dataclass(frozen=True)
class LayerError:
    """What rounding one layer alone does to a net's scores.

    Attributes:
        name: Of the layer.
        error: Root mean square change of the raw scores over their standard deviation.
        changed: Share of labels that change.

    Example:
        ```python
        row = kd.LayerError("conv1", error=0.031, changed=0.004)
        print(row)  # conv1: error 3.10%, labels that change 0.4%
        ```
    """

    name: str
    error: float
    changed: float

    def __str__(self) -> str:
        return f"{self.name}: error {self.error:.2%}, labels that change {self.changed:.1%}"


def layer_errors(
    model: keras.Model, images: Any, *, samples: int = SAMPLES
) -> list[LayerError]:
    """How much each layer with a kernel loses in 8 bits, the worst first.

    One layer after the other is rounded as an int8 file rounds it: its kernel to 255
    steps, apart for each channel, and what it puts out to 256 steps of the range that
    these images take. All others compute in float32. Layers inside gated blocks, which a
    file cuts into groups, are not among them. Design of this library.

    Args:
        model: A net that `export_tflite` takes; of one with early exits, its trunk.
        images: As `representative_data` of `export_tflite`.
        samples: How many to use. Default 32.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ValueError: For a model that cannot be exported, or bad images.

    Example:
        ```python
        convs = [keras.layers.Conv2D(8, 3, name=name) for name in ("a", "b")]
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
        net = keras.Sequential([keras.Input((12, 12, 3)), *convs, *top])
        x = np.random.default_rng(0).uniform(0, 255, (8, 12, 12, 3))
        print(kd.layer_errors(net, x)[0])  # the worst
        ```
    """
    count = positive_int("samples", samples)
    if is_quantize_aware(model):
        raise ValueError(
            "`model` must be in float32: of a quantize-aware one give "
            f"`kd.strip_quantization(model)`. Received: {model.name!r}"
        )
    graph = check_model(model.trunk if isinstance(model, EarlyExitModel) else model)
    shape = tuple(graph.inputs[0].shape[1:])
    x = finite_images("images", take_images("images", images, shape, count))
    prepared = Prepared(graph.calls, graph)
    table: dict[int, Any] = {id(graph.inputs[0]): keras.ops.convert_to_tensor(x)}
    run_calls(graph.calls, table, prepared)
    exact = keras.ops.convert_to_numpy(table[id(graph.outputs[0])])
    spread = max(float(exact.std()), 1e-12)
    found = []
    for place, call in enumerate(graph.calls):
        layer = prepared.form(call)
        if not isinstance(layer, keras.Layer) or not kernels(layer):
            continue
        changed = dict(table)
        with _rounded_kernels(layer):
            run_calls([call], changed, prepared)
        for y in call.outputs:
            changed[id(y)] = _rounded(changed[id(y)])
        run_calls(graph.calls[place + 1 :], changed, prepared)
        scores = keras.ops.convert_to_numpy(changed[id(graph.outputs[0])])
        found.append(
            LayerError(
                layer.name,
                float(np.sqrt(np.mean((scores - exact) ** 2))) / spread,
                float(np.mean(label_of(scores) != label_of(exact))),
            )
        )
    return sorted(found, key=lambda row: -row.error)


def _rounded(x: Any) -> Any:
    """A tensor in 256 steps of its own range."""
    low = tf.minimum(tf.reduce_min(x), 0.0)
    high = tf.maximum(tf.reduce_max(x), low + 1e-6)
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high)


def _rounded_kernels(layer: keras.Layer) -> keras.StatelessScope:
    """A scope in which a layer's kernels are in 255 steps, apart for each channel."""
    pairs = []
    for kernel, axes in kernels(layer):
        numbers = keras.ops.convert_to_numpy(kernel)
        rest = tuple(n for n in range(numbers.ndim) if n not in axes)
        scale = np.maximum(np.abs(numbers).max(axis=rest, keepdims=True), 1e-12) / 127
        pairs.append((kernel, tf.constant(np.round(numbers / scale) * scale)))
    return keras.StatelessScope(state_mapping=pairs)
