"""Small nets of many kinds, all weights random, and pictures for them."""

import keras
import numpy as np

import keras_dyngate as kd

layers = keras.layers
CLASSES = 4


def pictures(count=48, size=16):
    rng = np.random.default_rng(1)
    bright = rng.uniform(30, 220, (count, 1, 1, 3))
    return np.clip(rng.normal(bright, 40, (count, size, size, 3)), 0, 255).astype("f")


X = pictures()
Y = np.arange(len(X)) % CLASSES


def lively(model, seed=0):
    """Weights as of a net that has learned something; gates that decide both ways."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = weight.shape
        if "gamma" in weight.path or "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, shape))
        elif "beta" in weight.path or "moving_mean" in weight.path:
            weight.assign(rng.normal(0, 0.2, shape))
        elif "kernel" in weight.path and len(shape) > 1:
            inner = np.prod(shape[:-1]) if "depthwise" not in weight.path else 9
            weight.assign(rng.normal(0, (2 / inner) ** 0.5, shape))
    return model


def plain():
    """All that int8 files treat in ways of their own."""
    image = x = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    y = layers.Conv2D(16, 1, activation="relu6", name="wide")(x)
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
    y = layers.Conv2D(8, 1)(layers.Activation("hard_silu")(y))
    x = layers.Add(name="sum")([x, layers.BatchNormalization()(y)])
    y = layers.Conv2D(8, 3, activation="silu", padding="same", name="silu")(x)
    x = layers.Concatenate()([x, y])
    x = layers.ReLU()(layers.BatchNormalization(name="alone")(x))
    x = layers.UpSampling2D()(layers.MaxPooling2D()(x))
    x = layers.SeparableConv2D(16, 3, padding="same", activation="relu")(x)
    x = x * keras.ops.relu6(x + 3.0) / 6.0  # hard-swish by hand
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(CLASSES, "softmax", name="top")(x)
    return lively(keras.Model(image, x, name="plain"))


def mobile():
    """Inverted residuals of anybody's."""
    image = x = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    for name in ("one", "two"):
        y = layers.BatchNormalization()(layers.Conv2D(32, 1, use_bias=False)(x))
        y = layers.DepthwiseConv2D(3, padding="same")(layers.ReLU(6.0)(y))
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(y))
        x = layers.Add(name=name)([x, y])
    x = layers.Dense(CLASSES, "softmax")(layers.GlobalAveragePooling2D()(x))
    return lively(keras.Model(image, x, name="mobile"))


def channels():
    return lively(kd.add_channel_gates(mobile(), groups=2))


def branches():
    return lively(kd.add_layer_gates(mobile()))


def both():
    return lively(kd.add_layer_gates(kd.add_channel_gates(mobile(), groups=2)))


def blocks(gate=None, layer="binary"):
    """The library's own residual blocks."""
    image = x = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
    gates = [kd.BinaryGate(2), kd.BinaryGate(4)] if gate is None else gate
    x = kd.GatedBasicBlock(32, channel_gate=gates[0], layer_gate=layer)(x)
    x = kd.GatedBottleneckBlock(16, strides=2, channel_gate=gates[1])(x)
    x = layers.Dense(CLASSES, "softmax")(layers.GlobalAveragePooling2D()(x))
    return lively(keras.Model(image, x, name="blocks"))


def saliences():
    """Gates whose scores scale what they open."""
    gates = [kd.SalienceController(2), kd.SalienceController(4)]
    return blocks(gates, kd.SalienceController(1))


def squeezed():
    """A squeeze-and-excite between the kernels of each chain."""
    image = x = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu6")(x)
    for name in ("one", "two"):
        y = layers.Conv2D(32, 1, activation="relu6")(x)
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(y)
        z = layers.GlobalAveragePooling2D(keepdims=True)(y)
        z = layers.Conv2D(8, 1, activation="relu")(z)
        y = layers.Multiply()([y, layers.Conv2D(32, 1, activation="sigmoid")(z)])
        x = layers.Add(name=name)([x, layers.Conv2D(16, 1)(y)])
    x = layers.Dense(CLASSES, "softmax")(layers.GlobalAveragePooling2D()(x))
    net = lively(keras.Model(image, x, name="squeezed"))
    return lively(kd.add_channel_gates(net, groups=2))


def exits():
    model = kd.add_decision_gates(mobile(), ["one"], head="separable", combine=True)
    lively(model)
    model.thresholds = [0.45]
    return model


def gated_exits():
    model = kd.add_decision_gates(channels(), ["one"])
    lively(model)
    model.thresholds = [0.45]
    return model


def anytime(make, **options):
    """A small net of several sub-networks."""
    sizes = {"blocks": 1, "width": 8, "subnetworks": 2, "input_shape": (16, 16, 3)}
    return lively(make(**{**sizes, **options}))


def sliced(**options):
    return anytime(kd.sliced_resnet, classes=CLASSES, **options)


def slices_that_add():
    """Heads of one linear layer, to which each slice adds."""
    return sliced(subnetworks=4, heads="shared", execution="sliced")


def sliced_groups():
    """Grouped bottlenecks, and a coarse answer before a fine one."""
    options = {"taxonomy": kd.HierarchicalTaxonomy([0, 0, 1, 1]), "coarse_heads": 1}
    options |= {"cardinality": 4, "branch_width": 2, "heads": "shared"}
    return anytime(kd.sliced_resnext, **options)


def inclusive():
    options = {"cardinality": 2, "branch_width": 4, "classes": CLASSES}
    return anytime(kd.inclusive_resnext, **options)


NETS = {
    net.__name__: net
    for net in (
        plain,
        mobile,
        channels,
        branches,
        both,
        blocks,
        saliences,
        squeezed,
        exits,
        gated_exits,
        sliced,
        slices_that_add,
        sliced_groups,
    )
}
