"""What the layers of Keras cost, one entry for each kind.

Those that are not here are opened (`keras_dyngate.cost.opening`): recurrent layers,
`MultiHeadAttention`, `Bidirectional` and the like are sums of what they hold.
"""

import math

import keras

from keras_dyngate._graph import Call
from keras_dyngate.cost.operators import einsum_macs
from keras_dyngate.cost.registry import free, register_macs, volume

_FREE = """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D
    AveragePooling2D AveragePooling3D BatchNormalization CategoryEncoding CenterCrop
    Concatenate Cropping1D Cropping2D Cropping3D Discretization Dropout ELU Embedding
    Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GroupNormalization HashedCrossing Hashing Identity InputLayer IntegerLookup
    LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum
    Minimum Multiply Normalization PReLU Permute RMSNormalization RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale
    RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU
    RepeatVector Rescaling Reshape Resizing Softmax SpatialDropout1D SpatialDropout2D
    SpatialDropout3D StringLookup Subtract TextVectorization UnitNormalization
    UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_layers = keras.layers
register_macs(*(getattr(_layers, x) for x in _FREE.split() if hasattr(_layers, x)))(
    free
)


@register_macs(_layers.Conv1D, _layers.Conv2D, _layers.Conv3D)
def _conv(call: Call) -> int:
    return volume(call.outputs[0]) * math.prod(call.operation.kernel.shape[:-1])


@register_macs(_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
def _depthwise(call: Call) -> int:
    return volume(call.outputs[0]) * math.prod(call.operation.kernel.shape[:-2])


@register_macs(_layers.SeparableConv1D, _layers.SeparableConv2D)
def _separable(call: Call) -> int:
    layer = call.operation
    kernels = volume(layer.depthwise_kernel) + volume(layer.pointwise_kernel)
    return volume(call.outputs[0]) // layer.filters * kernels


@register_macs(
    _layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose
)
def _transposed(call: Call) -> int:
    """Each number of the input is multiplied with the whole of its kernels."""
    return volume(call.inputs[0]) * math.prod(call.operation.kernel.shape[:-1])


@register_macs(_layers.Dense)
def _dense(call: Call) -> int:
    return volume(call.outputs[0]) * int(call.inputs[0].shape[-1])


@register_macs(_layers.EinsumDense)
def _einsum_dense(call: Call) -> int:
    layer = call.operation
    return einsum_macs(layer.equation, [call.inputs[0].shape, layer.kernel.shape])


@register_macs(_layers.Dot)
def _dot(call: Call) -> int:
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return volume(call.outputs[0]) * int(call.inputs[0].shape[axis])


@register_macs(_layers.Attention)
def _attention(call: Call) -> int:
    """Scores by products, or by sums ("concat": nothing), then the weighted values."""
    query, value = (x.shape for x in call.inputs[:2])
    scored = query[-1] if call.operation.score_mode == "dot" else 0
    return math.prod(query[:-1]) * value[-2] * (scored + value[-1])


@register_macs(_layers.AdditiveAttention)
def _additive_attention(call: Call) -> int:
    """Scores are sums, weighted by a learned scale or not, then the weighted values."""
    query, value = (x.shape for x in call.inputs[:2])
    scored = query[-1] if call.operation.use_scale else 0
    return math.prod(query[:-1]) * value[-2] * (scored + value[-1])
