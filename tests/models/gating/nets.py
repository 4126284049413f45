"""Nets as people have them, small, with every kind of link that a chain may have."""

import keras
import numpy as np
from keras import ops

import keras_dyngate as kd
from keras_dyngate._walk import dynamic_layers
from tests.stubs import images, randomize

layers = keras.layers
SHAPE = (16, 16, 3)


def pictures(count=6):
    return images(count, *SHAPE)


def mobile(scale=False, name="mobile", shape=SHAPE, classes=5):
    """An inverted residual with squeeze-and-excite, hard-swish written out, ReLU6."""
    image = x = keras.Input(shape)
    x = layers.Rescaling(1 / 64, -2.0)(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(x)
    y = layers.Conv2D(24, 1, use_bias=False, name="wide")(x)
    y = layers.BatchNormalization(name="wide_norm", scale=scale)(y)
    y = y * ops.relu6(y + 3.0) * (1.0 / 6.0)
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="each")(y)
    y = layers.BatchNormalization(name="each_norm")(y)
    y = layers.ReLU(6.0)(y)
    s = layers.GlobalAveragePooling2D(keepdims=True)(y)
    s = layers.Conv2D(6, 1, activation="relu", name="squeeze")(s)
    s = layers.Conv2D(24, 1, activation="hard_sigmoid", name="excite")(s)
    y = layers.Multiply(name="weighed")([y, s])
    y = layers.Conv2D(8, 1, use_bias=False, name="narrow")(y)
    y = layers.BatchNormalization(name="narrow_norm")(y)
    x = layers.Add(name="sum")([x, layers.Dropout(0.2)(y)])
    x = layers.SeparableConv2D(12, 3, padding="same", name="apart")(x)
    x = layers.BatchNormalization(name="apart_norm")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="slope")(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.SeparableConv2D(8, 3, strides=2, activation="elu", name="apart2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(classes, activation="softmax", name="top")(x)
    return randomize(keras.Model(image, x, name=name))


def nested(at_rest=True):
    """A base in a model, called as tutorials do; a second base with the same names."""
    image = keras.Input(SHAPE)
    x = image
    for number in (1, 2):
        given = y = keras.Input(x.shape[1:])
        for index in (1, 2):
            y = layers.Conv2D(4 * index, 3, padding="same", name=f"conv{index}")(y)
            y = layers.BatchNormalization(name=f"norm{index}")(y)
            y = layers.Activation("gelu")(y)
        y = layers.MaxPooling2D()(y)
        base = keras.Model(given, y, name=f"base{number}")
        x = base(x / 64.0 if number == 1 else x, training=False if at_rest else None)
    x = layers.GlobalMaxPooling2D()(x)
    return randomize(keras.Model(image, layers.Dense(3, name="top")(x)))


def segmenter():
    """A class for every pixel, dense layers on maps, a bottleneck."""
    image = x = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 64, -2.0)(x)
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(16, activation="gelu", name="up")(y)
    y = layers.Dense(8, name="down")(y)
    x = layers.Add(name="mlp")([x, y])
    y = layers.Conv2D(4, 1, name="reduce")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(6, 3, padding="same", name="middle")(y)
    y = layers.LeakyReLU(0.1)(layers.BatchNormalization()(y))
    y = layers.Conv2D(8, 1, name="expand")(y)
    x = layers.ReLU()(layers.Add(name="sum")([y, x]))
    x = layers.Conv2D(3, 1, name="classes")(x)
    return randomize(keras.Model(image, layers.UpSampling2D(1)(x)))


def lively(model, x, seed=1):
    """Gates that are open for half of `x` each, if all before them are open."""
    rng = np.random.default_rng(seed)
    decisions = [d for layer in dynamic_layers(model) for d in layer.decisions()]
    logits, gates = {}, {id(d.controller): d.controller for d in decisions}
    for key, gate in gates.items():
        randomize(gate, seed)
        gate.expand.kernel.assign(rng.normal(0.0, 2.0, gate.expand.kernel.shape))

        def watched(given, training, key=key):
            logits[key] = ops.convert_to_numpy(given)
            return ops.ones_like(given)

        gate.compute_scores = watched
    model(x)
    for key, gate in gates.items():
        del gate.compute_scores
        middle = np.sort(logits[key], axis=0)[len(x) // 2 - 1 : len(x) // 2 + 1].mean(0)
        gate.expand.bias.assign(gate.expand.bias - middle)
    found = kd.decide(model, x)
    assert np.mean([0 < (v > 0).mean() < 1 for v in found.values()]) >= 0.5
    return model
