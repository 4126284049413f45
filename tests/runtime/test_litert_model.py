"""The runtime is judged by NumPy, on a file small enough to compute by hand."""

import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_dyngate.flatfile import flatbuffer  # noqa: E402
from keras_dyngate.runtime import LiteRTModel  # noqa: E402
from tests.runtime.files import write_file  # noqa: E402

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], "float32")
METADATA = {"labels": ["red", "grün", "blue"], "units": {"executed_macs": 1000}}


def classify(image):
    """The brightest colour; bright images take the long way (exit 1, 5000 MACs)."""
    colour = tf.reduce_mean(image, [1, 2])
    logits, exit_ = tf.cond(
        tf.reduce_max(colour) > 100.0,
        lambda: (colour @ tf.constant(2 * WEIGHTS), tf.constant([1])),
        lambda: (colour @ tf.constant(WEIGHTS), tf.constant([0])),
    )
    return {
        "logits": logits,
        "label": tf.argmax(logits, -1, output_type=tf.int32),
        "executed_macs": 2 + 3 * exit_,
        "exit": exit_,
    }


def logits_at(image, threshold):
    return {"logits": tf.reduce_mean(image, [1, 2]) - threshold}


def widen(pixels, count):
    """Integer inputs: uint8 and int32."""
    return {"sum": tf.cast(pixels, tf.int32) + count}


IMAGE = tf.TensorSpec([1, 4, 6, 3], tf.float32)
SIGNATURES = {
    "classify": (classify, {"image": IMAGE}),
    "logits_at": (
        logits_at,
        {"image": IMAGE, "threshold": tf.TensorSpec([1], tf.float32)},
    ),
    "widen": (
        widen,
        {
            "pixels": tf.TensorSpec([1, 4], tf.uint8),
            "count": tf.TensorSpec([1], tf.int32),
        },
    ),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("model"), SIGNATURES, METADATA)


@pytest.fixture(scope="module")
def model(path):
    return LiteRTModel(path)


