"""An exported segmentation net labels every pixel, and skips what it need not run."""

from collections import Counter

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from scipy.ndimage import gaussian_filter  # noqa: E402

import keras_dyngate as kd  # noqa: E402
from keras_dyngate._walk import dynamic_layers  # noqa: E402
from keras_dyngate.export import filled_constants  # noqa: E402
from keras_dyngate.export.float_kernels import float_kernels  # noqa: E402
from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from keras_dyngate.models.pspnet import (  # noqa: E402
    apply_classifier,
    apply_pyramid,
    upsample,
)
from tests.export.nets import enliven, only_builtins  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

SHAPE, CLASSES = (21, 27, 3), 5
TYPES = {
    value: name
    for name, value in vars(flatbuffer.schema.TensorType).items()
    if not name.startswith("_")
}


def pictures(count, seed=0):
    """Smooth ones: neighbouring pixels look alike."""
    x = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    x = gaussian_filter(x, (0, 3, 3, 0))
    return np.clip(128 + 60 * x / x.std(), 0, 255).round().astype("float32")


def small_net(layers=False, seed=0):
    """A stem of stride 2, a dilated bottleneck, a dilated basic block, the head."""
    keras.utils.set_random_seed(seed)
    image = x = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 64, -2.0)(x)
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", name="stem")(x)
    for index, (cls, filters) in enumerate(
        ((kd.GatedBottleneckBlock, 32), (kd.GatedBasicBlock, 128)), 1
    ):
        x = cls(
            filters,
            channel_gate=kd.BinaryGate(2 * len(cls.masked)),
            layer_gate=kd.BinaryGate(1) if layers else None,
            dilation_rate=2 * index,
            name=f"block{index}",
        )(x)
    x = apply_classifier(apply_pyramid(x, (1, 2, 3)), 32, CLASSES, "head")
    model = keras.Model(image, upsample(x, SHAPE[:2], "logits", "float32"))
    enliven(model, seed)
    head = model.get_layer("head_classifier")  # so that every class has its pixels
    scores = keras.Model(model.input, head.output)(pictures(8))
    head.bias.assign(-keras.ops.mean(scores, (0, 1, 2)))
    return model


def dilations(file):
    """How many convolutions of a file have which dilation."""
    return Counter(
        (op.builtinOptions.dilationHFactor, op.builtinOptions.dilationWFactor)
        for _, _, op in flatbuffer.walk(file)
        if flatbuffer.op_name(file, op) == "CONV_2D"
    )


def input_types(file, *names):
    """The types of what the ops of these names read."""
    return {
        (flatbuffer.op_name(file, op), TYPES[graph.tensors[op.inputs[0]].type])
        for _, graph, op in flatbuffer.walk(file)
        if flatbuffer.op_name(file, op) in names
    }


def test_file_agrees_with_keras(tmp_path):
    model = small_net(layers=True)
    x = pictures(6)
    path = tmp_path / "net.tflite"
    names = [f"class {i}" for i in range(CLASSES)]
    report = kd.export_tflite(model, path, parity_data=x, labels=names)
    assert report.parity.max_difference < 1e-5
    assert report.parity.argmax_agreement > 0.999
    assert report.parity.decision_agreement == 1.0
    assert report.signatures["segment"] == ("executed_macs", "labels")
    text = str(report)
    assert "signatures: segment, explain" in text and "labels of pixels equal" in text

    decisions = kd.decide(model, x)
    flat = np.concatenate([d.ravel() for d in decisions.values()])
    assert 0.05 < flat.mean() < 0.95, "the test must see open and shut gates"
    macs = kd.count_macs(model).of(decisions, report.group_sizes)
    logits = model.predict(x, verbose=0)
    assert len(np.unique(logits.argmax(-1))) == CLASSES
    litert = kd.LiteRTModel(path)
    assert litert.labels == names and litert.metadata["classes"] == CLASSES
    for index, image in enumerate(x):
        found = litert.run("segment", image=image)
        assert set(found) == {"labels", "executed_macs"}
        assert found["labels"].dtype == np.uint8
        assert found["labels"].shape == (1, *SHAPE[:2])
        assert abs(found["executed_macs"][0] - macs[index] / 1000) <= 1
        explained = litert.run("explain", image=image)
        assert set(explained) == {*found, "logits", *decisions}
        np.testing.assert_array_equal(explained["labels"], found["labels"])
        np.testing.assert_array_equal(explained["logits"].argmax(-1), found["labels"])
        np.testing.assert_allclose(
            explained["logits"][0], logits[index], atol=1e-5 * np.abs(logits).max()
        )

    content = path.read_bytes()
    assert only_builtins(content)
    file = flatbuffer.read(content)
    counts = dilations(file)
    assert counts[2, 2] and counts[4, 4]
    assert set(counts) == {(1, 1), (2, 2), (4, 4)}
    assert "SPACE_TO_BATCH_ND" not in flatbuffer.op_counts(content)
    weights = 4 * sum(np.prod(w.shape) for w in model.weights if "seed" not in w.path)
    assert report.bytes < 1.2 * weights, "the weights are stored once"
    held = [bytes(b.data) for b in file.buffers if b.data is not None]
    large = [data for data in held if len(data) > 99]
    assert len(large) == len(set(large))


