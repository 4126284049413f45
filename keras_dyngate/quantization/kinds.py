"""What an int8 file does with each kind of layer and operator, as far as ranges go."""

import inspect
import math
from typing import Any

import keras

from keras_dyngate.quantization.quantized_layer import kernels

_layers = keras.layers
# The numbers that come out have the scale of those that come in.
_SAME = """
    MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D
    AveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D Reshape
    Flatten Permute ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D
    Cropping3D UpSampling1D UpSampling2D UpSampling3D RepeatVector Resizing CenterCrop
    Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout
    GaussianNoise AlphaDropout ActivityRegularization Identity
    Squeeze ExpandDims Transpose GetItem Slice Pad Split Flip Tile Repeat MaxPool
    AveragePool Moveaxis Swapaxes BroadcastTo Ravel Copy Take Padding Subsampling linear
""".split()
SAME = frozenset(_SAME)
# A ReLU after these is part of them.
TAKE_RELU = frozenset("Add Subtract Multiply Divide TrueDivide".split())
# Ranges that LiteRT's kernels insist on.
FIXED = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
# Kinds that have weights, none of them a kernel, and become products and sums.
_FACTORS = (_layers.BatchNormalization, _layers.PReLU, _layers.Normalization)


def kind_name(operation: Any) -> str:
    """Of a layer its activation's name if it is nothing else, or else the class."""
    if isinstance(operation, _layers.Activation):
        operation = operation.activation
    if inspect.isfunction(operation):
        return str(operation.__name__)
    return type(operation).__name__


def is_relu(operation: Any) -> bool:
    """Whether it is what a file's kernels do at their end: ReLU, to 6 or without end."""
    if isinstance(operation, _layers.ReLU):
        most = operation.max_value
        plain = not operation.negative_slope and not operation.threshold
        return bool(plain and most in (None, 6.0, math.inf))
    return kind_name(operation).lower() in ("relu", "relu6")


def ends_in_relu(layer: Any) -> bool:
    """Whether a kernel's own activation stays in it: none, or such a ReLU."""
    activation = getattr(layer, "activation", keras.activations.linear)
    return activation in (
        None,
        keras.activations.linear,
        keras.activations.relu,
        keras.activations.relu6,
    )


def fixed_range(operation: Any) -> tuple[float, float] | None:
    """The range of what an operation puts out, where that is known."""
    return FIXED.get(kind_name(operation).lower())


def is_kernel(operation: Any) -> bool:
    """Whether it is a layer with a kernel that can be rounded."""
    return isinstance(operation, keras.Layer) and bool(kernels(operation))


def why_not(operation: Any) -> str | None:
    """Why a layer cannot be quantized; None: it can, or has nothing to be."""
    if not isinstance(operation, keras.Layer):
        return None
    if is_kernel(operation) or isinstance(operation, _FACTORS):
        return None
    if type(operation).__name__ == "LayerScale" or not operation.weights:
        return None
    if all(getattr(w, "dtype", "") in ("uint32", "int32") for w in operation.weights):
        return None  # the state of a random generator
    return f"a {type(operation).__name__}"