@pytest.fixture(scope="module")
def data():
    """Images, labels (one in four wrong), and what the file must make of them."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 40, (20, 4, 6, 3)).astype("float32")
    colours = rng.integers(0, 3, 20)
    exits = rng.integers(0, 2, 20)
    images[np.arange(20), :, :, colours] += np.where(exits, 150.0, 40.0)[:, None, None]
    labels = np.where(np.arange(20) % 4 == 0, (colours + 1) % 3, colours)
    return images, labels, colours, exits


def test_signatures_describe_the_file(model):
    assert set(model.signatures) == set(SIGNATURES)
    signature = model.signatures["classify"]
    assert {k: (v.shape, v.dtype) for k, v in signature.inputs.items()} == {
        "image": ((1, 4, 6, 3), np.dtype("float32"))
    }
    assert {k: (v.shape, v.dtype) for k, v in signature.outputs.items()} == {
        "logits": ((1, 3), np.dtype("float32")),
        "label": ((1,), np.dtype("int32")),
        "executed_macs": ((1,), np.dtype("int32")),
        "exit": ((1,), np.dtype("int32")),
    }
    assert model.signatures["widen"].inputs["pixels"].dtype == np.uint8
    with pytest.raises(dataclasses.FrozenInstanceError):
        signature.inputs = {}


def test_metadata_and_labels(model):
    assert model.metadata == METADATA
    assert model.labels == ["red", "grün", "blue"]


def test_a_file_without_metadata_has_an_empty_dict(path, tmp_path):
    content = flatbuffer.read(path.read_bytes())
    content.metadata = [m for m in content.metadata if m.name != b"keras_dyngate"]
    (tmp_path / "m.tflite").write_bytes(flatbuffer.write(content))
    model = LiteRTModel(tmp_path / "m.tflite")
    assert model.metadata == {} and model.labels is None


@pytest.mark.parametrize("data", [b"{not json", b"\xff\xfe{", b"[1]", b""])
def test_broken_metadata_is_refused(path, tmp_path, data):
    content = flatbuffer.read(path.read_bytes())
    flatbuffer.set_metadata(content, "keras_dyngate", data)
    (tmp_path / "m.tflite").write_bytes(flatbuffer.write(content))
    with pytest.raises(ValueError, match="must be a JSON object. Received: .*m.tflite"):
        LiteRTModel(tmp_path / "m.tflite")


def test_run_agrees_with_numpy_in_both_branches(model, data):
    images, _, colours, exits = data
    for image, colour, exit_ in zip(images, colours, exits, strict=True):
        outputs = model.run("classify", image=image[None])
        expected = image.mean((0, 1), dtype="float64") * (1 + exit_)
        np.testing.assert_allclose(outputs["logits"], expected[None], rtol=1e-5)
        assert outputs["label"] == [colour] and outputs["exit"] == [exit_]
        assert outputs["executed_macs"] == [2 + 3 * exit_]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "uint8", "bool"])
def test_numbers_become_float32(model, dtype):
    values = np.random.default_rng(0).integers(0, 2, (4, 6, 3)).astype(dtype)
    logits = model.run("classify", image=values)["logits"]
    expected = values.astype("float64").mean((0, 1))
    np.testing.assert_allclose(logits[0], expected, rtol=1e-6)


def test_arrays_may_be_strided_lists_or_tensors(model, data):
    image = data[0][0]
    expected = model.run("classify", image=image)["logits"]
    strided = np.ascontiguousarray(image[::-1, :, ::-1])[::-1, :, ::-1]
    assert not strided.flags["C_CONTIGUOUS"]
    for form in (strided, image.tolist(), tf.constant(image)):
        np.testing.assert_array_equal(
            model.run("classify", image=form)["logits"], expected
        )


def test_outputs_are_the_callers_own(model, data):
    first = model.run("classify", image=data[0][0])
    kept = {name: array.copy() for name, array in first.items()}
    model.run("classify", image=data[0][1])
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        array[...] = 0  # writable, and not the file's memory
    again = model.run("classify", image=data[0][0])
    for name, array in again.items():
        np.testing.assert_array_equal(array, kept[name])


def test_signatures_may_be_run_in_turn(model, data):
    image = data[0][0]
    expected = model.run("classify", image=image)["logits"]
    shifted = model.run("logits_at", image=image, threshold=3.0)["logits"]
    np.testing.assert_allclose(shifted, image.mean((0, 1))[None] - 3, rtol=1e-5)
    np.testing.assert_array_equal(
        model.run("classify", image=image)["logits"], expected
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_whole_numbers_in_range_fit_a_uint8_input(model, dtype):
    pixels = np.array([0, 1, 128, 255], dtype)
    outputs = model.run("widen", pixels=pixels, count=1000)
    np.testing.assert_array_equal(outputs["sum"], [[1000, 1001, 1128, 1255]])


@pytest.mark.parametrize("bad", [0.5, -1, 256, np.nan, np.inf, -np.inf, 1e30])
def test_other_numbers_do_not(model, bad):
    with pytest.raises(ValueError, match="`pixels` must hold whole .* from 0 to 255"):
        model.run("widen", pixels=[0, 1, 2, bad], count=0)


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("clasify", {}, r"one of \['classify', .*Received: signature='clasify'"),
        ("classify", {}, r"must be \['image'\]. Received: \[\]"),
        ("classify", {"image": 0, "x": 0}, r"Received: \['image', 'x'\]"),
        ("classify", {"image": np.zeros((6, 4, 3))}, r"Received: shape=\(6, 4, 3\)"),
        ("classify", {"image": np.zeros((2, 4, 6, 3))}, r"\(1, 4, 6, 3\), where"),
        ("classify", {"image": np.zeros((1, 1, 4, 6, 3))}, "Received: shape"),
        ("classify", {"image": np.zeros((4, 6, 3), complex)}, "dtype=complex128"),
        ("classify", {"image": np.full((4, 6, 3), "a")}, "convertible to float32"),
        ("widen", {"pixels": np.zeros(4), "count": 2**31}, "`count` must hold whole"),
    ],
)
def test_run_refuses_what_does_not_fit(model, signature, inputs, message):
    with pytest.raises(ValueError, match=message):
        model.run(signature, **inputs)


def forms_of(images, labels):
    """The same data set in every accepted form."""
    batches = [slice(0, 8), slice(8, 16), slice(16, 20)]
    return {
        "arrays": (images, labels),
        "column of labels": (images, labels[:, None].astype("uint8")),
        "single": list(zip(images, labels, strict=True)),
        "single, batch axis": [(x[None], [y]) for x, y in zip(images, labels)],  # noqa: B905
        "batches": [(images[b], labels[b]) for b in batches],
        "generator": ((images[b], labels[b]) for b in batches),
        "tensors": (tf.constant(images), tf.constant(labels)),
        "float labels": (images, labels.astype("float32")),
        "one-hot": (images, np.eye(3)[labels]),
        "one-hot, soft": (images, 0.9 * np.eye(3)[labels] + 0.1 / 3),
        "one-hot, single": [(x, np.eye(3)[y]) for x, y in zip(images, labels)],  # noqa: B905
        "by name": ({"image": images}, labels),
        "lists of labels": (images, labels.tolist()),
        "weights of 1": (images, labels, np.ones(20)),
        "tf.data": tf.data.Dataset.from_tensor_slices((images, labels)),
        "tf.data batches": tf.data.Dataset.from_tensor_slices((images, labels)).batch(
            8
        ),
    }


def test_evaluate_every_form_of_a_dataset(model, data):
    images, labels, colours, exits = data
    for form, dataset in forms_of(images, labels).items():
        result = model.evaluate(dataset)
        np.testing.assert_array_equal(result["labels"], colours, err_msg=form)
        np.testing.assert_array_equal(result["exit"], exits, err_msg=form)
        assert result["labels"].dtype.kind == result["exit"].dtype.kind == "i"
        assert result["accuracy"] == 0.75 and result["samples"] == 20
        expected = 1000 * np.mean(2 + 3 * exits)  # the file counts thousands
        assert result["mean_executed_macs"] == pytest.approx(expected)
        assert result["mean_ms"] > 0 and result["median_ms"] > 0


def test_evaluate_another_signature_with_a_fixed_input(model, data):
    images, labels, colours, _ = data
    for result in (
        model.evaluate((images, labels), "logits_at", threshold=3.0),
        model.evaluate(images, labels, "logits_at", threshold=3.0),
        model.evaluate(images, labels, signature="logits_at", threshold=3.0),
    ):
        np.testing.assert_array_equal(result["labels"], colours)
        assert result["mean_executed_macs"] is None and "exit" not in result


def test_evaluate_with_inputs_that_vary_by_name(model, data):
    """A threshold per image is as good as a fixed one; all come in batches or singly."""
    images, labels, colours, _ = data
    inputs = {"image": images, "threshold": np.linspace(-5, 5, 20)}
    singles = [
        ({"image": x, "threshold": t}, y)
        for x, t, y in zip(images, inputs["threshold"], labels, strict=True)
    ]
    for given in ((inputs, labels), (singles,), ((inputs, labels),)):
        result = model.evaluate(*given, signature="logits_at")
        np.testing.assert_array_equal(result["labels"], colours)
    with pytest.raises(
        ValueError, match=r"equally many .*'image': 20, 'threshold': 19"
    ):
        model.evaluate(
            {**inputs, "threshold": np.zeros(19)}, labels, signature="logits_at"
        )
    with pytest.raises(ValueError, match=r"must give the inputs .* \['image'\]"):
        model.evaluate({"image": images}, labels, signature="logits_at")


def test_evaluate_weighs_samples(model, data):
    images, labels, colours, _ = data
    weights = np.random.default_rng(1).uniform(0, 3, 20)
    expected = np.average(colours == labels, weights=weights)
    for result in (
        model.evaluate(images, labels, sample_weight=weights),
        model.evaluate((images, labels, weights)),
        model.evaluate(list(zip(images, labels, weights, strict=True))),
    ):
        assert result["accuracy"] == pytest.approx(expected, rel=1e-12)
        assert result["samples"] == 20
    for bad in (np.ones(19), np.full(20, np.nan), np.full(20, -1.0)):
        with pytest.raises(
            ValueError, match="`sample_weight` must be one number from 0"
        ):
            model.evaluate(images, labels, sample_weight=bad)
    with pytest.raises(ValueError, match="must not be 0 everywhere"):
        model.evaluate(images, labels, sample_weight=np.zeros(20))


def test_nothing_is_run_before_all_labels_of_a_batch_are_checked(path, data):
    model = LiteRTModel(path)
    model._timed = lambda *_: pytest.fail("it was run")
    labels = np.append(np.zeros(19, int), 3)
    with pytest.raises(ValueError, match="class indices from 0 to 2"):
        model.evaluate(data[0], labels)


@pytest.mark.parametrize(
    ("images", "warns"),
    [
        (np.linspace(0, 1, 144).reshape(2, 4, 6, 3), True),
        (np.linspace(-1, 1, 144, dtype="float32").reshape(2, 4, 6, 3), True),
        (np.linspace(0, 1.5, 144).reshape(2, 4, 6, 3), False),
        (np.zeros((2, 4, 6, 3)), False),
        (np.ones((2, 4, 6, 3)), False),  # a mask, or very dark
        (np.linspace(0, 1, 144).reshape(2, 4, 6, 3).astype("uint8"), False),
    ],
)
def test_images_from_0_to_1_are_noticed(path, tmp_path, images, warns):
    content = flatbuffer.read(path.read_bytes())
    noted = {"input": "RGB, 0 to 255, [1, height, width, channels]"}
    flatbuffer.set_metadata(content, "keras_dyngate", json.dumps(noted).encode())
    (tmp_path / "m.tflite").write_bytes(flatbuffer.write(content))
    labels = np.zeros(2, int)
    evaluate = LiteRTModel(tmp_path / "m.tflite").evaluate
    if warns:
        with pytest.warns(UserWarning, match="images from 0 to 255") as found:
            evaluate(images, labels)
        assert found[0].filename == __file__
        # One by one they are judged together, and a file from elsewhere takes anything.
        with pytest.warns(UserWarning, match="`x` should hold .* 0 to 255"):
            evaluate([(images[0], 0), (images[1], 0)])
        LiteRTModel(path).evaluate(images, labels)
    else:
        evaluate(images, labels)  # warnings are errors


def test_one_logit_means_class_1_above_0(tmp_path):
    """Of a file without `label`, the runtime decides; in Keras that is above .5."""

    def classify(x):
        return {"logits": tf.reduce_sum(x, -1, keepdims=True)}

    path = write_file(tmp_path, {"classify": (classify, {"x": tf.TensorSpec([1, 2])})})
    x = np.array([[1.0, 1.0], [1.0, -2.0], [0.5, -0.5], [-3.0, 3.5]], "float32")
    expected = (1 / (1 + np.exp(-x.sum(-1))) > 0.5).astype(int)
    assert expected.tolist() == [1, 0, 0, 1]
    found = LiteRTModel(path).evaluate(x, [1, 0, 1, 0])
    assert found["labels"].tolist() == expected.tolist() and found["accuracy"] == 0.5
    assert LiteRTModel(path).evaluate(x, np.eye(2)[expected])["accuracy"] == 1
    with pytest.raises(ValueError, match="class indices from 0 to 1"):
        LiteRTModel(path).evaluate(x, [1, 0, 1, 2])


def test_threads_may_share_a_model(model, data):
    """Every call is whole: its outputs are those of its own inputs and signature."""
    images = data[0]
    alone = [
        (model.run("classify", image=x), model.run("logits_at", image=x, threshold=i))
        for i, x in enumerate(images)
    ]
    start, wrong = threading.Barrier(4), []

    def work(shift):
        start.wait()
        for turn in range(100):
            index = (turn + 5 * shift) % len(images)
            both = (
                model.run("classify", image=images[index]),
                model.run("logits_at", image=images[index], threshold=index),
            )
            for found, expected in zip(both, alone[index], strict=True):
                equal = [np.array_equal(found[k], expected[k]) for k in expected]
                wrong.extend([index] * (not all(equal)))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong


def test_evaluations_and_benchmarks_in_threads(model, data):
    images, labels, colours, exits = data

    def work(index):
        if index % 2:
            return model.benchmark("classify", {"image": images[0]}, repeats=20)
        return model.evaluate(images, labels)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    for result in found[::2]:
        np.testing.assert_array_equal(result["labels"], colours)
        np.testing.assert_array_equal(result["exit"], exits)
    assert all(result.repeats == 20 for result in found[1::2])


def test_several_calls_may_be_kept_together(model, data):
    """Another thread waits until the lock is free."""
    image, done = data[0][0], threading.Event()

    def other():
        model.run("classify", image=image)
        done.set()

    with model.lock:
        thread = threading.Thread(target=other)
        thread.start()
        model.run("classify", image=image)
        assert not done.wait(0.1)
    thread.join()
    assert done.is_set()


@pytest.mark.parametrize(
    ("dataset", "kwargs", "message"),
    [
        ([], {}, "`x` must hold at least one sample"),
        ([np.zeros((4, 6, 3))], {}, "pairs .* Received: ndarray of length 4"),
        ([(np.zeros((4, 6, 3)), 0, 1, 2)], {}, "Received: tuple of length 4"),
        ((np.zeros((2, 4, 6, 3)), np.zeros(3, int)), {}, r"shape \(3,\)"),
        ((np.zeros((2, 4, 6, 3)), np.eye(2, 4)), {}, r"one class index per image"),
        ((np.zeros((1, 4, 6, 3)), np.full(1, 0.5)), {}, "float64 values from 0.5 to"),
        ((np.zeros((2, 4, 6, 3)), np.array([0, 3])), {}, "from 0 to 2.* 0 to 3"),
        ((np.zeros((2, 4, 6, 3)), np.array([-1, 2])), {}, "from 0 to 2.* -1 to 2"),
        (
            (np.zeros((2, 4, 6)), np.zeros(2, int)),
            {},
            r"\(4, 6, 3\), one by one or in batches; grey pictures need 3 equal "
            r"channels. Received: shape=\(2, 4, 6\)",
        ),
        (
            (np.full((2, 4, 6, 3), "a"), np.zeros(2, int)),
            {},
            "convertible to float32. Received: dtype=<U1",
        ),
        ((np.zeros((2, 6, 4, 3)), np.zeros(2, int)), {}, r"batches. .*\(2, 6, 4, 3\)"),
        (np.zeros((2, 4, 6, 3)), {}, "pairs .*ndarray of length 4"),
        ("images", {}, "or an iterable .* Received: str without `y`"),
        ({"image": np.zeros((2, 4, 6, 3))}, {}, "Received: dict without `y`"),
        ([], {"sample_weight": [1.0]}, "`sample_weight` needs `y`"),
        (
            [],
            {"signature": "widen"},
            "'label', 'labels' or 'logits'. Received: .*'sum'",
        ),
        (
            (np.zeros((2, 4, 6, 3)), np.zeros(2, int)),
            {"signature": "logits_at"},
            r"\['image', 'threshold'\] by name, in a dict, or all but one .* keyword",
        ),
        (
            (np.zeros((2, 4, 6, 3)), np.zeros(2, int)),
            {"thresold": 1.0},
            r"Received: \['thresold'\] for the inputs \['image'\]",
        ),
        ([], {"signature": "nothing"}, "Received: signature='nothing'"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(model, dataset, kwargs, message):
    with pytest.raises(ValueError, match=message):
        model.evaluate(dataset, **kwargs)


class Runner:
    """A signature runner that records its calls and takes a known time."""

    def __init__(self, clock):
        self.clock, self.calls = clock, []

    def __call__(self, **inputs):
        self.calls.append(inputs)
        self.clock.now += 1e-3 * len(self.calls)  # the n-th call takes n ms
        return {}


class Clock:
    now = 0.0


def test_benchmark_reports_the_times_of_the_timed_calls(path, monkeypatch):
    model = LiteRTModel(path, num_threads=2)
    runner = Runner(Clock())
    monkeypatch.setitem(model._runners, "classify", runner)
    monkeypatch.setattr("time.perf_counter", lambda: runner.clock.now)
    dark, bright = (np.full((4, 6, 3), value) for value in (1, 200))
    feeds = [{"image": dark}, {"image": bright}, {"image": dark}]
    result = model.benchmark("classify", feeds, repeats=10, warmup=4)
    # Calls 1 to 4 warm up; 5 to 14 are timed and begin again with the first input.
    np.testing.assert_allclose(result.times_ms, range(5, 15))
    assert (result.signature, result.num_threads) == ("classify", 2)
    assert result.repeats == 10 == len(result.times_ms)
    assert result.median_ms == pytest.approx(9.5)
    assert result.mean_ms == pytest.approx(9.5)
    assert result.min_ms == pytest.approx(5)
    assert result.p90_ms == pytest.approx(13.1)
    fed = [call["image"].max() for call in runner.calls]
    assert fed == [1, 200, 1, 1] + [1, 200, 1] * 3 + [1]
    assert {call["image"].shape for call in runner.calls} == {(1, 4, 6, 3)}


def test_benchmark_runs_the_file(model, data):
    result = model.benchmark("classify", {"image": data[0][0]}, repeats=3, warmup=0)
    assert len(result.times_ms) == 3
    assert 0 < result.min_ms <= result.median_ms <= result.p90_ms


@pytest.mark.parametrize(
    ("inputs", "kwargs", "message"),
    [
        (
            {"image": np.zeros((4, 6, 3))},
            {"repeats": 0},
            "`repeats` must be a positive",
        ),
        ({"image": np.zeros((4, 6, 3))}, {"warmup": -1}, "`warmup` must .* from 0"),
        ({"image": np.zeros((4, 6, 3))}, {"warmup": 1.5}, "Received: warmup=1.5"),
        ([], {}, "`inputs` must be a dict or a sequence of dicts"),
        ([{"picture": 0}], {}, r"Received: \['picture'\]"),
    ],
)
def test_benchmark_refuses_what_does_not_fit(model, inputs, kwargs, message):
    with pytest.raises(ValueError, match=message):
        model.benchmark("classify", inputs, **kwargs)


def test_a_missing_file_and_a_folder(tmp_path):
    for missing in (tmp_path / "none.tflite", tmp_path):
        with pytest.raises(FileNotFoundError, match="`path` must .* Received: path="):
            LiteRTModel(missing)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "m.tflite"
    for content in (b"", b"TFL3", b"PK\x03\x04" * 100, b"\0\0\0\0TFL3" + bytes(500)):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            LiteRTModel(path)
        for part in ("`path`", "a .tflite file", "Received: ", os.fspath(path)):
            assert part in str(error.value)
        assert f"{len(content)} bytes, the first {content[:8]!r}" in str(error.value)


def test_truncated_files_are_refused_at_every_length(path, tmp_path):
    content = path.read_bytes()
    cut = tmp_path / "cut.tflite"
    lengths = {*range(0, len(content), 37), *range(40), len(content) - 1}
    for length in sorted(lengths):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"a .tflite file .* {length} bytes"):
            LiteRTModel(cut)


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, "2", None])
def test_num_threads_must_be_a_positive_int(path, bad):
    with pytest.raises(ValueError, match="`num_threads` must be a positive integer"):
        LiteRTModel(path, num_threads=bad)


def test_without_litert_the_message_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r"pip install keras_dyngate\[litert\]"):
        LiteRTModel(path)


def test_a_device_needs_neither_keras_nor_tensorflow(path):
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('keras', 'tensorflow', 'jax', 'torch'):\n"
        "            raise ImportError(f'a device has no {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import numpy as np\n"
        "from keras_dyngate.runtime import LiteRTModel\n"
        "model = LiteRTModel(sys.argv[1])\n"
        "print(model.run('classify', image=np.full((4, 6, 3), 7))['logits'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, os.fspath(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[7. 7. 7.]]"
