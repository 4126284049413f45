"""Plain mistakes get one sentence before any work; usual forms are taken."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import tensorflow as tf

import keras_dyngate as kd
from keras_dyngate._images import take_images
from keras_dyngate.export import exporter
from keras_dyngate.export.arguments import calibration_images, parity_images
from tests.export.nets import SHAPE, conv_net, images

layers = keras.layers
X, Y = images(6), np.arange(6)


def of_batches():
    for image in X:
        yield [image[None]]


def of_dicts():
    for image in X:
        yield {"image": image[None]}


@pytest.mark.parametrize(
    "data",
    [
        X,
        tf.constant(X),
        (X, Y),
        tf.data.Dataset.from_tensor_slices(X),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
        of_batches,
        of_dicts,
        lambda: iter(X),
        list(X),
    ],
)
def test_forms_of_representative_data(data):
    found = calibration_images(data, SHAPE, len(X))
    np.testing.assert_array_equal(found, X)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "needs `representative_data`.*None"),
        (X[0], r"several images.*`image\[None\]`.*\(12, 12, 3\)"),
        ("photos", "an array, a dataset, or a function.*Received: a str"),
        (3, "an array, a dataset, or a function.*Received: a int"),
        ([], r"must hold images of shape \(12, 12, 3\)"),
        (X[..., 0], r"`image\[None\]`|must hold images"),
        ([X[0], X[0, :8]], "images of shapes"),
        (lambda: [{"a": X[:1], "b": X[:1]}], r"one input.*\['a', 'b'\]"),
        (np.full((2, *SHAPE), "x"), "must hold images.*<U1"),
    ],
)
def test_other_representative_data(data, message):
    with pytest.raises(ValueError, match=message):
        calibration_images(data, SHAPE, 5)


def test_images_from_0_to_1_are_noticed(tmp_path):
    with pytest.warns(UserWarning, match="`representative_data` should hold.*to 1"):
        kd.export_tflite(
            conv_net(),
            tmp_path / "a.tflite",
            quantization="int8",
            representative_data=X / 255,
            parity_data=False,
        )


def test_images_to_compare_on():
    found, words = parity_images(None, None, SHAPE, "float32")
    assert found.shape == (16, *SHAPE) and words == "random pictures"
    assert found.min() == 0 and found.max() == 255 and (found % 1 == 0).all()
    again, _ = parity_images(None, None, SHAPE, "float32")
    np.testing.assert_array_equal(found, again)
    found, words = parity_images(None, None, (20, 3), "float32")
    assert found.shape == (16, 20, 3) and words == "random inputs"
    found, words = parity_images(None, X, SHAPE, "uint8")
    np.testing.assert_array_equal(found, X)
    assert parity_images(False, X, SHAPE, "float32") is None
    found, _ = parity_images((X, Y), None, SHAPE, "float32")
    np.testing.assert_array_equal(found, take_images("x", X, SHAPE))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("labels.txt", "list of 7 class names.*file.*'labels.txt'"),
        ({k: str(k) for k in range(7)}, "in the order of their.*a dict"),
        (["a"] * 6, "name the model's 7 classes.*6 names"),
        (list(range(7)), r"name the model's 7 classes.*\[0, 1, 2\]"),
    ],
)
def test_labels(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        kd.export_tflite(conv_net(), tmp_path / "a.tflite", labels=labels)
    assert not list(tmp_path.iterdir())


def test_float32_is_a_quantization(tmp_path):
    path = tmp_path / "a.tflite"
    named = kd.export_tflite(conv_net(), path, quantization="float32")
    content = path.read_bytes()
    default = kd.export_tflite(conv_net(), path)
    assert named.quantization == default.quantization == "float32"
    assert len(content) == len(path.read_bytes()) and "float32" in str(named)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def wrong(kind):
    image, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    flat = layers.Flatten()
    score = layers.Dense(2)(flat(image))
    return {
        "subclassed": Subclassed,
        "not built": lambda: keras.Sequential([layers.Flatten()]),
        "two inputs": lambda: keras.Model([image, other], flat(image + other)),
        "two outputs": lambda: keras.Model(image, [score, score + 1]),
        "by name": lambda: keras.Model(image, {"a": score}),
        "series": lambda: keras.Model(
            series := keras.Input((8, 3)), layers.Dense(2)(series)
        ),
        "open length": lambda: keras.Model(
            series := keras.Input((None, 3)),
            layers.GlobalAveragePooling1D()(series),
        ),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("subclassed", "`model` must be functional.*subclassed.*a Subclassed$"),
        ("not built", "`model` must be built.*keras.Input.*a Sequential$"),
        ("two inputs", "`model` must have one input.*with 2 inputs$"),
        ("two outputs", "`model` must have one output.*with 2 outputs$"),
        ("by name", r"`model` must have one output, a tensor.*\['a'\] by name$"),
        ("series", r"scores \[batch, classes\].*output_shape=\(None, 8, 2\)$"),
        ("open length", r"static shapes.*\(None, None, 3\)$"),
    ],
)
def test_models_that_are_none_of_ours(tmp_path, monkeypatch, kind, message):
    monkeypatch.setattr(exporter, "convert", None)  # nothing is begun
    with pytest.raises(ValueError, match=message) as error:
        kd.export_tflite(wrong(kind), tmp_path / "a.tflite")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(20, 3), (16, 16, 1), (9,)])
def test_other_inputs_than_pictures_in_colour(tmp_path, shape):
    """A series, a grey picture and a vector."""
    keras.utils.set_random_seed(0)
    image = x = keras.Input(shape)
    if len(shape) > 1:
        conv = {3: layers.Conv2D, 2: layers.Conv1D}[len(shape)]
        x = conv(8, 3, activation="relu")(x)
    x = layers.Dense(4, activation="softmax")(layers.Flatten()(x))
    model = keras.Model([image], [x])
    report = kd.export_tflite(model, tmp_path / "a.tflite")
    assert report.parity.max_difference < 1e-5 and report.parity.samples == 16
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    assert litert.signatures["classify"].inputs["image"].shape == (1, *shape)
    grey = "grey, 0 to 255" in litert.metadata["input"]
    assert grey == (len(shape) == 3)
    assert abs(litert.run("classify", image=np.ones(shape, "f"))["logits"]).sum() > 0


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.LSTM(4),
        keras.layers.Bidirectional(keras.layers.GRU(4)),
        keras.layers.RNN(keras.layers.SimpleRNNCell(4)),
    ],
)
def test_recurrent_layers_in_int8(tmp_path, layer):
    """TensorFlow's quantizer would end the process."""
    x = keras.Input((5, 3))
    model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
    with pytest.raises(ValueError, match=f"unroll=True.*for .*{layer.name[:4]}"):
        kd.export_tflite(
            model,
            tmp_path / "a.tflite",
            quantization="int8",
            representative_data=np.ones((4, 5, 3)),
        )
    assert not list(tmp_path.iterdir())


def test_bytes_are_compared_on_whole_numbers():
    found, _ = parity_images(None, X + 0.4, SHAPE, "uint8")
    np.testing.assert_array_equal(found, np.clip(np.rint(X + 0.4), 0, 255))
    found, _ = parity_images(X - 0.4, None, SHAPE, "uint8")
    np.testing.assert_array_equal(found, np.clip(np.rint(X - 0.4), 0, 255))


def test_data_to_compare_on_are_finite():
    with pytest.raises(ValueError, match="`parity_data` must"):
        parity_images(np.full((2, *SHAPE), np.nan), None, SHAPE, "float32")


def test_some_of_an_array_come_from_everywhere_in_it():
    x = np.arange(10.0).reshape(10, 1, 1, 1)
    shape = (1, 1, 1)
    assert take_images("x", x, shape, 3).ravel().tolist() == [0.0, 3.0, 9.0]
    assert take_images("x", x, shape, 7).ravel().tolist()[-1] == 9.0
    assert take_images("x", x, shape, 10).ravel().tolist() == list(range(10))
    assert take_images("x", x, shape, 99).ravel().tolist() == list(range(10))
    assert take_images("x", iter(x), shape, 3).ravel().tolist() == [0.0, 1.0, 2.0]
