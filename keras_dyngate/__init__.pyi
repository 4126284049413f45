# Every public name and where it lives: this list is what `keras_dyngate` offers at run
# time (see _public.py), and what editors, mypy and documentation tools read.
# A new name needs its line here, and nothing else.

from keras_dyngate import calibration as calibration
from keras_dyngate import callbacks as callbacks
from keras_dyngate import channels as channels
from keras_dyngate import controllers as controllers
from keras_dyngate import cost as cost
from keras_dyngate import datasets as datasets
from keras_dyngate import decisions as decisions
from keras_dyngate import export as export
from keras_dyngate import flatfile as flatfile
from keras_dyngate import layers as layers
from keras_dyngate import losses as losses
from keras_dyngate import metrics as metrics
from keras_dyngate import models as models
from keras_dyngate import pictures as pictures
from keras_dyngate import quantization as quantization
from keras_dyngate import regularizers as regularizers
from keras_dyngate import runtime as runtime
from keras_dyngate import taxonomy as taxonomy
from keras_dyngate import thresholds as thresholds
from keras_dyngate import training as training
from keras_dyngate import tuning as tuning
from keras_dyngate import visualization as visualization
from keras_dyngate.callbacks.cost_budget import CostBudget as CostBudget
from keras_dyngate.callbacks.cost_budget import MacBudget as MacBudget
from keras_dyngate.callbacks.decision_statistics import (
    DecisionStatistics as DecisionStatistics,
)
from keras_dyngate.callbacks.regularization_schedule import (
    RegularizationSchedule as RegularizationSchedule,
)
from keras_dyngate.callbacks.resume import StatefulCallback as StatefulCallback
from keras_dyngate.callbacks.resume import StepAwareCallback as StepAwareCallback
from keras_dyngate.callbacks.time_left import TimeLeft as TimeLeft
from keras_dyngate.callbacks.training_checkpoint import (
    TrainingCheckpoint as TrainingCheckpoint,
)
from keras_dyngate.channels.importance import channel_importance as channel_importance
from keras_dyngate.channels.packing import pack_channels as pack_channels
from keras_dyngate.channels.packing_report import PackingReport as PackingReport
from keras_dyngate.channels.priming import prime_gates as prime_gates
from keras_dyngate.controllers.binary_gate import BinaryGate as BinaryGate
from keras_dyngate.controllers.controller import Controller as Controller
from keras_dyngate.controllers.controller import ControllerOutput as ControllerOutput
from keras_dyngate.controllers.forcing import force_open_rate as force_open_rate
from keras_dyngate.controllers.salience import SalienceController as SalienceController
from keras_dyngate.cost.budget import Budget as Budget
from keras_dyngate.cost.cost_row import CostRow as CostRow
from keras_dyngate.cost.cost_row import MacRow as MacRow
from keras_dyngate.cost.cost_table import CostTable as CostTable
from keras_dyngate.cost.cost_table import MacProfile as MacProfile
from keras_dyngate.cost.counter import count_macs as count_macs
from keras_dyngate.cost.elsewhere import cost_table_from as cost_table_from
from keras_dyngate.cost.summary import summary as summary
from keras_dyngate.decisions import decide as decide
from keras_dyngate.export.add_exits import add_exits as add_exits
from keras_dyngate.export.dynamic_result import DynamicResult as DynamicResult
from keras_dyngate.export.exits_result import ExitsResult as ExitsResult
from keras_dyngate.export.exporter import export_tflite as export_tflite
from keras_dyngate.export.latency import measure_latency as measure_latency
from keras_dyngate.export.make_dynamic import make_dynamic as make_dynamic
from keras_dyngate.export.options import AnytimeOptions as AnytimeOptions
from keras_dyngate.export.options import GateOptions as GateOptions
from keras_dyngate.export.report import ExportReport as ExportReport
from keras_dyngate.export.sensitivity import LayerError as LayerError
from keras_dyngate.export.sensitivity import layer_errors as layer_errors
from keras_dyngate.layers.batch_normalization import (
    BatchNormalization as BatchNormalization,
)
from keras_dyngate.layers.channel_padding import ChannelPadding as ChannelPadding
from keras_dyngate.layers.decision_gate import DecisionGate as DecisionGate
from keras_dyngate.layers.dynamic_layer import Decision as Decision
from keras_dyngate.layers.dynamic_layer import DynamicLayer as DynamicLayer
from keras_dyngate.layers.exit_head import ExitHead as ExitHead
from keras_dyngate.layers.gated_basic_block import GatedBasicBlock as GatedBasicBlock
from keras_dyngate.layers.gated_bottleneck_block import (
    GatedBottleneckBlock as GatedBottleneckBlock,
)
from keras_dyngate.layers.gated_chain import GatedChain as GatedChain
from keras_dyngate.layers.gated_inverted_residual import (
    GatedInvertedResidual as GatedInvertedResidual,
)
from keras_dyngate.layers.gated_residual import GatedResidual as GatedResidual
from keras_dyngate.layers.gated_sequence import GatedSequence as GatedSequence
from keras_dyngate.layers.nested_conv2d import NestedConv2D as NestedConv2D
from keras_dyngate.layers.nested_dense import NestedDense as NestedDense
from keras_dyngate.layers.sliced_batch_normalization import (
    SlicedBatchNormalization as SlicedBatchNormalization,
)
from keras_dyngate.layers.sliced_conv2d import SlicedConv2D as SlicedConv2D
from keras_dyngate.layers.sliced_dense import SlicedDense as SlicedDense
from keras_dyngate.layers.squeeze_excite import SqueezeExcite as SqueezeExcite
from keras_dyngate.losses.anytime_loss import AnytimeLoss as AnytimeLoss
from keras_dyngate.losses.one_vs_all_hinge import OneVsAllHinge as OneVsAllHinge
from keras_dyngate.losses.segmentation_crossentropy import (
    SegmentationCrossentropy as SegmentationCrossentropy,
)
from keras_dyngate.metrics.anytime_accuracy import AnytimeAccuracy as AnytimeAccuracy
from keras_dyngate.models.anytime.model import AnytimeModel as AnytimeModel
from keras_dyngate.models.anytime.nets import inclusive_resnext as inclusive_resnext
from keras_dyngate.models.anytime.nets import inclusive_resnext50 as inclusive_resnext50
from keras_dyngate.models.anytime.nets import sliced_resnet as sliced_resnet
from keras_dyngate.models.anytime.nets import sliced_resnext as sliced_resnext
from keras_dyngate.models.anytime.nets import sliced_resnext50 as sliced_resnext50
from keras_dyngate.models.auxiliary_head import add_auxiliary_head as add_auxiliary_head
from keras_dyngate.models.densenet import densenet121 as densenet121
from keras_dyngate.models.densenet import densenet169 as densenet169
from keras_dyngate.models.densenet import densenet201 as densenet201
from keras_dyngate.models.efficientnet_lite import (
    efficientnet_lite0 as efficientnet_lite0,
)
from keras_dyngate.models.efficientnet_lite import (
    efficientnet_lite1 as efficientnet_lite1,
)
from keras_dyngate.models.efficientnet_lite import (
    efficientnet_lite2 as efficientnet_lite2,
)
from keras_dyngate.models.efficientnet_lite import (
    efficientnet_lite3 as efficientnet_lite3,
)
from keras_dyngate.models.efficientnet_lite import (
    efficientnet_lite4 as efficientnet_lite4,
)
from keras_dyngate.models.efficientnet_lite import (
    gated_efficientnet_lite0 as gated_efficientnet_lite0,
)
from keras_dyngate.models.efficientnet_lite import (
    gated_efficientnet_lite1 as gated_efficientnet_lite1,
)
from keras_dyngate.models.efficientnet_lite import (
    gated_efficientnet_lite2 as gated_efficientnet_lite2,
)
from keras_dyngate.models.efficientnet_lite import (
    gated_efficientnet_lite3 as gated_efficientnet_lite3,
)
from keras_dyngate.models.efficientnet_lite import (
    gated_efficientnet_lite4 as gated_efficientnet_lite4,
)
from keras_dyngate.models.exits.cascading import cascade as cascade
from keras_dyngate.models.exits.cut_at_exit import cut_at_exit as cut_at_exit
from keras_dyngate.models.exits.cut_points import CutPoint as CutPoint
from keras_dyngate.models.exits.cut_points import cut_points as cut_points
from keras_dyngate.models.exits.decision_gates import (
    add_decision_gates as add_decision_gates,
)
from keras_dyngate.models.exits.early_exit import EarlyExitModel as EarlyExitModel
from keras_dyngate.models.exits.placement import Placement as Placement
from keras_dyngate.models.exits.placement import place_exits as place_exits
from keras_dyngate.models.gates import Gates as Gates
from keras_dyngate.models.gating.gate_model import (
    add_channel_gates as add_channel_gates,
)
from keras_dyngate.models.gating.gate_model import add_layer_gates as add_layer_gates
from keras_dyngate.models.gating.places import GateablePlace as GateablePlace
from keras_dyngate.models.gating.places import gateable as gateable
from keras_dyngate.models.mobilenet import gated_mobilenet_v2 as gated_mobilenet_v2
from keras_dyngate.models.mobilenet import mobilenet_v2 as mobilenet_v2
from keras_dyngate.models.pspnet import gated_pspnet50 as gated_pspnet50
from keras_dyngate.models.pspnet import gated_pspnet101 as gated_pspnet101
from keras_dyngate.models.pspnet import pspnet50 as pspnet50
from keras_dyngate.models.pspnet import pspnet101 as pspnet101
from keras_dyngate.models.resnet import gated_resnet18 as gated_resnet18
from keras_dyngate.models.resnet import gated_resnet20 as gated_resnet20
from keras_dyngate.models.resnet import gated_resnet32 as gated_resnet32
from keras_dyngate.models.resnet import gated_resnet34 as gated_resnet34
from keras_dyngate.models.resnet import gated_resnet44 as gated_resnet44
from keras_dyngate.models.resnet import gated_resnet50 as gated_resnet50
from keras_dyngate.models.resnet import gated_resnet56 as gated_resnet56
from keras_dyngate.models.resnet import gated_resnet101 as gated_resnet101
from keras_dyngate.models.resnet import gated_resnet110 as gated_resnet110
from keras_dyngate.models.resnet import gated_resnet152 as gated_resnet152
from keras_dyngate.models.resnet import lc_resnet18 as lc_resnet18
from keras_dyngate.models.resnet import lc_resnet20 as lc_resnet20
from keras_dyngate.models.resnet import lc_resnet32 as lc_resnet32
from keras_dyngate.models.resnet import lc_resnet34 as lc_resnet34
from keras_dyngate.models.resnet import lc_resnet44 as lc_resnet44
from keras_dyngate.models.resnet import lc_resnet50 as lc_resnet50
from keras_dyngate.models.resnet import lc_resnet56 as lc_resnet56
from keras_dyngate.models.resnet import lc_resnet101 as lc_resnet101
from keras_dyngate.models.resnet import lc_resnet110 as lc_resnet110
from keras_dyngate.models.resnet import lc_resnet152 as lc_resnet152
from keras_dyngate.models.resnet import resnet18 as resnet18
from keras_dyngate.models.resnet import resnet20 as resnet20
from keras_dyngate.models.resnet import resnet32 as resnet32
from keras_dyngate.models.resnet import resnet34 as resnet34
from keras_dyngate.models.resnet import resnet44 as resnet44
from keras_dyngate.models.resnet import resnet50 as resnet50
from keras_dyngate.models.resnet import resnet56 as resnet56
from keras_dyngate.models.resnet import resnet101 as resnet101
from keras_dyngate.models.resnet import resnet110 as resnet110
from keras_dyngate.models.resnet import resnet152 as resnet152
from keras_dyngate.models.trunk_pspnet import pspnet as pspnet
from keras_dyngate.models.weights import load_trunk_weights as load_trunk_weights
from keras_dyngate.quantization.quantize_aware import quantize_aware as quantize_aware
from keras_dyngate.quantization.strip import strip_quantization as strip_quantization
from keras_dyngate.regularizers.batch_shaping import BatchShaping as BatchShaping
from keras_dyngate.regularizers.gate_agreement import GateAgreement as GateAgreement
from keras_dyngate.regularizers.gate_sparsity import GateSparsity as GateSparsity
from keras_dyngate.regularizers.regularizer import GateRegularizer as GateRegularizer
from keras_dyngate.regularizers.schedules import LinearSchedule as LinearSchedule
from keras_dyngate.runtime.anytime_runner import AnytimeRunner as AnytimeRunner
from keras_dyngate.runtime.exit_calibration import calibrate_tflite as calibrate_tflite
from keras_dyngate.runtime.litert_model import LiteRTModel as LiteRTModel
from keras_dyngate.taxonomy import HierarchicalTaxonomy as HierarchicalTaxonomy
from keras_dyngate.thresholds.promise import Promise as Promise
from keras_dyngate.thresholds.table import ExitOutcome as ExitOutcome

__version__: str
from keras_dyngate.training.distillation import Distillation as Distillation
from keras_dyngate.training.gate_training import train_gates as train_gates
from keras_dyngate.training.gate_variables import freeze_trunk as freeze_trunk
from keras_dyngate.training.gate_variables import gate_variables as gate_variables
from keras_dyngate.training.gate_variables import (
    without_gate_decay as without_gate_decay,
)
from keras_dyngate.training.optimizer import sgd as sgd
from keras_dyngate.training.recipe import fine_tune as fine_tune
from keras_dyngate.training.run import TrainingRun as TrainingRun
from keras_dyngate.tuning.hypermodel import DynamicHyperModel as DynamicHyperModel
from keras_dyngate.tuning.pareto import ParetoFront as ParetoFront
from keras_dyngate.tuning.pareto import ParetoPoint as ParetoPoint
from keras_dyngate.tuning.search import search_gates as search_gates
