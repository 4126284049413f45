"""Small nets with lively weights, to export in tests."""

import keras
import numpy as np

import keras_dyngate as kd
from keras_dyngate._walk import controllers, dynamic_layers
from keras_dyngate.runtime import flatbuffer

SHAPE = (12, 12, 3)


def images(count, shape=SHAPE, seed=0):
    return (
        np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype("float32")
    )


def tinted(count, seed=0):
    """Images whose mean colours differ as those of photographs do."""
    tint = np.random.default_rng(seed).uniform(0.2, 1, (count, 1, 1, 3))
    return np.round(images(count, seed=seed) * tint).astype("float32")


def only_builtins(content):
    """Whether a file does without custom operators, Flex among them."""
    builtin = set(vars(flatbuffer.schema.BuiltinOperator)) - {"CUSTOM"}
    return set(flatbuffer.op_counts(content)) <= builtin


def raw_logits(model, x):
    """What a net whose last layer is Dense computes before that one's activation."""
    head = model.layers[-1]
    features = keras.Model(model.inputs, head.input).predict(x, verbose=0)
    kernel, bias = head.get_weights()
    return features @ kernel + bias


def enliven(model, seed=0):
    """Random BN statistics, and gates that differ from image to image."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("beta", "moving_mean")):
            weight.assign(0.1 * rng.normal(size=weight.shape))
    for gate in controllers(model):
        dense, size, bias = getattr(gate, "expand", None), 3.0, 0.0
        if dense is None:  # a salience: some at 0, some at 1, some between
            dense, size, bias = gate.dense, 0.3, 0.3
        dense.kernel.assign(size * rng.normal(size=dense.kernel.shape))
        dense.bias.assign(bias + 0.3 * rng.normal(size=dense.bias.shape))
    return model


def small_net(
    block=kd.GatedBasicBlock,
    filters=32,
    groups=2,
    layers=False,
    shortcut="projection",
    seed=0,
    gate=kd.BinaryGate,
    **options,
):
    """Stem, a block, a strided block that widens, softmax head.

    `groups` decisions per mask (None: no channel gates), of 32 and 64 channels here.
    `gate` makes the gates of channels and of layers; `options` go to the blocks.
    """
    keras.utils.set_random_seed(seed)
    image = x = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 64, -2.0)(x)
    x = keras.layers.Conv2D(filters, 3, padding="same", name="stem")(x)
    for index, stride in enumerate((1, 2), 1):
        channel = None
        if groups:
            masks = len(block.masked)
            if options.get("gated_activations") == "last":
                masks = 1
            channel = gate((groups * stride if groups > 2 else groups) * masks)
        x = block(
            filters * stride,
            strides=stride,
            channel_gate=channel,
            layer_gate=gate(1) if layers else None,
            shortcut=shortcut,
            name=f"block{index}",
            **options,
        )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(7, activation="softmax")(x)
    return enliven(keras.Model(image, x), seed)


def spread_gates(model, x):
    """Let each gate be shut for some images of `x`, and open for more.

    A salience becomes 0 for some, 1 for some, and something between for others.
    """
    for block in dynamic_layers(model):
        features = keras.Model(model.input, block.input)(x)
        for gate in (block.channel_gate, block.layer_gate):
            if gate is None:
                continue
            dense = getattr(gate, "expand", None) or gate.dense
            logits = keras.ops.convert_to_numpy(gate(features).logit)
            scale = 1.7 / np.ptp(logits, axis=0)  # to -0.4 ... 1.3
            dense.kernel.assign(dense.kernel * scale)
            dense.bias.assign(dense.bias * scale - 0.4 - logits.min(0) * scale)
    return model


def conv_net(seed=0):
    """Without gates or scaling of the image: stem "a", a strided "b", a third, a head."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = x = keras.Input(SHAPE)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="a")(x)
    x = layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(name="b")(layers.BatchNormalization()(x))
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.Dense(7, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return enliven(keras.Model(image, x), seed)


def with_exits(trunk, after, x, confidence="score", seed=0):
    """Two random gates, and thresholds by which a third of `x` leaves at each exit."""
    model = kd.add_decision_gates(trunk, after=list(after), confidence=confidence)
    rng = np.random.default_rng(seed)
    features, thresholds, staying = x, [], np.arange(len(x))
    for stage in model.stages[:-1]:
        gate, features = stage.gate, stage.part(features)
        gate.dense.kernel.assign(rng.normal(size=gate.dense.kernel.shape))
        scores = keras.ops.convert_to_numpy(gate(features))
        gate.dense.kernel.assign(gate.dense.kernel / scores.std(0))
        gate.dense.bias.assign(-scores.mean(0) / scores.std(0))
        confidences = gate.confidence_of(gate(features))
        found = keras.ops.convert_to_numpy(confidences)[staying]
        order, left = np.argsort(-found), len(x) // 3
        thresholds.append(found[order[left - 1 : left + 1]].mean())  # between two
        staying = staying[order[left:]]
    model.thresholds = thresholds
    return model
