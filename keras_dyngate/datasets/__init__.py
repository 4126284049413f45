"""Labelled pictures as tf.data pipelines, for any Keras backend.

    data = kd.datasets.cifar10()
    steps = data.train.steps(128)
    stream = data.train.stream(128, seed=0)
    model.fit(stream, steps_per_epoch=steps, epochs=30, shuffle=False)
    model.evaluate(data.test.batches(128))

A stream is a function of its seed: it can be entered at any step, so that a run that was
cut off goes on with the very batches it would have seen. Validation pictures are never
among the training ones and never augmented.
"""

try:
    import tensorflow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`keras_dyngate.datasets` needs TensorFlow for its pipelines, whatever the "
        "backend. Install it with `pip install keras_dyngate[datasets]`."
    ) from error

from keras_dyngate.datasets.camvid import camvid
from keras_dyngate.datasets.cifar import cifar10, cifar100
from keras_dyngate.datasets.cityscapes import cityscapes
from keras_dyngate.datasets.digits import digits
from keras_dyngate.datasets.folder import image_folder
from keras_dyngate.datasets.imagenet import imagenet2012
from keras_dyngate.datasets.split import Data, Split

__all__ = [
    "Data",
    "Split",
    "camvid",
    "cifar10",
    "cifar100",
    "cityscapes",
    "digits",
    "image_folder",
    "imagenet2012",
]
