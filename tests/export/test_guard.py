"""The fastest file within a tolerance: which, and why; layers that lose most by name."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd
from keras_dyngate.flatfile import flatbuffer
from tests.quantization.nets import CLASSES, X, exits, lively, mobile

pytestmark = pytest.mark.heavy
layers = keras.layers


def labelled(model):
    """The pictures, and what the net says of them."""
    return X, model.predict(X, verbose=0).argmax(-1)


def torn():
    """A net of which one layer puts out numbers of very different size."""
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="before")(x)
    x = layers.Conv2D(8, 3, name="wild")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="tame")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="after")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = lively(keras.Model(image, layers.Dense(CLASSES, name="top")(x)))
    wild, tame = model.get_layer("wild"), model.get_layer("tame")
    kernel = keras.ops.convert_to_numpy(wild.kernel).copy()
    kernel[..., 0] *= 3000.0  # eight bits for this channel leave none for the others
    wild.kernel.assign(kernel)
    kernel = keras.ops.convert_to_numpy(tame.kernel).copy()
    kernel[:, :, 0] /= 3000.0
    tame.kernel.assign(kernel)
    return model


def test_the_worst_layer_is_named():
    model = torn()
    found = kd.layer_errors(model, X)
    assert {found[0].name, found[1].name} == {"wild", "tame"}
    assert found[1].error > 3 * found[2].error
    assert {row.name for row in found} == {"before", "wild", "tame", "after", "top"}
    assert f"{found[0].name}: error" in str(found[0])
    assert max(row.error for row in kd.layer_errors(mobile(), X)) < found[0].error
    with pytest.raises(ValueError, match="`samples` must be"):
        kd.layer_errors(model, X, samples=0)
    with pytest.raises(ValueError, match="`images`"):
        kd.layer_errors(model, X[:, :8])


@pytest.mark.filterwarnings("ignore:The file agrees with Keras")
def test_named_layers_stay_in_float(tmp_path):
    model, path = torn(), tmp_path / "net.tflite"
    options = {"quantization": "int8", "representative_data": X, "parity_data": X}
    rounded = kd.export_tflite(model, path, **options)
    mixed = kd.export_tflite(model, path, keep_float=["wild", "tame"], **options)
    assert mixed.parity.max_difference < 0.3 * rounded.parity.max_difference
    file = flatbuffer.read(path.read_bytes())
    kinds = [
        (flatbuffer.op_name(file, op), graph.tensors[op.inputs[0]].type == 9)
        for _, graph, op in flatbuffer.walk(file)
    ]
    convs = [quantized for name, quantized in kinds if name == "CONV_2D"]
    assert convs == [True, False, False, True]
    between = kinds[kinds.index(("CONV_2D", False)) + 1]
    assert between == ("CONV_2D", False)  # nothing is rounded between the two
    for names in ("wild", ["none"], ["global_average_pooling2d"]):
        with pytest.raises(ValueError, match="`keep_float` must"):
            kd.export_tflite(model, path, keep_float=names, **options)
    with pytest.raises(ValueError, match="`keep_float` goes with"):
        kd.export_tflite(model, path, keep_float=["wild"])


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_the_fastest_within_the_tolerance_is_written(tolerance, tmp_path):
    model, path = torn(), tmp_path / "net.tflite"
    x, y = labelled(model)
    report = kd.export_tflite(
        model,
        path,
        quantization="auto",
        tolerance=tolerance,
        representative_data=x,
        guard_data=(x, y),
        labels=list("abcd"),
    )
    assert [row.ms for row in report.tried] == sorted(row.ms for row in report.tried)
    kept = [row for row in report.tried if row.kept]
    assert report.quantization == kept[0].name.partition(",")[0]
    assert {"float32", "float16", "dynamic", "int8"} <= {r.name for r in report.tried}
    exact = next(row for row in report.tried if row.name == "float32")
    assert exact.accuracy == exact.agreement == 1.0 and exact.kept
    for row in report.tried:
        assert row.kept is (row.accuracy >= 1 - tolerance)
        assert row.name in str(report)
    file = kd.LiteRTModel(path)
    assert file.metadata["labels"] == list("abcd") and report.path == str(path)
    assert file.evaluate(x, y)["accuracy"] >= 1 - tolerance
    mixed = [r for r in report.tried if r.name.startswith("int8, float32: wild, tame")]
    rounded = next(row for row in report.tried if row.name == "int8")
    if tolerance == 0 and not rounded.kept:
        assert mixed and mixed[0].agreement >= rounded.agreement
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.tflite"]


def test_exits_are_judged_too_and_labels_are_not_needed(tmp_path):
    report = kd.export_tflite(
        exits(),
        tmp_path / "net.tflite",
        quantization="auto",
        tolerance=0.1,
        representative_data=X,
    )
    assert all(row.accuracy is None for row in report.tried)
    assert all(0 <= row.exit_agreement <= 1 for row in report.tried)
    best = next(row for row in report.tried if row.kept)
    assert best.agreement >= 0.9


def test_bad_arguments(tmp_path):
    options = {"quantization": "auto", "representative_data": X}
    path = tmp_path / "net.tflite"
    with pytest.raises(ValueError, match="`tolerance` must be"):
        kd.export_tflite(mobile(), path, tolerance=2, **options)
    with pytest.raises(ValueError, match="must have a label for each"):
        kd.export_tflite(mobile(), path, guard_data=(X, np.zeros(3, int)), **options)
    with pytest.raises(ValueError, match="'auto'` needs `representative_data`"):
        kd.export_tflite(mobile(), path, quantization="auto")
    with pytest.raises(ValueError, match="'auto' finds such layers by itself"):
        kd.export_tflite(mobile(), path, keep_float=["top"], **options)
    assert not list(tmp_path.iterdir())
