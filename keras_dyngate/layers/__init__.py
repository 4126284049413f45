"""Dynamic layers: trained dense and differentiable, executed conditionally."""

from keras_dyngate.layers.batch_normalization import BatchNormalization
from keras_dyngate.layers.channel_padding import ChannelPadding
from keras_dyngate.layers.decision_gate import DecisionGate
from keras_dyngate.layers.dynamic_layer import Decision, DynamicLayer
from keras_dyngate.layers.exit_gate import ExitGate
from keras_dyngate.layers.exit_head import ExitHead
from keras_dyngate.layers.gated_basic_block import GatedBasicBlock
from keras_dyngate.layers.gated_block import GatedBlock
from keras_dyngate.layers.gated_bottleneck_block import GatedBottleneckBlock
from keras_dyngate.layers.gated_chain import GatedChain
from keras_dyngate.layers.gated_inverted_residual import GatedInvertedResidual
from keras_dyngate.layers.gated_residual import GatedResidual
from keras_dyngate.layers.gated_sequence import GatedSequence
from keras_dyngate.layers.nested_conv2d import NestedConv2D
from keras_dyngate.layers.nested_dense import NestedDense
from keras_dyngate.layers.sliced_batch_normalization import SlicedBatchNormalization
from keras_dyngate.layers.sliced_conv2d import SlicedConv2D
from keras_dyngate.layers.sliced_dense import SlicedDense
from keras_dyngate.layers.squeeze_excite import SqueezeExcite

__all__ = [
    "BatchNormalization",
    "ChannelPadding",
    "Decision",
    "DecisionGate",
    "DynamicLayer",
    "ExitGate",
    "ExitHead",
    "GatedBasicBlock",
    "GatedBlock",
    "GatedBottleneckBlock",
    "GatedChain",
    "GatedInvertedResidual",
    "GatedResidual",
    "GatedSequence",
    "NestedConv2D",
    "NestedDense",
    "SlicedBatchNormalization",
    "SlicedConv2D",
    "SlicedDense",
    "SqueezeExcite",
]
