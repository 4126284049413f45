"""What a quantize-aware net computes, beside NumPy, its file, and the net it is of."""

from typing import Any

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("quantizing needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.layers.dynamic_layer import DynamicLayer
from keras_dyngate.quantization.fake_quantize import HELD, FakeQuantize
from tests.quantization.nets import (
    CLASSES,
    NETS,
    X,
    Y,
    blocks,
    branches,
    channels,
    inclusive,
    lively,
    mobile,
    plain,
    sliced,
    sliced_groups,
    slices_that_add,
    squeezed,
)

pytestmark = pytest.mark.heavy
layers = keras.layers
KERNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "TRANSPOSE_CONV": 2}


def probabilities(model, x=X):
    found = model.predict(x, verbose=0)
    return found["logits"] if isinstance(found, dict) else found


def learn(model, epochs=1, rate=1e-3):
    loss: Any = keras.losses.SparseCategoricalCrossentropy()
    if isinstance(model, kd.AnytimeModel):
        loss = None  # its own
    elif not isinstance(model.output_shape, tuple):  # exits end in raw scores
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss)
    return model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0).history["loss"]


def operators(path):
    """Names of a file's operators, and whether what each reads is int8."""
    file = flatbuffer.read(path.read_bytes())
    for _, graph, operator in flatbuffer.walk(file):
        name = flatbuffer.op_name(file, operator)
        tensor = graph.tensors[operator.inputs[KERNELS.get(name, 0)]]
        yield name, tensor.type == 9  # int8


# Nets of random weights: some gates are shut on all pictures, and some answers close.
@pytest.mark.filterwarnings("ignore:On none of the 48 representative")
@pytest.mark.filterwarnings("ignore:The file agrees with Keras on")
@pytest.mark.parametrize("name", NETS)
def test_a_net_is_trained_saved_stripped_and_exported(name, tmp_path):
    net = NETS[name]()
    before = [keras.ops.convert_to_numpy(w) for w in net.weights]
    model = kd.quantize_aware(net, X)
    # It computes what the net does, but for the rounding.
    theirs = probabilities(net)
    # Decisions near the threshold may fall otherwise: those pictures differ more.
    off = np.abs(probabilities(model) - theirs).max(-1) / np.ptp(theirs)
    assert np.quantile(off, 0.8) < 0.1
    bare = kd.strip_quantization(model)
    np.testing.assert_allclose(probabilities(bare), theirs, atol=1e-5)
    for ours, old in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), old)
    # It learns, and is saved.
    learn(model)
    changed = kd.strip_quantization(model)
    assert np.abs(probabilities(changed) - theirs).max() > 1e-4
    model.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras", compile=False)
    np.testing.assert_array_equal(probabilities(loaded), probabilities(model))
    # Its file computes the same in 8 bits, without any data.
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(loaded, path, quantization="int8", parity_data=X)
    parity = report.parity
    # Of 48 pictures; training is not the same to the bit from run to run.
    assert parity.clear_argmax_agreement >= 0.93
    assert parity.decision_agreement is None or parity.decision_agreement >= 0.95
    assert parity.clear_exit_agreement is None or parity.clear_exit_agreement >= 0.93
    found = list(operators(path))
    assert [quantized for op, quantized in found if op in KERNELS] and all(
        quantized for op, quantized in found if op in KERNELS
    )
    file = kd.LiteRTModel(path)
    assert file.metadata["quantize_aware"] is True
    assert not {op for op, _ in found} & {"CUSTOM", "FLEX"}
    executed = file.evaluate(X, Y)["mean_executed_macs"]
    table = kd.count_macs(net)
    assert executed <= table.total + table.controllers + 1000  # told in thousands
    if table.gateable:
        assert "IF" in {op for op, _ in found}


@pytest.mark.filterwarnings("ignore:The file agrees with Keras on")
def test_exits_behind_gated_layers_leave_as_in_keras(tmp_path):
    net = kd.add_decision_gates(
        branches(), ["gated_one"], head="separable", combine=True
    )
    for head in net.gates:
        lively(head)
    net.thresholds = [0.45]
    model = kd.quantize_aware(net, X)
    report = kd.export_tflite(
        model, tmp_path / "net.tflite", quantization="int8", parity_data=X
    )
    found = report.parity
    agreement = found.argmax_agreement, found.decision_agreement, found.exit_agreement
    assert min(agreement) >= 0.97 and found.clear_argmax_agreement >= 0.97


