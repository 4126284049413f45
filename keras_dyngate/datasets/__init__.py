"""Labelled pictures as tf.data pipelines, for any Keras backend.

    data = kd.datasets.cifar10()
    model.fit(
        data.train.stream(128, seed=0), steps_per_epoch=data.train.steps(128), epochs=30
    )
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

from keras_dyngate.datasets.cifar import cifar10, cifar100
from keras_dyngate.datasets.digits import digits
from keras_dyngate.datasets.split import Data, Split

__all__ = ["Data", "Split", "cifar10", "cifar100", "digits"]
