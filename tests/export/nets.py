"""Small nets with lively weights, to export in tests."""

import keras
import numpy as np

import keras_dyngate as kd
from keras_dyngate._walk import controllers, dynamic_layers
from keras_dyngate.flatfile import flatbuffer

SHAPE = (12, 12, 3)
NAMES = ("score", "distance", "margin", "entropy", "probability")


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
            kernel, bias = map(keras.ops.convert_to_numpy, (dense.kernel, dense.bias))
            dense.kernel.assign(kernel * scale)
            dense.bias.assign(bias * scale - 0.4 - logits.min(0) * scale)
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


def with_exits(trunk, after, x, confidence="score", seed=0, **options):
    """Random exits, and thresholds by which as many of `x` leave at each.

    `options` go to `add_decision_gates`, but for `mixing`. `confidence`: a name, or one
    for each exit.
    """
    mixing = options.pop("mixing", None)
    model = kd.add_decision_gates(trunk, list(after), **options)
    names = [confidence] * len(model.gates) if confidence in NAMES else confidence
    for gate, name in zip(model.gates, names, strict=True):
        gate.confidence = name
    rng = np.random.default_rng(seed)
    for gate in model.gates:
        for weight in gate.weights:
            if weight.path.endswith(("gamma", "moving_variance")):
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    for gate in model.gates:
        if isinstance(gate, kd.DecisionGate):
            dense = gate.dense
        else:
            dense = gate.graph.calls[-1].operation
        if not isinstance(dense, keras.layers.Dense):
            continue  # other scores are left as they come
        dense.kernel.assign(rng.normal(size=dense.kernel.shape))
        scores = keras.ops.convert_to_numpy(model(x)[gate.name])
        dense.kernel.assign(dense.kernel / scores.std(0))
        dense.bias.assign(-scores.mean(0) / scores.std(0))
    if mixing is not None:
        model.mixing = mixing
    spread_thresholds(model, x)
    return model


def spread_thresholds(model, x):
    """Let as many of `x` leave at each exit of a model."""
    raw = [keras.ops.convert_to_numpy(scores) for scores in model(x).values()]
    thresholds, staying, left = [], np.arange(len(x)), len(x) // len(raw)
    for index, gate in enumerate(model.gates):
        scores = model.answer(index, np.stack(raw[: index + 1], 1)).astype("float32")
        confidences = gate.confidence_of(keras.ops.convert_to_tensor(scores))
        found = keras.ops.convert_to_numpy(confidences)[staying]
        order = np.argsort(-found)
        thresholds.append(found[order[left - 1 : left + 1]].mean())  # between two
        staying = staying[order[left:]]
    model.thresholds = thresholds


def tiny_first(size=8, classes=7, seed=1):
    """A first net of an input size of its own: three kinds of kernels, a softmax."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = x = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 64, -2.0)(x)
    x = layers.Conv2D(40, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(48, 3, strides=2, activation="relu")(x)
    x = layers.Dense(32, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x))


def pooled_scores(shape):
    """A head that does not end in a linear layer: a convolution, pooled."""
    layers = keras.layers
    image = keras.Input(shape)
    x = layers.Conv2D(7, 3, strides=2, activation="relu")(image)
    return keras.Model(image, layers.GlobalMaxPooling2D()(x))


COMBINED = [  # exit 2 does without exit 1, the head with all
    [0.8, 0.0, 0.0, 0.0],
    [0.4, 0.5, 0.0, 0.0],
    [0.3, 0.0, 0.7, 0.0],
    [0.2, 0.3, 0.1, 0.6],
]


def cascade(
    x,
    heads=("separable", "conv"),
    mixing=COMBINED,
    confidence=("probability", "entropy", "margin"),
    **options,
):
    """A first net and two heads before the end of `conv_net`, combined."""
    options = {"head": list(heads), "first": tiny_first(), "mixing": mixing, **options}
    return with_exits(conv_net(), ("a", "b"), x, confidence, **options)


def column(answers, name):
    return np.array([answer[name][0] for answer in answers])


def assert_answers(found, predicted, index):
    """One answer of a float file is the row of Keras's prediction."""
    assert found["exit"] == predicted["exit"][index]
    assert found["label"] == predicted["label"][index]
    largest = np.abs(predicted["logits"]).max()
    for name in ("logits", "score"):
        np.testing.assert_allclose(
            found[name][0], predicted[name][index], atol=1e-5 * largest
        )
    assert abs(found["executed_macs"][0] - predicted["macs"][index] / 1000) <= 1
