"""Exits whose own nets have gates: a cascade of gated nets, in Keras and in a file."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.export.nets import (
    assert_answers,
    column,
    conv_net,
    only_builtins,
    small_net,
    spread_gates,
    spread_thresholds,
    tinted,
)

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
needs_tensorflow = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="exporting needs TensorFlow"
)
pytestmark = pytest.mark.heavy
X = tinted(40)


def gated(name, seed, **options):
    """A net whose blocks have names of their own."""
    net = small_net(groups=2, layers=True, seed=seed, **options)

    def renamed(layer):
        config = layer.get_config()
        config["name"] = f"{name}_{config['name']}"
        return type(layer).from_config(config)

    made = keras.models.clone_model(net, clone_function=renamed)
    made.set_weights(net.get_weights())
    return spread_gates(made, X)


def three_nets(**options):
    """A gated net first, another one at a place of its own, then a plain one."""
    first, second, trunk = (
        gated("s", 1, **options),
        gated("t", 2, **options),
        conv_net(),
    )
    image = keras.Input(trunk.input_shape[1:])
    x = keras.layers.Identity(name="again")(image)
    trunk = keras.Model(image, trunk(x))
    gates = [kd.ExitHead(7, first, name="first"), kd.ExitHead(7, second, name="second")]
    model = kd.EarlyExitModel(trunk, ["input", "again"], gates, combine=True)
    model.mixing = [[1.0, 0, 0], [0.4, 0.6, 0], [0.3, 0.2, 0.5]]
    spread_thresholds(model, X)
    return model, first, second


@pytest.fixture(scope="module")
def nets():
    return three_nets()


@pytest.fixture(scope="module")
def model(nets):
    return nets[0]


@pytest.fixture(scope="module")
def predicted(model):
    return model.predict(X, verbose=0)


def test_decisions_and_macs_are_those_of_the_nets(nets, predicted):
    model, first, second = nets
    found, exits = kd.decide(model, X), predicted["exit"]
    assert np.bincount(exits, minlength=3).min() > 5
    trunk = kd.count_macs(conv_net()).total
    spent = np.full(len(X), 0)
    for net, reached in ((first, exits >= 0), (second, exits >= 1)):
        own = kd.decide(net, X)
        for name, scores in own.items():
            assert len(np.unique(scores)) > 1
            np.testing.assert_array_equal(found[name], scores * reached[:, None])
        spent += kd.count_macs(net).of(own) * reached
    np.testing.assert_array_equal(predicted["macs"], spent + trunk * (exits == 2))
    table = kd.count_macs(model)
    np.testing.assert_array_equal(table.of(found), predicted["macs"])
    assert table.total == trunk  # exits and all in them count apart
    name = "t_block2/layer"
    wanted = sum(r.cost for r in table.rows if r.is_under(name))
    assert table.per_unit(name, 1) == wanted > 0


def test_saved_and_read(model, predicted, tmp_path):
    model.save(tmp_path / "net.keras")
    read = keras.models.load_model(tmp_path / "net.keras")
    again = read.predict(X, verbose=0)
    for name, values in predicted.items():
        np.testing.assert_array_equal(again[name], values)


def test_blocks_of_one_name_are_refused():
    heads = [kd.ExitHead(7, gated("s", seed), name=f"e{seed}") for seed in (1, 2)]
    trunk = conv_net()
    image = keras.Input(trunk.input_shape[1:])
    trunk = keras.Model(image, trunk(keras.layers.Identity(name="again")(image)))
    with pytest.raises(
        ValueError, match=r"hold blocks .* \['s_block1', 's_block2'\] in"
    ):
        kd.EarlyExitModel(trunk, ["input", "again"], heads)


def exported(model, path, quantization=None):
    representative = None if quantization in (None, "float16") else X
    report = kd.export_tflite(
        model,
        path,
        quantization=quantization,
        representative_data=representative,
        parity_data=False,
        calibration_samples=16,
    )
    assert only_builtins(path.read_bytes())
    return report, kd.LiteRTModel(path)


@needs_tensorflow
def test_a_float_file_decides_and_skips_as_keras(model, predicted, tmp_path):
    report, litert = exported(model, tmp_path / "net.tflite")
    decisions = kd.decide(model, X)
    for index, image in enumerate(X):
        found = litert.run("explain", image=image)
        assert_answers(found, predicted, index)
        for name, scores in decisions.items():
            if name != "exit":
                np.testing.assert_array_equal(found[name][0], scores[index])
    held = {branch.name: branch for branch in report.branches}
    assert {"s_block1/layer", "s_block2/channel[1]", "t_block1/layer"} <= set(held)


@needs_tensorflow
def test_what_is_shut_in_a_head_is_not_run(tmp_path):
    """Weights of a block are NaN: only images that open it see that."""
    model, first, second = three_nets()
    decisions = kd.decide(model, X)
    predicted = model.predict(X, verbose=0)
    for net, name in ((first, "s_block1"), (second, "t_block2")):
        weights = net.get_layer(name).weights
        (kernel,) = (w for w in weights if w.path.endswith("conv1/kernel"))
        kernel.assign(np.full(kernel.shape, np.nan))
    _, litert = exported(model, tmp_path / "nan.tflite")
    seen = set()
    for index, image in enumerate(X):
        names = ("s_block1/channel", "t_block2/channel")
        opens = any(decisions[name][index].any() for name in names)
        found = litert.run("classify", image=image)
        seen.add(opens)
        if not opens:
            assert_answers(found, predicted, index)
        else:
            assert np.isnan(found["logits"]).any()
    assert seen == {True, False}


@needs_tensorflow
@pytest.mark.parametrize("quantization", ["dynamic", "int8"])
def test_other_files_stay_close(model, predicted, tmp_path, quantization):
    _, litert = exported(model, tmp_path / "net.tflite", quantization)
    found = [litert.run("explain", image=image) for image in X]
    same = column(found, "exit") == predicted["exit"]
    assert same.mean() >= 0.85
    assert (column(found, "label") == predicted["label"])[same].mean() >= 0.9
    decisions = kd.decide(model, X)
    for name in ("s_block1/layer", "s_block2/channel", "t_block2/layer"):
        said = np.stack([f[name][0] for f in found])[same]
        assert ((said > 0) == (decisions[name] > 0)[same]).mean() >= 0.9, name
    macs = column(found, "executed_macs")[same] * 1000.0
    assert np.abs(macs / predicted["macs"][same] - 1).mean() < 0.03


@needs_tensorflow
def test_saliences_in_a_head_in_int8(tmp_path):
    """Their scores are numbers, which leave a float branch as bits."""
    model, first, _ = three_nets(gate=kd.SalienceController)
    _, litert = exported(model, tmp_path / "net.tflite", "int8")
    scores = kd.decide(first, X)["s_block1/channel"]
    said = np.stack([litert.run("explain", image=x)["s_block1/channel"][0] for x in X])
    assert np.abs(said - scores).mean() < 0.05


def test_gated_blocks_of_one_name_are_refused():
    first, last = (spread_gates(small_net(groups=2, seed=s), X) for s in (1, 2))
    with pytest.raises(ValueError, match="`gates` must hold blocks that decide with"):
        kd.cascade([first, last])


@needs_tensorflow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_plain_blocks_of_one_name(tmp_path, quantization):
    """Two ResNets of one family: blocks without gates decide nothing."""
    nets = [kd.resnet20(width=width) for width in (0.25, 0.5)]
    x = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype("float32")
    model = kd.cascade(nets)
    model.calibrate(x, exit_shares=[0.5])
    predicted = model.predict(x, verbose=0)
    macs = np.cumsum([kd.count_macs(net).total for net in nets])
    np.testing.assert_array_equal(predicted["macs"], macs[predicted["exit"]])
    report = kd.export_tflite(
        model,
        tmp_path / "net.tflite",
        quantization=quantization,
        representative_data=x,
        parity_data=False,
    )
    litert = kd.LiteRTModel(report.path)
    found = [litert.run("classify", image=image) for image in x]
    if quantization is None:
        for index, answer in enumerate(found):
            assert_answers(answer, predicted, index)
    assert (column(found, "exit") == predicted["exit"]).mean() > 0.8
    assert (column(found, "label") == predicted["label"]).mean() > 0.8