def test_skipped_branches_are_not_executed(tmp_path):
    """Weights that must not be used are NaN: every pixel stays what it was."""
    model = small_net()
    x = pictures(1)
    with kd.force_open_rate(model, 0.5):
        kd.export_tflite(model, tmp_path / "clean.tflite", parity_data=False)
        for block in dynamic_layers(model):
            parts = np.split(block.channel_gate.forced, block.masks)
            assert {is_open.mean() for is_open in parts} == {0.5}
            for conv, is_open in zip(block.convs[:-1], parts, strict=True):
                kernel = keras.ops.convert_to_numpy(conv.kernel).copy()
                kernel[..., np.repeat(~is_open, block.filters // 2)] = np.nan
                conv.kernel.assign(kernel)
        kd.export_tflite(model, tmp_path / "nan.tflite", parity_data=False)
        assert np.isnan(model.predict(x, verbose=0)).any(), "Keras masks: NaN * 0"
    clean, poisoned = (
        kd.LiteRTModel(tmp_path / f"{name}.tflite").run("explain", image=x[0])
        for name in ("clean", "nan")
    )
    assert np.isfinite(clean["logits"]).all()
    np.testing.assert_array_equal(poisoned["logits"], clean["logits"])
    np.testing.assert_array_equal(poisoned["labels"], clean["labels"])


@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8"])
def test_quantized_files_stay_close(tmp_path, quantization):
    model = small_net()
    x = pictures(24)
    path = tmp_path / "a.tflite"
    with kd.force_open_rate(model, 0.5):
        report = kd.export_tflite(
            model,
            path,
            quantization=quantization,
            representative_data=x[:16],
            parity_data=x[16:],
            input_type="uint8" if quantization == "int8" else "float32",
        )
    difference, agreement = {
        "float16": (0.01, 0.99),
        "dynamic": (0.1, 0.93),
        "int8": (0.15, 0.9),
    }[quantization]
    assert report.parity.decision_agreement == 1.0
    assert report.parity.max_difference < difference
    assert report.parity.argmax_agreement > agreement
    content = path.read_bytes()
    assert only_builtins(content)
    litert = kd.LiteRTModel(path)
    image = litert.signatures["segment"].inputs["image"]
    if quantization == "int8":
        assert image.dtype == np.uint8 and not float_kernels(flatbuffer.read(content))
        file = flatbuffer.read(content)
        names = ("RESIZE_BILINEAR", "AVERAGE_POOL_2D", "ARG_MAX")
        assert input_types(file, *names) == {(name, "INT8") for name in names}
        assert set(dilations(file)) == {(1, 1), (2, 2), (4, 4)}


def test_large_zeros_are_not_stored(tmp_path, monkeypatch):
    """A file that makes them says what the file says that holds them."""
    model, x = small_net(), pictures(8)
    options = {"quantization": "int8", "representative_data": x}
    found = {}
    for limit in (1 << 10, 1 << 30):
        monkeypatch.setattr(filled_constants, "MIN_BYTES", limit)
        path = tmp_path / f"{limit}.tflite"
        with kd.force_open_rate(model, 0.5):
            kd.export_tflite(model, path, **options)
        content = path.read_bytes()
        assert ("FILL" in flatbuffer.op_counts(content)) is (limit == 1 << 10)
        buffers = flatbuffer.read(content).buffers
        large = [b.data for b in buffers if b.data is not None and len(b.data) > 5000]
        uniform = sum(len(data) for data in large if (data == data[0]).all())
        assert (uniform > 0) is (limit == 1 << 30)
        litert = kd.LiteRTModel(path)
        found[limit] = [litert.run("explain", image=image)["logits"] for image in x]
    np.testing.assert_array_equal(*found.values())


def test_evaluation_counts_pixels(tmp_path):
    """Against NumPy, over single and batched samples; 255 does not count."""
    model = small_net()
    x = pictures(5)
    kd.export_tflite(model, tmp_path / "a.tflite")
    litert = kd.LiteRTModel(tmp_path / "a.tflite")
    predicted = np.concatenate([litert.run("segment", image=i)["labels"] for i in x])
    maps = predicted.astype("int64")
    rng = np.random.default_rng(0)
    wrong = rng.uniform(size=maps.shape) < 0.3
    maps[wrong] = rng.integers(0, CLASSES - 1, wrong.sum())
    maps[:, :4] = 255
    counted = maps != 255
    confusion = np.zeros((CLASSES, CLASSES))
    np.add.at(confusion, (maps[counted], predicted[counted]), 1)
    right = np.diag(confusion)
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    pairs = list(zip(x, maps, strict=True))
    batches = [(x[:3], maps[:3, ..., None]), (x[3:], maps[3:, ..., None])]
    for dataset in ((x, maps), pairs, batches):
        found = litert.evaluate(dataset, ignore_class=255)
        assert found["accuracy"] == right.sum() / confusion.sum()
        np.testing.assert_allclose(found["class_iou"], iou, rtol=1e-12)
        assert found["mean_iou"] == pytest.approx(iou.mean(), rel=1e-12)
        assert (found["samples"], found["pixels"]) == (5, counted.sum())
        assert found["median_ms"] > 0 and "labels" not in found
    metric = keras.metrics.MeanIoU(CLASSES, ignore_class=255)
    metric.update_state(maps, predicted)
    assert found["mean_iou"] == pytest.approx(float(metric.result()), rel=1e-6)
    macs = kd.count_macs(model)
    executed = macs.of(kd.decide(model, x), 16).mean()
    assert found["mean_executed_macs"] == pytest.approx(executed, abs=1000)

    # A class that occurs nowhere is no part of the mean.
    same = litert.evaluate(
        (x[:1], np.where(predicted[:1] == 1, 1, 255)), ignore_class=255
    )
    assert same["accuracy"] == same["mean_iou"] == 1.0
    assert np.isnan(same["class_iou"]).tolist() == [True, False, True, True, True]

    for dataset, options, message in (
        ((x, maps), {}, "from 0 to 4, or `ignore_class`.*0 to 255, ignore_class=None"),
        ((x, maps[:, :-1]), {}, r"one map \(21, 27\) of class indices per image"),
        ((x, maps.transpose(0, 2, 1)), {}, r"one map \(21, 27\) of class indices"),
        ((x, 0 * maps + 255), {"ignore_class": 255}, "must have labelled pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            litert.evaluate(dataset, **options)


def test_outputs_that_are_no_scores_are_refused(tmp_path):
    path = tmp_path / "a.tflite"
    image = keras.Input(SHAPE)
    many = keras.Model(image, keras.layers.Conv2D(257, 1)(image))
    with pytest.raises(ValueError, match="`model` must tell 256 classes or fewer"):
        kd.export_tflite(many, path)
    two = keras.Model(image, {"a": keras.layers.Flatten()(image), "b": image})
    row = keras.Model(image, keras.layers.Reshape((-1, 3))(image))
    for model in (two, row):
        with pytest.raises(ValueError, match="`model` must have one output"):
            kd.export_tflite(model, path)
    with pytest.raises(ValueError, match="`labels` must name the model's 5 classes"):
        kd.export_tflite(small_net(), path, labels=["road"])
    assert not path.exists()