@pytest.mark.filterwarnings("ignore:The file agrees with Keras on")
@pytest.mark.parametrize("leaves", [False, True])
def test_large_layers_in_float(leaves, tmp_path):
    """The converter rounds kernels of 1024 numbers and more on its own account."""
    image = x = keras.Input((16, 16, 3))
    for name in ("early", "late"):
        x = layers.Conv2D(64, 3, strides=2, activation="relu", name=name)(x)
    x = layers.Dense(20, name="top")(layers.GlobalAveragePooling2D()(x))
    net = lively(keras.Model(image, x))
    kept = ["top"]
    if leaves:
        net, kept = kd.add_decision_gates(net, ["early"], head="separable"), []
        lively(net.gates[0])
        net.thresholds = [0.2]
    model = kd.quantize_aware(net, X, keep_float=kept)
    path = tmp_path / "net.tflite"
    parity = kd.export_tflite(model, path, quantization="int8", parity_data=X).parity
    assert parity.argmax_agreement >= 0.95 and parity.max_difference < 0.05
    found = [quantized for op, quantized in operators(path) if op == "FULLY_CONNECTED"]
    assert False in found


@pytest.mark.parametrize("whole", [False, True], ids=["any", "whole pixels"])
@pytest.mark.parametrize("make", [mobile, branches])
def test_a_file_says_what_keras_says_to_the_bit(make, whole, tmp_path):
    x = np.round(X) if whole else X
    model = kd.quantize_aware(make(), x)
    keras.utils.set_random_seed(0)  # of the order of the pictures
    learn(model)
    path = tmp_path / "net.tflite"
    parity = kd.export_tflite(model, path, quantization="int8", parity_data=x).parity
    assert parity.argmax_agreement == 1.0
    assert parity.decision_agreement in (None, 1.0)
    file = kd.LiteRTModel(path)
    logits = np.stack([file.run("classify", image=each)["logits"][0] for each in x])
    theirs = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    off = np.abs(theirs - probabilities(model, x)).max(-1)
    # A sum may lie halfway between two steps, to seven digits.
    assert (off < 1e-5).mean() >= 0.9 and off.max() < 0.02


@pytest.mark.parametrize("make", [mobile, channels])
def test_a_file_is_its_equal_to_some_steps_without_training(make, tmp_path):
    """Logits differ by a few steps of the last range: rounding is not chaos."""
    net = make()
    model = kd.quantize_aware(net, X)
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(model, path, quantization="int8", parity_data=X)
    low, high = [x for x in model.layers if isinstance(x, FakeQuantize)][-1].range()
    off = report.parity.max_difference * max(-low, high)  # it is relative
    assert off <= 6.01 * (high - low) / 255
    post = kd.export_tflite(
        net, path, quantization="int8", representative_data=X, parity_data=X
    )
    assert report.bytes == pytest.approx(post.bytes, rel=0.1)


@pytest.mark.parametrize("make", [sliced, slices_that_add, sliced_groups])
def test_a_step_adds_to_what_is_there(make):
    """Step by step, alone and all at once, a quantized sub-network says the same."""
    model = kd.quantize_aware(make(), X)
    every = model.predict(X, verbose=0)
    head = model.layers[-1].activation
    for k, scores in model.anytime(X):
        alone = model.predict_at(k, X)
        np.testing.assert_array_equal(scores, alone)
        shown = np.asarray(head(alone))
        np.testing.assert_allclose(every[:, k - 1, : shown.shape[-1]], shown, atol=1e-6)


def test_slices_of_a_kernel_that_are_executed_apart(tmp_path):
    """Without data a slice of all there is would stop the converter's calibration."""
    net, path = sliced(execution="sliced"), tmp_path / "net.tflite"
    kd.export_tflite(net, path, quantization="int8", representative_data=X)
    found = list(operators(path))
    assert all(quantized for op, quantized in found if op in KERNELS)


def test_a_squeeze_in_a_chain_is_int8_as_a_whole(tmp_path):
    model, path = kd.quantize_aware(squeezed(), X), tmp_path / "net.tflite"
    kd.export_tflite(model, path, quantization="int8")
    file = flatbuffer.read(path.read_bytes())
    kinds = {
        graph.tensors[operator.inputs[0]].type
        for _, graph, operator in flatbuffer.walk(file)
        if flatbuffer.op_name(file, operator) in ("MUL", "MEAN", "LOGISTIC")
        and len(graph.tensors[operator.inputs[0]].shape) == 4
        and graph.tensors[operator.inputs[0]].shape[-1] > 3  # not the image
    }
    assert kinds == {9}


