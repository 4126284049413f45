"""Controllers whose answers a test dictates, and nets with random weights."""

import keras
import numpy as np
from keras import ops

from keras_dyngate.controllers import Controller


class FixedController(Controller):
    """Says `scores`, `[batch, units]`, whatever it is shown."""

    def __init__(self, scores):
        self.scores = np.asarray(scores, "float32")
        super().__init__(self.scores.shape[-1])

    def compute_logits(self, pooled, training):
        return ops.convert_to_tensor(2 * self.scores - 1)

    def compute_scores(self, logits, training):
        return ops.convert_to_tensor(self.scores)

    def count_macs(self, channels):
        return 0


@keras.saving.register_keras_serializable(package="tests")
class MeanController(Controller):
    """The logits are a linear function of the channel means, the scores 0 or 1."""

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="zeros", name="kernel"
        )
        rng = np.random.default_rng(0)
        self.kernel.assign(rng.normal(size=self.kernel.shape))

    def compute_logits(self, pooled, training):
        return ops.matmul(pooled, self.kernel)

    def compute_scores(self, logits, training):
        return ops.cast(logits > 0, "float32")

    def count_macs(self, channels):
        return channels * self.units


def randomize(layer, seed=0):
    """Give every variable of a layer or model another value, variances a positive one."""
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        shape = tuple(variable.shape)
        if variable.name == "moving_variance" or variable.name == "gamma":
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = rng.normal(0.0, np.prod(shape[:-1]) ** -0.5, shape)
        else:
            value = rng.normal(0.0, 0.3, shape)
        variable.assign(value.astype("float32"))
    return layer


def images(*shape, seed=0):
    """Random images, 0 to 255, whose channel means differ from one to the next."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 255, shape) * rng.uniform(0.1, 1.0, (shape[0], 1, 1, shape[-1]))
    return x.astype("float32")
