"""A block of a user's own: trained, counted, forced, primed, exported, as ours are."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate.cost.cost_row import CostRow, Gating
from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.layers.dynamic_layer import Decision, DynamicLayer
from keras_dyngate.layers.gated_chain import GatedChain
from tests.stubs import images, randomize

SHAPE = (8, 8, 12)
mine = keras.saving.register_keras_serializable(package="user")


@mine
class Squeezed(GatedChain):
    """Three convolutions and two masks of unequal width, no shortcut, a last ReLU6."""

    masked = (0, 1)

    def __init__(self, gate, **kwargs):
        super().__init__(**kwargs)
        self.channel_gate = kd.controllers.get(gate, 4)
        conv = keras.layers.Conv2D
        self.a = conv(8, 1, activation="relu", name="a")
        self.b = conv(16, 3, padding="same", use_bias=False, name="b")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.c = conv(6, 1, strides=2, name="c")

    def links(self):
        return self.a, self.b, self.norm, ops.relu, self.c, ops.relu6

    def build(self, input_shape):
        self.build_links(input_shape)

    def get_config(self):
        gate = keras.saving.serialize_keras_object(self.channel_gate)
        return {**super().get_config(), "gate": gate}


@mine
class Halved(DynamicLayer):
    """A dense layer of which an input may need only the first half."""

    def __init__(self, gate="binary", **kwargs):
        super().__init__(**kwargs)
        self.gate = kd.controllers.get(gate, 1)
        self.always, self.more = (keras.layers.Dense(5, name=n) for n in "ab")

    def build(self, input_shape):
        self.always.build(input_shape)
        self.more.build(input_shape)
        if not self.gate.built:
            self.gate.build(input_shape)
        self.set_unit_macs(input_shape)

    def decisions(self):
        return (Decision("more", self.gate, slice(0, 1), 1),)

    def cost_rows(self, input_shape):
        channels = input_shape[-1]
        asks = self.gate.count_macs(channels)
        return [
            CostRow(self.name, "gate", asks, controller=True),
            CostRow(self.name, "always", 5 * channels),
            CostRow(self.name, "more", 5 * channels, (Gating("more"),)),
        ]

    def dense(self, x, scores, training):
        return self.always(x) + self.more(x) * scores["more"]

    def lower(self, x, tools):
        from keras_dyngate.export.lowering import as_constants

        with as_constants(self.always):
            y = self.always(x)

        def run(inside):
            with as_constants(self.more):
                return y + self.more(x)

        return tools.skippable("more", tools.score(self.gate, x), run, lambda: y + 0.0)

    def get_config(self):
        gate = keras.saving.serialize_keras_object(self.gate)
        return {**super().get_config(), "gate": gate}


def net(block, seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input(SHAPE)
    x = block(keras.layers.Rescaling(1 / 64, -2.0)(image))
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, keras.layers.Dense(3, name="top")(x)))


MAKERS = {
    "chain": lambda: Squeezed("binary", name="x"),
    "own": lambda: Halved(name="x"),
}


def lively(model, x, block):
    """Gates that are open for some of `x`."""
    features = keras.Model(model.input, block.input)(x)
    gate = block.decisions()[0].controller
    logits = ops.convert_to_numpy(gate(features).logit)
    gate.expand.bias.assign(gate.expand.bias - np.median(logits, axis=0))
    return model


@pytest.fixture(params=MAKERS)
def made(request):
    """A block, the net around it, pictures."""
    if request.param == "own":
        block = Halved(name="x")

        model = net(lambda x: block(keras.layers.Flatten()(x)))
    else:
        block = Squeezed("binary", name="x")
        model = net(block)
    x = images(8, *SHAPE)
    return block, lively(model, x, block), x


def test_it_trains_and_is_saved(made, tmp_path):
    block, model, x = made
    before = [ops.convert_to_numpy(v) for v in block.trainable_variables]
    model.compile("sgd", "mse")
    model.fit(x, np.ones((8, 3)), epochs=2, verbose=0)
    moved = [
        not np.array_equal(ops.convert_to_numpy(v), old)
        for v, old in zip(block.trainable_variables, before, strict=True)
    ]
    assert all(moved), [v.path for v in block.trainable_variables]
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_it_is_counted_by_hand(made):
    block, model, x = made
    decisions = kd.decide(model, x)
    open_ = {key: values.sum(1) for key, values in decisions.items()}
    assert all(0 < values.mean() < 1 for values in decisions.values())
    profile = kd.count_macs(model)
    if isinstance(block, Halved):
        asks = 16 * (768 + 1)
        expected = asks + 5 * 768 * (1 + open_["x/more"]) + 5 * 3
    else:
        asks, first, second = 16 * (12 + 4), open_["x/channel"], open_["x/channel_2"]
        a, b, c = 64 * 12 * 8, 64 * 9 * 8 * 16, 16 * 16 * 6
        expected = a * first / 2 + b * first * second / 4 + c * second / 2
        expected = expected + asks + 6 * 3
    np.testing.assert_array_equal(profile.of(decisions), expected.astype(int))
    lines = []
    kd.summary(model, measure=False, print_fn=lines.append)
    wanted = "layer" if isinstance(block, Halved) else "2 x 4 channels, 2 x 8 channels"
    assert any(wanted in line for line in lines)


def test_it_is_forced(made):
    block, model, x = made
    for rate in (0.0, 1.0):
        with kd.force_open_rate(model, rate):
            assert all((v == rate).all() for v in kd.decide(model, x).values())


def test_the_chain_is_masked_as_by_hand(made):
    block, model, x = made
    if isinstance(block, Halved):
        pytest.skip("is no chain")
    first, second = (kd.decide(model, x)[f"x/{key}"] for key in block.channel_keys)
    x = keras.Model(model.input, block.input)(x)
    first, second = (
        np.repeat(v, n, 1)[:, None, None] for v, n in ((first, 4), (second, 8))
    )
    y = block.a(x) * ops.convert_to_tensor(first)
    y = ops.relu(block.norm(block.b(y), training=False))
    y = ops.relu6(block.c(y * ops.convert_to_tensor(second)))
    np.testing.assert_allclose(block(x), y, rtol=1e-5, atol=1e-6)


def test_the_chain_is_primed_and_packed(made):
    block, model, x = made
    if isinstance(block, Halved):
        pytest.skip("has no channels")
    with kd.force_open_rate(model, 1.0):
        before = model.predict(x, verbose=0)
    kd.prime_gates(
        model, x, np.arange(8) % 3, 0.5, loss="sparse_categorical_crossentropy"
    )
    with kd.force_open_rate(model, 1.0):
        np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-4)
    with pytest.raises(ValueError, match="one decision per channel"):
        kd.pack_channels(model, x, 4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_its_file_skips_and_says_the_same(made, tmp_path, quantization):
    block, model, x = made
    report = kd.export_tflite(
        model, tmp_path / "net.tflite", quantization=quantization, representative_data=x
    )
    outputs, decisions = predict_with_decisions(model, x)
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    assert len(set(macs.tolist())) > 1
    file = kd.LiteRTModel(tmp_path / "net.tflite")
    largest = np.abs(outputs).max()
    for row, picture in enumerate(x):
        found = file.run("explain", image=picture)
        near = 1e-5 if quantization is None else 0.05
        np.testing.assert_allclose(
            found["logits"][0], outputs[row], atol=near * largest
        )
        assert abs(found["executed_macs"][0] - macs[row] / 1000) <= 1
        for key, values in decisions.items():
            np.testing.assert_array_equal(found[key][0] > 0, values[row] > 0)


def test_a_layer_without_a_conditional_form_says_so():
    class Bare(DynamicLayer):
        pass

    with pytest.raises(NotImplementedError, match="form of Bare yet.*'b'"):
        Bare(name="b").lower(None, None)