def test_ranges_follow_the_training():
    model = kd.quantize_aware(mobile())
    steps = [x for x in model.layers if isinstance(x, FakeQuantize)]
    with pytest.raises(ValueError, match="so that ranges are known. Received: .*none"):
        steps[0].range()
    model.compile("sgd", "sparse_categorical_crossentropy")
    seen = []
    for batch in (X[:16], X[:16] * 0.5, X[:16] * 0 + 255):
        model.fit(batch, Y[:16], batch_size=16, verbose=0, shuffle=False)
        seen.append([(float(each.low), float(each.high)) for each in steps])
    # Of the input: all that was seen, and half a step more.
    scaled = X[:16] / 127.5 - 1
    assert seen[0][0] == pytest.approx((scaled.min(), scaled.max()), rel=1e-4)
    assert seen[1][0] == seen[0][0]
    assert seen[2][0] == pytest.approx((scaled.min(), 1.0), rel=1e-4)
    low, high = seen[2][0]
    found, step = steps[0].range(), (high - low) * 256 / 255 / 255
    assert found[1] - found[0] == pytest.approx(255 * step, rel=1e-4)
    assert abs(found[0] - low) <= 1.01 * step  # moved so that 0 is a step
    # Of others: .001 of the way to each batch's.
    change = np.abs(np.subtract(seen[1], seen[0]))[1:].max(-1)
    spread = np.ptp(seen[0], axis=1)[1:]
    moving = np.array([each.fixed is None for each in steps[1:]])
    assert (change[moving] > 0).mean() > 0.7 and (change < 0.002 * spread).all()


def test_ranges_that_a_file_ties_are_one_and_stay(tmp_path):
    model = kd.quantize_aware(branches(), X)
    (before,) = (
        x for x in model.layers if isinstance(x, FakeQuantize) and x.started == HELD
    )  # in front of the first of two residuals
    totals = [model.get_layer(f"gated_{name}").dress.total for name in ("one", "two")]
    ends = [each.range() for each in (before, *totals)]
    assert ends[0] == ends[1] == ends[2]
    learn(model, epochs=2, rate=0.01)
    model.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras", compile=False)
    total = loaded.get_layer("gated_two").dress.total
    assert total.started == HELD and total.range() == ends[0]


def test_normalizations_are_frozen_unless_they_are_to_learn():
    for frozen in (True, False):
        model = kd.quantize_aware(mobile(), X, freeze_norms=frozen)
        norms = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
        before = keras.ops.convert_to_numpy(norms[0].moving_mean)
        learn(model)
        after = keras.ops.convert_to_numpy(norms[0].moving_mean)
        assert np.array_equal(before, after) is frozen


def test_named_layers_stay_in_float(tmp_path):
    net = plain()
    model = kd.quantize_aware(net, X, keep_float=["silu", "wide"])
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(model, path, quantization="int8", parity_data=X)
    assert report.parity.clear_argmax_agreement >= 0.97
    kinds = [quantized for op, quantized in operators(path) if op == "CONV_2D"]
    assert kinds.count(False) == 2 and kinds.count(True) == 3


@pytest.mark.parametrize("make", [channels, branches, blocks])
def test_a_gated_block_stays_in_float(make, tmp_path):
    net = make()
    block = [x.name for x in net.layers if isinstance(x, DynamicLayer)][-1]
    model = kd.quantize_aware(net, X, keep_float=[block])
    tables = [kd.count_macs(each) for each in (model, net)]
    assert tables[0].total == tables[1].total
    assert tables[0].gateable == tables[1].gateable
    path = tmp_path / "net.tflite"
    report = kd.export_tflite(model, path, quantization="int8", parity_data=X)
    assert report.parity.clear_argmax_agreement >= 0.97
    assert report.parity.decision_agreement >= 0.97
    kinds = {quantized for op, quantized in operators(path) if op == "CONV_2D"}
    assert kinds == {True, False}
    bare = kd.strip_quantization(model)
    np.testing.assert_allclose(probabilities(bare), probabilities(net), atol=1e-5)


