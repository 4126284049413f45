"""What is said of a file's agreement with Keras."""

import warnings

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from keras_dyngate.export.parity import Parity, check_parity, warn_of
from tests.export.nets import SHAPE, conv_net, images, small_net, tinted, with_exits

layers = keras.layers
X = tinted(12)


def one_output(seed=0):
    """A sigmoid that answers 1 for half of `X`."""
    keras.utils.set_random_seed(seed)
    image = x = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(x))
    head = layers.Dense(1, activation="sigmoid")
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    probabilities = model.predict(X, verbose=0)
    head.bias.assign(-np.median(np.log(probabilities / (1 - probabilities)), 0))
    return model


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "binary.tflite"
    model = one_output()
    return model, path, kd.export_tflite(model, path)


def test_every_export_is_compared(binary):
    _, _, report = binary
    assert report.parity.samples == 16 and report.parity.max_difference < 1e-5
    assert report.parity.decision_agreement is None
    assert report.parity.exit_agreement is None
    assert "labels equal 100.0%" in str(report)
    assert "decisions" not in str(report) and "exits" not in str(report)


def test_labels_of_one_output_are_told_apart(binary):
    model, path, _ = binary
    litert = kd.LiteRTModel(path)
    labels = [int(litert.run("classify", image=image)["label"][0]) for image in X]
    assert set(labels) == {0, 1}
    assert labels == (model.predict(X, verbose=0)[:, 0] > 0.5).astype(int).tolist()
    assert check_parity(model, path, X).argmax_agreement == 1.0
    head = model.layers[-1]
    kernel, bias = head.get_weights()
    try:
        head.set_weights([-kernel, -bias])
        found = check_parity(model, path, X)
    finally:
        head.set_weights([kernel, bias])
    assert found.argmax_agreement == 0.0 and found.clear_argmax_agreement < 0.5
    with pytest.warns(UserWarning, match="0.0% of the labels.*of 12 images of mine"):
        warn_of(found, "images of mine")


def test_no_comparison_if_unwanted(tmp_path):
    report = kd.export_tflite(conv_net(), tmp_path / "a.tflite", parity_data=False)
    assert report.parity is None and "against Keras" not in str(report)


def test_an_8_bit_file_that_lost_its_answers_is_said(tmp_path):
    """One channel is so large that nothing of the others is left in eight bits."""
    keras.utils.set_random_seed(0)
    image = x = keras.Input(SHAPE)
    scale = np.ones(8, "float32")
    scale[0] = 1e3
    conv = layers.Conv2D(8, 3, activation="relu")
    x = layers.GlobalAveragePooling2D()(conv(layers.Rescaling(1 / 255)(x)))
    head = layers.Dense(5)
    model = keras.Model(image, head(x))
    conv.set_weights([np.abs(w) * scale for w in conv.get_weights()])
    kernel = np.random.default_rng(0).normal(size=(8, 5))
    kernel[0] = 0.0
    head.kernel.assign(kernel)
    middle = model.predict(X, verbose=0).mean(0)
    head.bias.assign(-middle)
    with pytest.warns(UserWarning, match="of the labels.*12 images of `represent"):
        report = kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            quantization="int8",
            representative_data=X,
        )
    assert report.parity.argmax_agreement < 0.98
    assert (tmp_path / "a.tflite").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kd.export_tflite(model, tmp_path / "a.tflite", parity_data=X)


def test_exits_have_an_agreement_of_their_own(tmp_path):
    model = with_exits(small_net(layers=True), ["block1", "block2"], X)
    path = tmp_path / "a.tflite"
    report = kd.export_tflite(model, path, parity_data=X)
    assert report.parity.exit_agreement == 1.0
    assert report.parity.decision_agreement == 1.0
    assert "decisions equal 100.00%, exits equal 100.0%" in str(report)
    exits = model.predict(X)["exit"]
    model.thresholds = [np.inf, -np.inf]  # everybody leaves at the second
    found = check_parity(model, path, X)
    assert found.exit_agreement == (exits == 1).mean() < 0.5
    with pytest.warns(UserWarning, match="of the exits"):
        warn_of(found, "images")


def test_what_keras_is_hardly_surer_of_is_no_reason_to_warn(tmp_path):
    """The difference is said in the report all the same."""
    image = keras.Input((2,))
    head = layers.Dense(3, use_bias=False)
    model = keras.Model(image, head(image))
    head.set_weights([np.array([[1.0, 0.999, 0.0], [0.0, 0.0, 1.0]], "float32")])
    path = tmp_path / "a.tflite"
    kd.export_tflite(model, path, parity_data=False)
    x = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    for second, clear in ((1.001, 1.0), (1.5, 0.5)):
        head.set_weights([np.array([[1.0, second, 0.0], [0.0, 0.0, 1.0]], "float32")])
        found = check_parity(model, path, x)
        assert found.argmax_agreement == 0.5
        assert found.clear_argmax_agreement == clear


def test_the_clock_ends_a_comparison_that_nobody_asked_for(binary):
    model, path, _ = binary
    assert check_parity(model, path, images(9), seconds=0).samples == 4
    assert check_parity(model, path, images(9)).samples == 9


@pytest.mark.parametrize(
    ("labels", "clear", "speaks"), [(0.5, 0.99, False), (0.97, 0.97, True)]
)
def test_the_limit_is_98_percent(labels, clear, speaks):
    parity = Parity(100, 0.1, labels, clear_argmax_agreement=clear)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of(parity, "images")
    assert bool(found) == speaks
