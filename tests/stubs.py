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
    """Give every variable another random value, variances a positive one."""
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


def outputs(model, x):
    """What a model says at inference; eager, as compiling takes longer than running."""
    return ops.convert_to_numpy(model(x, training=False))


def images(*shape, seed=0):
    """Random images, 0 to 255, whose channel means differ from one to the next."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 255, shape) * rng.uniform(0.1, 1.0, (shape[0], 1, 1, shape[-1]))
    return x.astype("float32")


def torch_weights(block):
    """The block's weights by PyTorch's names, float64."""
    weights = {}
    pairs = [(f"conv{i}", f"bn{i}") for i in range(1, len(block.convs) + 1)]
    layers = list(zip(pairs, block.convs, block.norms, strict=True))
    if block.shortcut_conv is not None:
        names = ("downsample.0", "downsample.1")
        layers.append((names, block.shortcut_conv, block.shortcut_norm))
    for (conv_name, norm_name), conv, norm in layers:
        kernel = ops.convert_to_numpy(conv.kernel).astype("float64")
        weights[f"b.{conv_name}.weight"] = kernel.transpose(3, 2, 0, 1)
        for theirs, value in (
            ("weight", norm.gamma),
            ("bias", norm.beta),
            ("running_mean", norm.moving_mean),
            ("running_var", norm.moving_variance),
        ):
            weights[f"b.{norm_name}.{theirs}"] = ops.convert_to_numpy(value).astype(
                "float64"
            )
    return weights


def built(block, shape, seed=0):
    """The block, built for images of a shape, with random weights."""
    block.build((None, *shape))
    return randomize(block, seed)
