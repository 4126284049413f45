r"""
Title: Train a gated PSPNet on street scenes
Description: Semantic segmentation with gates, from Cityscapes or CamVid to .tflite.

    python examples/train_cityscapes.py --dataset cityscapes --data_dir data/cityscapes
    python examples/train_cityscapes.py --dataset camvid --model pspnet_lite0 \
        --method plain --weights efficientnet_lite0.npz

Cityscapes is looked for in its official folders (`leftImg8bit/`, `gtFine/`; register
and download at cityscapes-dataset.com), CamVid in folders of pictures and masks; see
`keras_dyngate.datasets`. `--method plain` trains the twin without gates; start from
a trained classifier's trunk with `--weights resnet50.npz`.

`pspnet_lite0` is made for phones: EfficientNet-Lite0 at 16 pixels to one, and a light
head. Its gates, of whole residuals (`--gate layers`) or of halves of their channels, go
into a trained net, `--weights plain/model.keras`.

Pictures are trained on in random scales, crops and mirror images of `--image_size`, and
judged whole at that size: the mean IoU is that of the labels at that size too. The
auxiliary head is there for training only. A run that was cut off goes on; see training.py.
"""

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import judging
import keras
import training
from absl import app, flags

import keras_dyngate as kd
from keras_dyngate.datasets import Data

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", "cityscapes", ["cityscapes", "camvid"], "What to train on."
)
flags.DEFINE_enum("method", "bas", ["plain", "bas"], "Whether with gates.")
flags.DEFINE_enum(
    "model", "pspnet50", ["pspnet50", "pspnet101", "pspnet_lite0"], "What to train."
)
flags.DEFINE_float("width", 1.0, "Multiplies the channels of every stage.")
flags.DEFINE_list("image_size", None, "height,width; default 512,1024 or 240,320.")
training.define_flags(epochs=100, batch_size=8, learning_rate=0.01, weight_decay=1e-4)
training.define_gate_flags()

LITE = "pspnet_lite0"
LAST = "stage6_block4_add"  # of the trunk
LEAST = 0.02  # of the MACs: chains of less have no gate
SIZES = {"cityscapes": (512, 1024), "camvid": (240, 320)}


def load_data() -> Data:
    """The dataset asked for; training crops and judged pictures are of one size."""
    height, width = FLAGS.image_size or SIZES[FLAGS.dataset]
    size = int(height), int(width)
    load = {"cityscapes": kd.datasets.cityscapes, "camvid": kd.datasets.camvid}
    folder = FLAGS.data_dir or f"data/{FLAGS.dataset}"
    found = load[FLAGS.dataset](folder, image_size=size, crop_size=size)
    return judging.limited(found)


def build(data: Data) -> keras.Model:
    """The net that `--method` stands for, on pictures from 0 to 255."""
    gated = FLAGS.method == "bas"
    if FLAGS.model == LITE:
        return light(data, gated)
    return getattr(kd, f"gated_{FLAGS.model}" if gated else FLAGS.model)(
        input_shape=data.image_shape,
        classes=len(data.classes),
        width=FLAGS.width,
        weights=FLAGS.weights,
        **({"gates": training.gates()} if gated else {}),
    )


def light(data: Data, gated: bool) -> keras.Model:
    """PSPNet on EfficientNet-Lite0, of that net's weights or of a trained one's."""
    weights = FLAGS.weights
    if weights is not None and weights.endswith(".keras"):
        model = keras.models.load_model(weights, compile=False)
    else:
        shape, classes = data.image_shape, len(data.classes)
        trunk = kd.efficientnet_lite0(weights=weights, input_shape=shape)
        model = kd.pspnet(trunk, classes=classes, input_shape=shape, after=LAST)
    if not gated:
        return model
    gates = training.gates()
    options = {"regularizers": gates.channel_regularizers}
    if gates.channel is not None:
        model = kd.add_channel_gates(
            model, LEAST, groups=2, gate=gates.channel, **options
        )
    if gates.layer is not None:
        model = kd.add_layer_gates(model, gate=gates.layer, **options)
    return model


# ## Training
#
# What is fitted has a second output, at the third stage; what is saved, counted and
# exported has not.


def train(run: training.Run, data: Data) -> tuple[keras.Model, float]:
    """Build, compile and fit; the model, and the seconds this session took."""
    steps = data.train.steps(FLAGS.batch_size) * FLAGS.epochs
    with run.scope():
        model = build(data)
        one_head = FLAGS.model == LITE
        fitted = model if one_head else kd.add_auxiliary_head(model)
        loss = kd.SegmentationCrossentropy(ignore_class=data.ignore_class)
        if FLAGS.method == "bas":
            training.prime(run, model, data, 64, loss=loss, batch_size=2)
        overlap = keras.metrics.MeanIoU(
            len(data.classes),
            ignore_class=data.ignore_class,
            sparse_y_pred=False,
            name="mean_iou",
        )
        heads = {"logits": 1.0, "aux": 0.4}
        fitted.compile(
            run.optimizer(model, steps),
            loss=loss if one_head else dict.fromkeys(heads, loss),
            loss_weights=None if one_head else heads,
            metrics=[overlap] if one_head else {"logits": [overlap]},
            **training.compiling(),
        )
    callbacks: list[Any] = []
    if FLAGS.method == "bas":
        callbacks = training.gate_callbacks(data, model, 8, 32, batch_size=4)
    targets = None if one_head else for_both_heads
    return model, run.train(fitted, data, callbacks, targets)


def for_both_heads(images: Any, labels: Any) -> tuple[Any, dict[str, Any]]:
    """The net's own head and the auxiliary one learn from the same labels."""
    return images, {"logits": labels, "aux": labels}


def judge(run: training.Run, model: keras.Model, data: Data) -> dict[str, Any]:
    """The test pictures, once: overlap and decisions in Keras, then every file."""
    files = judging.export_files(model, run.folder, data, samples=8)
    return {"files": files, **judging.look(model, data, files, batch_size=4)}


def main(argv: list[str]) -> None:
    title = f"{FLAGS.dataset}_{FLAGS.method}_{FLAGS.model}"
    training.drive(argv, title, load_data, train, judge)


if __name__ == "__main__":
    app.run(main)