def test_it_is_fine_tuned_and_gone_on_with(tmp_path):
    net = mobile()
    ends = []
    for epochs in ([2], [1, 2]):
        keras.utils.set_random_seed(0)
        model = kd.quantize_aware(net, X)
        path = tmp_path / f"{len(epochs)}.npz"
        for count in epochs:
            options = {"epochs": 2, "batch_size": 16, "verbose": 0, "checkpoint": path}
            if count == 1:
                stop = keras.callbacks.LambdaCallback(on_epoch_end=_stop)
                with pytest.raises(KeyboardInterrupt):
                    kd.fine_tune(model, X, Y, callbacks=[stop], **options)
                model = kd.quantize_aware(net, X)
            else:
                kd.fine_tune(model, X, Y, **options)
        ends.append(probabilities(model))
    np.testing.assert_allclose(*ends, atol=1e-5)


def _stop(epoch, logs):
    raise KeyboardInterrupt


def unsupported():
    image = keras.Input((8, 8, 3))
    x = layers.Reshape((64, 3))(image)
    x = layers.LSTM(4, name="lstm")(x)
    return keras.Model(image, layers.Dense(CLASSES)(x))


def kernelless():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.GlobalAveragePooling2D()(image))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: kd.quantize_aware(mobile()), {}, "not be quantize-aware already"),
        (unsupported, {}, r"named in `keep_float`. Received: 'lstm', a LSTM"),
        (mobile, {"keep_float": "top"}, "must be a list of names. Received: .*'top'"),
        (kernelless, {}, "must hold layers with kernels"),
        (mobile, {"representative_data": X[:0]}, "`representative_data`"),
        (mobile, {"keep_float": ["none"]}, r"`keep_float` must hold.*\['none'\]"),
        (mobile, {"representative_data": np.full((2, 16, 16, 3), np.nan)}, "finite"),
        (mobile, {"representative_data": np.ones((2, 8, 8, 3))}, "representative_data"),
        (mobile, {"freeze_norms": "yes"}, "`freeze_norms` must be"),
        (lambda: "net", {}, "`model` must be a functional"),
        (inclusive, {}, "must be a sliced net .* of the family incl"),
        (sliced, {"keep_float": ["conv1"]}, r"`keep_float` must be empty.*conv1"),
    ],
)
def test_bad_arguments(make, options, message):
    with pytest.raises(ValueError, match=message):
        kd.quantize_aware(make(), **options)


def test_mixed_precision_is_refused():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        net = mobile()
    finally:
        keras.config.set_dtype_policy(policy)
    with pytest.raises(ValueError, match="must compute in float32.*mixed_bfloat16"):
        kd.quantize_aware(net)


def test_exports_that_do_not_suit_it(tmp_path):
    model = kd.quantize_aware(mobile())
    for other in ("float32", "float16", "dynamic", "auto"):
        with pytest.raises(
            ValueError, match="`quantization` must be 'int8' for a quan"
        ):
            kd.export_tflite(model, tmp_path / "x.tflite", quantization=other)
    with pytest.raises(ValueError, match="^`model` must have been trained, or made "):
        kd.export_tflite(model, tmp_path / "x.tflite", quantization="int8")
    with pytest.raises(ValueError, match="there `quantize_aware` takes the names"):
        kd.export_tflite(
            model, tmp_path / "x.tflite", quantization="int8", keep_float=["dense"]
        )
    with pytest.raises(ValueError, match="must be in float32.*strip_quantization"):
        kd.layer_errors(model, X)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="`model` must be one that `quantize_aware`"):
        kd.strip_quantization(mobile())


@pytest.mark.parametrize("make", [channels, blocks])
def test_what_no_picture_opens_has_its_range_all_the_same(make, tmp_path):
    """Gates that are shut on all representative data, and open later."""
    net = make()
    with kd.force_open_rate(net, 1.0):
        wanted = probabilities(net)
    gates = [x for x in net._flatten_layers() if isinstance(x, kd.BinaryGate)]
    assert gates
    for gate in gates:
        gate.expand.bias.assign(np.full(gate.units, -100.0))
    with pytest.warns(UserWarning, match="none of the 48 .* these open: .*channel"):
        model = kd.quantize_aware(net, X)
    with kd.force_open_rate(model, 1.0):
        off = np.abs(probabilities(model) - wanted).max(-1) / np.ptp(wanted)
        assert np.quantile(off, 0.8) < 0.1
        path = tmp_path / "net.tflite"
        report = kd.export_tflite(model, path, quantization="int8", parity_data=X)
    assert report.parity.clear_argmax_agreement >= 0.97
