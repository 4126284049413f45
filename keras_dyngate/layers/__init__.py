"""Dynamic layers: trained dense and differentiable, executed conditionally."""

from keras_dyngate.layers.decision_gate import DecisionGate
from keras_dyngate.layers.gated_basic_block import GatedBasicBlock
from keras_dyngate.layers.gated_block import GatedBlock
from keras_dyngate.layers.gated_bottleneck_block import GatedBottleneckBlock

__all__ = ["DecisionGate", "GatedBasicBlock", "GatedBlock", "GatedBottleneckBlock"]
