"""Gates on nets of anybody's: open they are the old ones, and what is shut is skipped."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.decisions import predict_with_decisions
from tests.models.gating.nets import lively, mobile, nested, pictures, segmenter

NETS = {"mobile": mobile, "nested": nested, "segmenter": segmenter}
WAYS = {
    "channels": lambda m: kd.add_channel_gates(m),
    "layers": lambda m: kd.add_layer_gates(m),
    "both": lambda m: kd.add_layer_gates(kd.add_channel_gates(m)),
    "layers first": lambda m: kd.add_channel_gates(kd.add_layer_gates(m)),
    "pairs": lambda m: kd.add_channel_gates(m, pairs=True),
}
CASES = [
    (net, way)
    for net in NETS
    for way in WAYS
    if (net, "layers" in way or way == "both") != ("nested", True)
]
to_numpy = keras.ops.convert_to_numpy
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)


@pytest.mark.parametrize("net, way", CASES)
def test_open_it_is_the_old_net(net, way):
    model, x = NETS[net](), pictures()
    before = [to_numpy(v) for v in model.weights]
    expected = model.predict(x, verbose=0)
    gated = WAYS[way](model)
    with kd.force_open_rate(gated, 1.0):
        found = gated.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert any(True for _ in dynamic_layers(gated))
    for variable, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    macs = kd.count_macs(model).total
    profile = kd.count_macs(gated)
    assert profile.total == macs and profile.gateable > 0.1 * macs


@pytest.mark.parametrize("net", ["mobile", "segmenter"])
def test_it_is_masked_as_by_hand(net):
    """Shut, the second half of a chain's channels are as zeros before the next kernel."""
    model, x = NETS[net](), pictures()
    first, last, width = (
        ("wide", "narrow", 24) if net == "mobile" else ("up", "down", 16)
    )
    gated = kd.add_channel_gates(model, first)
    (layer,) = dynamic_layers(gated)
    layer.channel_gate.forced = np.array([True, False])
    if net == "mobile":  # nothing of it reaches the means that weigh channels
        for name in ("squeeze", "narrow"):
            kernel = model.get_layer(name).kernel
            value = to_numpy(kernel).copy()
            value[:, :, width // 2 :] = 0
            kernel.assign(value)
    else:
        value = to_numpy(model.get_layer(last).kernel).copy()
        value[width // 2 :] = 0
        model.get_layer(last).kernel.assign(value)
    expected = model.predict(x, verbose=0)
    found = gated.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("net, way", CASES)
def test_it_is_saved_and_learns(tmp_path, net, way):
    model, x = WAYS[way](NETS[net]()), pictures()
    before = [to_numpy(v) for v in model.trainable_variables]
    model.compile("adam", "mse")  # whose steps are large however small a slope is
    model.fit(x, np.ones((6, *model.output_shape[1:])), epochs=2, verbose=0)
    moved = [
        not np.array_equal(to_numpy(v), old)
        for v, old in zip(model.trainable_variables, before, strict=True)
    ]
    still = [
        v.path for v, m in zip(model.trainable_variables, moved, strict=True) if not m
    ]
    assert np.mean(moved) > 0.8, still
    lively(model, x)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        again.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5
    )


def test_a_base_that_is_held_at_rest_stays_so():
    x = pictures()
    for at_rest in (True, False):
        model = kd.add_channel_gates(nested(at_rest))
        statistics = [
            v for v in model.variables if v.path.endswith("base1_moving_mean")
        ]
        statistics = statistics or [
            v for v in model.variables if "moving_mean" in v.path
        ]
        statistics = [v for v in statistics if "gate" not in v.path.split("/")[-3:-1]]
        norms = [
            link
            for layer in dynamic_layers(model)
            for link in layer.links()
            if isinstance(link, keras.layers.BatchNormalization)
        ]
        before = [to_numpy(norm.moving_mean) for norm in norms]
        model.compile("sgd", "mse")
        model.fit(x, np.ones((6, 3)), verbose=0)
        moved = [
            not np.array_equal(to_numpy(norm.moving_mean), old)
            for norm, old in zip(norms, before, strict=True)
        ]
        assert norms and all(moved) != at_rest and any(moved) != at_rest


@needs_tensorflow
@pytest.mark.heavy
@pytest.mark.parametrize("quantization", [None, "dynamic", "int8"])
@pytest.mark.parametrize("net, way", CASES)
def test_its_file_says_the_same_and_skips(tmp_path, net, way, quantization):
    x = pictures()
    model = lively(WAYS[way](NETS[net]()), x)
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(
        model,
        path,
        quantization=quantization,
        representative_data=x,
        parity_data=x,
        options=kd.GateOptions(group_size=1),  # of the gates, however small
    )
    outputs, decisions = predict_with_decisions(model, x)
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    assert len(set(macs.tolist())) > 1
    file = kd.LiteRTModel(path)
    for row, picture in enumerate(x):
        found = file.run("explain", image=picture)
        if quantization is None:
            for key, values in decisions.items():
                np.testing.assert_allclose(found[key][0], values[row], atol=1e-5)
            assert abs(found["executed_macs"][0] - macs[row] / 1000) <= 1
    exact = {None: 1e-5, "dynamic": 0.1, "int8": 0.05}[quantization]
    assert report.parity.max_difference < exact


@needs_tensorflow
def test_weights_of_what_is_shut_are_not_touched(tmp_path):
    model, x = kd.add_channel_gates(mobile()), pictures(2)
    for layer in dynamic_layers(model):
        layer.channel_gate.forced = np.array([True, False])
    expected = model.predict(x, verbose=0)
    for layer in dynamic_layers(model):
        for weight, axis in layer.channel_weights()["channel"]:
            value = to_numpy(weight).copy()
            part = [slice(None)] * value.ndim
            part[axis] = slice(value.shape[axis] // 2, None)
            if "excite" in weight.path or "squeeze" in weight.path:
                continue  # all means and factors are computed
            value[tuple(part)] = np.nan
            weight.assign(value)
    assert np.isnan(model.predict(x, verbose=0)).any(), "Keras masks: NaN * 0"
    path = tmp_path / "net.tflite"
    options = kd.GateOptions(group_size=1)
    kd.export_tflite(model, path, options=options, parity_data=False)
    file = kd.LiteRTModel(path)
    for row, picture in enumerate(x):
        logits = file.run("classify", image=picture)["logits"]
        found = np.exp(logits - logits.max())
        np.testing.assert_allclose(
            found / found.sum(), expected[row : row + 1], rtol=1e-3
        )


@needs_tensorflow
def test_with_exits_too(tmp_path):
    """One file has channel gates, layer gates and early exits."""
    x = pictures(8)
    model = lively(kd.add_layer_gates(kd.add_channel_gates(mobile())), x)
    exits = kd.add_decision_gates(model, ["gated_sum"])
    exits.fit_gates(x, np.arange(8) % 5)
    exits.thresholds = [0.3]
    options = kd.GateOptions(group_size=1)
    kd.export_tflite(exits, tmp_path / "net.tflite", options=options, parity_data=x)
    file = kd.LiteRTModel(tmp_path / "net.tflite")
    expected = exits.predict(x, verbose=0)
    for row, picture in enumerate(x):
        found = file.run("explain", image=picture)
        assert found["exit"][0] == expected["exit"][row]
        assert any(key.endswith("/layer") for key in found)
        assert any(key.endswith("/channel") for key in found)


@pytest.mark.parametrize("net, way", [("mobile", "channels"), ("segmenter", "pairs")])
def test_priming_keeps_the_open_net(net, way):
    """Channels go to other places, with all that has them: factors of channels too."""
    model, x = WAYS[way](NETS[net]()), pictures()
    with kd.force_open_rate(model, 1.0):
        before = model.predict(x, verbose=0)
    first = next(dynamic_layers(model)).links()[0].kernel
    kernel = to_numpy(first).copy()
    kd.prime_gates(model, x, before + 0.1, 0.6, loss="mse")
    assert not np.array_equal(to_numpy(first), kernel)
    with kd.force_open_rate(model, 1.0):
        found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-5)
    profile = kd.count_macs(model)
    assert profile.of(kd.decide(model, x)).mean() < 0.9 * profile.total


def test_packing_keeps_the_net():
    x = pictures(8)
    model = lively(kd.add_channel_gates(mobile(), group_size=1), x)
    packed, report = kd.pack_channels(model, x, 6)
    assert any(list(o) != sorted(o) for o in report.orders.values())
    assert report.data.after <= report.data.before
    np.testing.assert_allclose(
        packed.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-3, atol=1e-5
    )


def test_where():
    model = segmenter()
    names = [p.name for p in kd.gateable(model) if p.reason is None]
    for where, count in (
        ("up", 1),
        (["up", "reduce"], 2),
        (["reduce", "middle"], 1),  # they share a kernel: one chain of two masks
        (0.0, 2),
        (lambda place: place.channels == 16, 1),
        ("expand", 1),  # a layer in a chain
    ):
        gated = list(dynamic_layers(kd.add_channel_gates(model, where)))
        assert len(gated) == count, where
    (pair,) = dynamic_layers(kd.add_channel_gates(model, ["middle", "reduce"]))
    assert pair.masked == (0, 1) and pair.widths() == (4, 6)
    (one,) = dynamic_layers(kd.add_layer_gates(model, "mlp"))
    assert one.name == "gated_mlp"
    assert names


def test_groups_and_gates():
    model = mobile()
    gated = kd.add_channel_gates(
        model,
        group_size=6,
        gate=lambda units: kd.BinaryGate(units, hidden=4),
        regularizers=["gate_sparsity"],
        name="mine",
    )
    assert gated.name == "mine"
    gates = [layer.channel_gate for layer in dynamic_layers(gated)]
    assert [gate.units for gate in gates] == [4, 2]
    assert all(gate.hidden == 4 and len(gate.regularizers) == 1 for gate in gates)
    salient = kd.add_channel_gates(model, gate="salience")
    x = pictures()
    np.testing.assert_allclose(  # a salience begins at 1
        salient.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-6
    )


def test_bad_input():
    model = mobile()
    with pytest.raises(
        ValueError, match=r"`groups` must divide the 24.*'wide': .3, 4, 6. do"
    ):
        kd.add_channel_gates(model, groups=5)
    with pytest.raises(ValueError, match="`group_size` must divide the 24.*'wide'"):
        kd.add_channel_gates(model, group_size=7)
    with pytest.raises(ValueError, match="Give one of `group_size` and `groups`"):
        kd.add_channel_gates(model, groups=2, group_size=2)
    with pytest.raises(ValueError, match="`where` must name chains.*'wide'.*: 'wid'"):
        kd.add_channel_gates(model, "wid")
    with pytest.raises(ValueError, match="`where` must choose a chain.*chooses none"):
        kd.add_channel_gates(model, 0.99)
    with pytest.raises(ValueError, match="`where` must be names, a share"):
        kd.add_channel_gates(model, {"a": 1})
    with pytest.raises(ValueError, match="`model` must have a branch"):
        kd.add_layer_gates(nested())
    with pytest.raises(ValueError, match="`where` must name branches.*'sum'"):
        kd.add_layer_gates(model, "stem_")
    with pytest.raises(ValueError, match="A model needs a gate per place"):
        kd.add_channel_gates(model, gate=kd.BinaryGate(2))


def test_why_a_place_is_none():
    """Shared layers and channels first: the error names the place and the reason."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    twice = layers.Conv2D(8, 3, padding="same", name="twice")
    x = layers.Conv2D(8, 1, name="first")(image)
    x = layers.Conv2D(4, 1, name="last")(twice(twice(x)))
    shared = keras.Model(image, x)
    reason = "'twice': the layer is called several times"
    for where in (None, "twice"):
        with pytest.raises(ValueError, match=f"must have a chain.*{reason}"):
            kd.add_channel_gates(shared, where)
    x = layers.Conv2D(8, 1, data_format="channels_first", name="a")(image)
    x = layers.Conv2D(8, 1, data_format="channels_first", name="b")(x)
    with pytest.raises(ValueError, match="must have a chain.*'a': channels first"):
        kd.add_channel_gates(keras.Model(image, x))
    x = layers.Conv2D(8, 3, name="c")(layers.Conv2D(8, 3, name="d")(image))
    x = layers.Softmax()(x)
    x = layers.Conv2D(2, 1, name="e")(layers.Conv2D(4, 1, groups=2, name="grouped")(x))
    with pytest.raises(ValueError, match="must name chains.*'grouped', which cannot"):
        kd.add_channel_gates(keras.Model(image, x), "grouped")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
@pytest.mark.parametrize("way", ["channels", "layers", "both", "layers first"])
def test_the_net_keeps_its_precision(policy, way, dtype_policy):
    """A net of one policy is gated while Keras' policy is another."""
    dtype_policy(policy)
    model = segmenter()
    dtype_policy("float32")
    gated, x = WAYS[way](model), pictures()
    expected = to_numpy(model(x)).astype("float32")
    with kd.force_open_rate(gated, 1.0):
        found = to_numpy(gated(x)).astype("float32")
    near = 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=near)
    assert gated.output.dtype == model.output.dtype


def test_an_anytime_net_is_refused():
    model = kd.sliced_resnet(blocks=1, width=16, subnetworks=2)
    with pytest.raises(ValueError, match="must not be an anytime net"):
        kd.add_channel_gates(model)
