"""Importance is judged by finite differences, priming by what the net computes after."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.channels.importance import decision_importance, gated_masks
from keras_dyngate.decisions import predict_with_decisions
from tests.stubs import FixedController, images, randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("numpy_initializers"),
]
to_numpy = keras.ops.convert_to_numpy


def net(bottleneck=False, group_size=2, classes=3, **gate):
    """Two gated blocks of 4 and 8 channels under a softmax, all weights random."""
    block = kd.GatedBottleneckBlock if bottleneck else kd.GatedBasicBlock
    x = image = keras.Input((6, 6, 3))
    made = []
    for index, filters in enumerate((4, 8)):
        units = len(block.masked) * filters // group_size
        made.append(
            block(
                filters,
                channel_gate=kd.BinaryGate(units, **gate),
                name=f"block{index}",
            )
        )
        x = made[-1](x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    top = keras.layers.Dense(classes, "softmax", name="top")
    model = keras.Model(image, top(x))
    parts = [p for b in made for p in (*b.convs, *b.norms, b.shortcut_conv)]
    for seed, part in enumerate([part for part in parts if part is not None]):
        randomize(part, seed)
    head = model.get_layer("top").kernel
    head.assign(np.random.default_rng(0).normal(0.0, 1.0, head.shape))
    return model


def labelled(count=6, classes=3):
    return images(count, 6, 6, 3) / 100.0, np.arange(count) % classes


def loss_of(model, x, y):
    p = to_numpy(model(x, training=False)).astype("float64")
    return float(-np.log(p[np.arange(len(y)), y]).mean())


@pytest.mark.parametrize("bottleneck", [False, True])
def test_importance_is_the_squared_derivative_by_a_mask(bottleneck):
    model, (x, y) = net(bottleneck), labelled()
    found = kd.channel_importance(model, x, y, batch_size=len(x))
    assert list(found) == [name for name, _, _ in gated_masks(model)]
    step = 0.001  # hardly a ReLU turns over within it
    with kd.force_open_rate(model, 1.0):
        for name, block, item in gated_masks(model):
            index = block.masked[block.channel_keys.index(item.key)]
            kernel = block.convs[index + 1].kernel
            before = to_numpy(kernel)
            expected = []
            for channel in range(before.shape[2]):
                losses = []
                for factor in (1 + step, 1 - step):
                    changed = before.copy()
                    changed[:, :, channel] *= factor
                    kernel.assign(changed)
                    losses.append(loss_of(model, x, y))
                kernel.assign(before)
                expected.append(((losses[0] - losses[1]) / (2 * step)) ** 2)
            assert max(expected) > 1e-4
            near = 0.01 * max(expected)
            np.testing.assert_allclose(found[name], expected, rtol=0.03, atol=near)


def test_batches_are_averaged_and_a_label_matters():
    model, (x, y) = net(), labelled(4)
    single = [
        kd.channel_importance(model, x[i : i + 1], y[i : i + 1]) for i in range(4)
    ]
    whole = kd.channel_importance(model, x, y, batch_size=1)
    for name, values in whole.items():
        mean = np.mean([one[name] for one in single], axis=0)
        np.testing.assert_allclose(values, mean, rtol=1e-4, atol=1e-9)
    other = kd.channel_importance(model, x, (y + 1) % 3, batch_size=1)
    assert not np.allclose(other["block0/channel"], whole["block0/channel"])


def test_importance_leaves_the_net_as_it_is():
    model, (x, y) = net(regularizers=["gate_sparsity"]), labelled()
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [to_numpy(v) for v in model.weights]
    flags = [v.trainable for v in model.weights]
    kd.channel_importance(model, x, y)
    for ours, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), old)
    assert [v.trainable for v in model.weights] == flags
    assert all(block.channel_gate.forced is None for _, block, _ in gated_masks(model))
    model.fit(x, y, verbose=0)  # its optimizer is untouched


@pytest.mark.parametrize("bottleneck", [False, True])
def test_priming_orders_channels_and_keeps_the_open_net(bottleneck):
    model, (x, y) = net(bottleneck), labelled()
    with kd.force_open_rate(model, 1.0):
        before = model.predict(x, verbose=0)
    old = kd.channel_importance(model, x, y)
    assert any((np.diff(values) > 0).any() for values in old.values())
    kd.prime_gates(model, x, y, 0.6)
    with kd.force_open_rate(model, 1.0):
        np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-4)
    for name, values in kd.channel_importance(model, x, y).items():
        expected = np.sort(old[name])[::-1]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-9)


def test_priming_inverted_residuals():
    image = keras.Input((6, 6, 3))
    options = {"channel_gate": kd.BinaryGate(4), "squeeze_filters": 2, "name": "b"}
    x = kd.GatedInvertedResidual(3, 8, **options)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(image, keras.layers.Dense(3, "softmax")(x)))
    x, y = labelled()
    with kd.force_open_rate(model, 1.0):
        before = model.predict(x, verbose=0)
    old = kd.channel_importance(model, x, y)["b/channel"]
    assert (np.diff(old) > 0).any()
    (biases,) = kd.prime_gates(model, x, y, 0.6).values()
    with kd.force_open_rate(model, 1.0):
        np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-4)
    new = kd.channel_importance(model, x, y)["b/channel"]
    np.testing.assert_allclose(new, np.sort(old)[::-1], rtol=1e-3, atol=1e-9)
    assert (np.diff(biases) <= 0).all() and biases[0] > 0 > biases[-1]


@pytest.mark.parametrize(
    "group_size, target, layer_gates",
    [(1, 0.3, False), (4, 0.9, False), (2, 0.6, True)],
)
def test_the_target_is_spent_from_the_first_step(group_size, target, layer_gates):
    model, (x, y) = net(group_size=group_size), labelled()
    if layer_gates:
        model = in_a_branch(model, group_size)
    biases = kd.prime_gates(model, x, y, target)
    profile = kd.count_macs(model)

    def spent():
        return profile.of(kd.decide(model, x)).mean() / profile.total

    assert spent() <= target
    flat = np.concatenate(list(biases.values()))
    assert np.abs(flat).max() <= 4.0
    for name, logit in biases.items():
        assert (np.diff(logit) <= 0).all(), name  # as the importance falls
    gates = {
        id(item.controller): (item.controller, layer.name)
        for layer in dynamic_layers(model)
        for item in layer.decisions()
    }
    stored = [to_numpy(gate.expand.bias) for gate, _ in gates.values()]
    np.testing.assert_array_equal(np.sort(np.concatenate(stored)), np.sort(flat))
    for gate, _ in gates.values():  # a little more, and it is too much
        gate.expand.bias.assign(gate.expand.bias + 0.1)
    assert spent() > target or flat.min() > 0


def in_a_branch(model, group_size):
    """The blocks under a layer gate of their own, before the pooling and the top."""
    x = image = keras.Input((6, 6, 3))
    for layer in model.layers[1:]:
        if layer.name == "block1":
            given = keras.Input((6, 6, 4))
            y = keras.layers.Conv2D(8, 3, padding="same", name="in1")(given)
            y = keras.layers.Conv2D(4, 3, padding="same", name="in2")(y)
            body = randomize(keras.Model(given, y, name="body"), 5)
            x = kd.GatedResidual(body, kd.BinaryGate(1), name="branch")(x)
        x = layer(x)
    return keras.Model(image, x)


def test_the_importance_of_a_branch_is_the_squared_derivative_by_its_factor():
    model, (x, y) = in_a_branch(net(), 2), labelled()
    found = decision_importance(model, x, y, batch_size=len(x))
    assert list(found)[-1] == "branch/layer" and found["branch/layer"].shape == (1,)
    last = model.get_layer("branch").body.get_layer("in2")
    before, step, losses = [to_numpy(v) for v in last.weights], 0.001, []
    with kd.force_open_rate(model, 1.0):
        for factor in (1 + step, 1 - step):
            last.set_weights([v * factor for v in before])
            losses.append(loss_of(model, x, y))
    expected = ((losses[0] - losses[1]) / (2 * step)) ** 2
    assert expected > 1e-6
    np.testing.assert_allclose(found["branch/layer"], [expected], rtol=0.02)


def test_primed_gates_decide_by_their_bias():
    """Two channels of four do nothing: their gate is shut, and the net says the same."""
    model, (x, y) = net(), labelled()
    _, block, _ = next(gated_masks(model))
    kernel = to_numpy(block.convs[1].kernel)
    kernel[:, :, [0, 2]] = 0.0  # spread over both groups
    block.convs[1].kernel.assign(kernel)
    with kd.force_open_rate(model, 1.0):
        before = model.predict(x, verbose=0)
    second = next(b for n, b, _ in gated_masks(model) if n == "block1/channel")
    kd.prime_gates(model, x, y, 0.9)
    for gate in (block.channel_gate, second.channel_gate):
        gate.expand.kernel.assign(np.zeros(gate.expand.kernel.shape))
    second.channel_gate.expand.bias.assign(np.full(4, 1.0))
    outputs, decisions = predict_with_decisions(model, x)
    assert (decisions["block0/channel"][:, 1] == 0).all()
    np.testing.assert_allclose(outputs, before, rtol=1e-4)


def test_labels_of_another_loss():
    model, (x, _) = net(), labelled()
    y = np.eye(3, dtype="float32")[np.arange(6) % 3]
    hot = kd.channel_importance(
        model, x, y, loss=keras.losses.CategoricalCrossentropy()
    )
    sparse = kd.channel_importance(model, x, y.argmax(1))
    for name, values in hot.items():
        np.testing.assert_allclose(values, sparse[name], rtol=1e-3, atol=1e-9)


def test_bad_input():
    model, (x, y) = net(), labelled()
    plain = kd.resnet20(width=0.25)
    with pytest.raises(ValueError, match=r"`model` must hold channel gates. Received"):
        kd.channel_importance(plain, x, y)
    with pytest.raises(ValueError, match=r"`y`.*Received: 5 labels, 6 images"):
        kd.channel_importance(model, x, y[:5])
    with pytest.raises(ValueError, match=r"`x` must hold images of shape"):
        kd.channel_importance(model, x[:, :5], y)
    with pytest.raises(ValueError, match=r"`share` must be .*Received: share=1.5"):
        kd.prime_gates(model, x, y, 1.5)
    with pytest.raises(ValueError, match=r"`spread` must be .*Received: spread=0"):
        kd.prime_gates(model, x, y, 0.5, spread=0)
    image = keras.Input((6, 6, 3))
    block = kd.GatedBasicBlock(4, channel_gate=FixedController(np.ones((6, 4))))
    other = keras.Model(image, block(image))
    with pytest.raises(ValueError, match=r"must have channel gates that are .BinaryG"):
        kd.prime_gates(other, x, y, 0.5)


def row(around):
    """Two chains of convolutions, the second one with or without an identity around."""
    layers = keras.layers
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(image)
    x = layers.Conv2D(4, 1, name="b")(x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="c")(x)
    y = layers.Conv2D(4, 1, name="d")(y)
    x = layers.Add(name="sum")([x, y]) if around else y
    x = layers.Dense(3, "softmax", name="top")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x)
    randomize(model)
    gates = {"groups": 4, "regularizers": [kd.GateSparsity(0.0, weighting="macs")]}
    return model, gates


@pytest.mark.parametrize("around", [False, True])
def test_what_nothing_goes_around_keeps_its_most_important_unit(around):
    plain, gates = row(around)
    model = kd.add_channel_gates(plain, **gates)
    x, y = labelled()
    names = list(kd.decide(model, x))
    assert len(names) == (2 if around else 1)
    table, shut = kd.count_macs(model), np.zeros((1, 4))
    alive = {name: shut + (np.arange(4) == 0) * (name == names[0]) for name in names}
    least = float(table.of(alive)[0]) / table.total
    biases = list(kd.prime_gates(model, x, y, share=least + 0.01).values())
    assert biases[0][0] == 4.0 > max(bias.max() for bias in biases[1:] or [shut])
    assert table.of(kd.decide(model, x)).mean() / table.total <= least + 0.01
    said = to_numpy(model(x, training=False))
    assert np.ptp(said, axis=0).max() > 1e-4  # it still sees a difference
    # What cannot be kept so is kept all the same.
    kd.prime_gates(model, x, y, share=least - 0.05)
    spent = table.of(kd.decide(model, x)).mean() / table.total
    assert spent <= least - 0.05


def test_a_branch_begins_with_something_open_in_it():
    plain, gates = row(True)
    model = kd.add_layer_gates(
        kd.add_channel_gates(plain, **gates), regularizers=gates["regularizers"]
    )
    (branch,) = [b for b in dynamic_layers(model) if b.decisions()[0].whole]
    (inside,) = [b for b in dynamic_layers(branch.body) if not b.decisions()[0].whole]
    x, y = labelled()
    for share in (0.3, 0.6, 0.9):
        biases = kd.prime_gates(model, x, y, share=share)
        opened = biases[f"{branch.name}/layer"].max()
        assert biases[f"{inside.name}/channel"].max() >= opened
