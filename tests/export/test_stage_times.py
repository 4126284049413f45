"""Times of a net's parts as files: not how long they are, but what they are of."""

import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import randomize

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

from keras_dyngate.export.stage_times import exit_times, stage_times
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime.litert_model import METADATA_NAME
from tests.export import nets

layers = keras.layers


def dear_early():
    """Few MACs and many exponentials, then many MACs on few pixels."""
    x = image = keras.Input((64, 64, 3), name="image")
    x = layers.Conv2D(48, 1, name="early")(x)
    for _ in range(3):
        x = layers.Activation("tanh")(x)
    x = layers.MaxPooling2D(8, name="small")(x)
    for name in ("late", "later"):
        x = layers.Conv2D(128, 1, activation="relu", name=name)(x)
    x = layers.Dense(5, name="head")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(image, x, name="dear"))


@pytest.mark.parametrize("quantization", [None, "float32", "float16", "dynamic"])
def test_early_layers_without_macs_take_time(quantization):
    model = dear_early()
    (point,) = (p for p in kd.cut_points(model) if p.layer == "small")
    found = stage_times(model, ["small", "late"], quantization)
    assert len(found) == 3 and min(found) > 0
    assert point.share < 0.4
    assert found[0] / sum(found) > 0.6


def test_int8():
    model, x = dear_early(), nets.images(3, (64, 64, 3))
    for data in (None, x):
        found = stage_times(model, ["small"], "int8", data)
        assert len(found) == 2 and min(found) > 0


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_blocks_that_decide(quantization):
    model = nets.small_net(filters=16)
    found = stage_times(model, ["block1"], quantization, nets.images(4))
    assert len(found) == 2 and min(found) > 0


def test_the_net_stays_as_it_is():
    model = nets.conv_net()
    x, before = nets.images(4), [np.array(w) for w in model.get_weights()]
    said = model.predict(x, verbose=0)
    stage_times(model, ["a", "b"], "dynamic", x)
    np.testing.assert_array_equal(model.predict(x, verbose=0), said)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_refused():
    model = nets.conv_net()
    with pytest.raises(ValueError, match=r"`quantization` must be one of.*'int4'"):
        stage_times(model, ["a"], "int4")
    with pytest.raises(ValueError, match="`after` must.*has no 'z'"):
        stage_times(model, ["z"])
    with pytest.raises(ValueError, match=r"`representative_data` must hold images"):
        stage_times(model, ["a"], "int8", nets.images(2, (5, 5, 3)))


def note(path, exits):
    """Write the places of exits into a file's metadata."""
    file = flatbuffer.read(path.read_bytes())
    metadata = {**kd.LiteRTModel(path).metadata, "exits": exits}
    flatbuffer.set_metadata(file, METADATA_NAME, json.dumps(metadata).encode())
    path.write_bytes(flatbuffer.write(file))


@pytest.fixture(scope="module")
def exits_file(tmp_path_factory):
    """A net whose exits are far apart in time, as a file that tells its exits."""
    x = image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=4, activation="relu", name="a")(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="b")(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="c")(x)
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    trunk = randomize(keras.Model(image, x, name="steep"))
    model = kd.add_decision_gates(trunk, after=["a"])
    model.thresholds = [0.0]
    path = tmp_path_factory.mktemp("files") / "exits.tflite"
    kd.export_tflite(model, path, parity_data=False)
    note(path, [{"name": "gate_1", "after": "a"}, {"name": "head", "after": None}])
    return trunk, path


def test_the_ways_to_exits_of_a_file(exits_file):
    trunk, path = exits_file
    for data in (None, nets.images(2, (32, 32, 3))):
        times = exit_times(path, data)
        assert list(times) == ["a", None] and 0 < times["a"] < times[None]
    points = kd.cut_points(trunk, measure=path)
    found = {point.layer: point for point in points}
    assert found["b"].ms is found["b"].time_share is None
    assert 0 < found["a"].time_share < 0.5 and found["a"].ms > 0
    assert kd.cut_points(trunk) == [
        kd.CutPoint(p.layer, p.macs, p.shape, p.share) for p in points
    ]


def test_a_file_of_another_net(exits_file, tmp_path):
    _, path = exits_file
    trunk = nets.conv_net()
    message = r"`measure` must be a file of this model.*exits after \['x'\]"
    other = tmp_path / "other.tflite"
    other.write_bytes(path.read_bytes())
    note(other, [{"name": "gate_1", "after": "x"}, {"name": "head", "after": None}])
    with pytest.raises(ValueError, match=message):
        kd.cut_points(trunk, measure=other)
    kd.export_tflite(trunk, other, parity_data=False)
    with pytest.raises(
        ValueError, match="`measure` must be a file of a net with early"
    ):
        kd.cut_points(trunk, measure=str(other))
    with pytest.raises(FileNotFoundError):
        kd.cut_points(trunk, measure=tmp_path / "none.tflite")
