"""Residual, dense, mobile, segmentation and anytime nets; early exits on classifiers."""

from keras_dyngate.models import pspnet as _pspnet
from keras_dyngate.models import resnet as _resnet
from keras_dyngate.models.anytime import nets as _anytime_nets
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.anytime.nets import *  # noqa: F403
from keras_dyngate.models.auxiliary_head import add_auxiliary_head
from keras_dyngate.models.densenet import densenet121, densenet169, densenet201
from keras_dyngate.models.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
    gated_efficientnet_lite0,
    gated_efficientnet_lite1,
    gated_efficientnet_lite2,
    gated_efficientnet_lite3,
    gated_efficientnet_lite4,
)
from keras_dyngate.models.exits.cut_at_exit import cut_at_exit
from keras_dyngate.models.exits.cut_points import CutPoint, cut_points
from keras_dyngate.models.exits.decision_gates import add_decision_gates
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.placement import Placement, place_exits
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.gating.gate_model import add_channel_gates, add_layer_gates
from keras_dyngate.models.gating.places import GateablePlace, gateable
from keras_dyngate.models.mobilenet import gated_mobilenet_v2, mobilenet_v2
from keras_dyngate.models.pspnet import *  # noqa: F403
from keras_dyngate.models.resnet import *  # noqa: F403
from keras_dyngate.models.weights import load_trunk_weights

__all__ = [
    *_anytime_nets.__all__,
    *_pspnet.__all__,
    *_resnet.__all__,
    "AnytimeModel",
    "CutPoint",
    "EarlyExitModel",
    "Placement",
    "GateablePlace",
    "Gates",
    "add_auxiliary_head",
    "add_channel_gates",
    "add_decision_gates",
    "add_layer_gates",
    "cut_at_exit",
    "cut_points",
    "densenet121",
    "densenet169",
    "densenet201",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "gateable",
    "gated_efficientnet_lite0",
    "gated_efficientnet_lite1",
    "gated_efficientnet_lite2",
    "gated_efficientnet_lite3",
    "gated_efficientnet_lite4",
    "gated_mobilenet_v2",
    "load_trunk_weights",
    "mobilenet_v2",
    "place_exits",
]
