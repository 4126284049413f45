"""The same answers everywhere: golden cases of every method on every runtime."""

import shutil

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from keras_dyngate._labels import label_of  # noqa: E402
from keras_dyngate.runtime import LiteRTModel, compare_golden, write_golden  # noqa: E402
from keras_dyngate.runtime.golden import (  # noqa: E402
    CASES,
    MODEL,
    read_cases,
    runner_arguments,
)
from tests.export.nets import images  # noqa: E402
from tests.runtime.files import write_file  # noqa: E402
from tests.tflite import golden_files  # noqa: E402
from tests.tflite.targets import TARGETS  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
    ),
]

# Rounded another way or summed in another order, by how much of the largest output.
FLOAT = 1e-5
# 8-bit weights quantize activations as they come: one that lies between two steps may
# fall to either side.
DYNAMIC = 1e-3
# LiteRT's built-in int8 kernels round another way than XNNPACK's: some steps of a byte.
OTHER_INT8 = 0.1
# Random heads spread scores that hardly differ, and what rounding does to them.
OTHER_WEIGHTS = 0.1
SAME = ("interpreter", "compiled-model", "c-xnnpack", "java", "dex")
ANSWERS = ("label", "exit", "executed_macs")


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Folders of cases by method and quantization, each made when first wanted."""
    folder, made = tmp_path_factory.mktemp("golden"), {}

    def get(method, quantization):
        key = method, quantization
        if key not in made:
            made[key] = golden_files.write(method, quantization, folder)
        return made[key]

    return get


@pytest.mark.parametrize("quantization", golden_files.QUANTIZATIONS)
@pytest.mark.parametrize("method", golden_files.METHODS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_runtime_gives_the_golden_answers(
    golden, tmp_path, target, method, quantization
):
    folder = golden(method, quantization)
    TARGETS[target](folder, tmp_path)
    differences = compare_golden(folder, tmp_path)
    assert {d.case for d in differences} == set(range(len(read_cases(folder))))
    other_int8 = target == "c-builtin" and quantization == "int8"
    exact = target in SAME or (
        quantization == "int8" and method not in ("exits", "cascade") and not other_int8
    )  # gates of exits are float32 in any file
    # A first net of an int8 file has 8-bit weights alone.
    eight_bit_weights = quantization == "dynamic" or (quantization, method) == (
        "int8",
        "cascade",
    )
    tolerance = DYNAMIC if eight_bit_weights else FLOAT
    if other_int8:
        tolerance = OTHER_INT8
    elif target == "c-builtin" and eight_bit_weights and method == "cascade":
        tolerance = OTHER_WEIGHTS
    for difference in differences:
        integer = difference.dtype != "float32" and not other_int8
        if exact or integer or difference.output in ANSWERS:
            assert difference.equal, difference
        assert difference.relative <= tolerance, difference


def test_the_cases_are_worth_comparing(golden):
    """Images take different paths, and every signature is called on each."""
    for method in golden_files.METHODS:
        folder = golden(method, "float32")
        model, cases = LiteRTModel(folder / MODEL), read_cases(folder)
        assert len(cases) == 6 * len(model.signatures)
        assert {case.signature for case in cases} == set(model.signatures)
        costs, labels = set(), set()
        for case in cases:
            if case.signature in ("classify", "classify_k3"):
                read = {
                    name: int(np.fromfile(folder / case.outputs[name], "<i4")[0])
                    for name in ("executed_macs", "label")
                }
                costs.add(read["executed_macs"])
                labels.add(read["label"])
        assert len(labels) > 1
        assert method == "anytime" or len(costs) > 1, method


@pytest.fixture(scope="module")
def one_logit(tmp_path_factory):
    """Cases of a net with one output, on bright and dark images."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("one_logit")

    def classify(image):
        logits = tf.reduce_mean(image, [1, 2, 3])[None] - 127.0
        label = tf.cast(logits[:, 0] > 0, tf.int32)
        return {"logits": logits, "label": label, "executed_macs": label + 3}

    image = {"image": tf.TensorSpec([1, 4, 4, 3], tf.float32)}
    path = write_file(folder, {"classify": (classify, image)})
    x = np.full((4, 4, 4, 3), [[[[0]]], [[[127]]], [[[128]]], [[[255]]]], "float32")
    write_golden(path, folder / "golden", x)
    return folder / "golden"


@pytest.mark.parametrize(
    "target", ["interpreter", "compiled-model", "c-xnnpack", "java", "node"]
)
def test_one_logit_means_class_1_above_0(one_logit, tmp_path, target):
    TARGETS[target](one_logit, tmp_path)
    labels = {
        int(np.fromfile(tmp_path / case.outputs["label"], "<i4")[0]): label_of(
            np.fromfile(tmp_path / case.outputs["logits"], "<f4")
        )
        for case in read_cases(one_logit)
    }
    assert labels == {0: 0, 1: 1}
    assert all(difference.equal for difference in compare_golden(one_logit, tmp_path))


def test_a_difference_is_seen(golden, tmp_path):
    folder = golden("gated", "float32")
    for file in folder.glob("*.out*.raw"):
        shutil.copy(file, tmp_path)
    assert all(d.equal and d.relative == 0 for d in compare_golden(folder, tmp_path))
    case = read_cases(folder)[0]
    file = tmp_path / case.outputs["logits"]
    logits = np.fromfile(file, "<f4")
    changed = logits.copy()
    changed[2] += 1e-3 * np.abs(logits).max()
    changed.tofile(file)
    (bad,) = [d for d in compare_golden(folder, tmp_path) if not d.equal]
    assert (bad.case, bad.signature, bad.output) == (0, case.signature, "logits")
    assert bad.relative == pytest.approx(1e-3, rel=1e-3)
    changed[0] = np.nan
    changed.tofile(file)
    (bad,) = [d for d in compare_golden(folder, tmp_path) if not d.equal]
    assert bad.relative == float("inf")
    file.write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"`found` must hold .* of 28 bytes"):
        compare_golden(folder, tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="no such file"):
        compare_golden(folder, tmp_path)


def test_bad_arguments(golden, tmp_path):
    path = golden("exits", "float32") / MODEL
    x = images(1)
    with pytest.raises(ValueError, match=r"`folder` must be a new folder"):
        write_golden(path, tmp_path, x)
    with pytest.raises(ValueError, match=r"`folder` must be a new folder"):
        write_golden(path, tmp_path / "no" / "folder", x)
    with pytest.raises(ValueError, match="`images` must hold at least one"):
        write_golden(path, tmp_path / "new", x[:0])
    with pytest.raises(ValueError, match=r"Input `image` must have the shape"):
        write_golden(path, tmp_path / "new", x[:, 1:])
    assert not list(tmp_path.iterdir()), "written whole or not at all"
    with pytest.raises(ValueError, match=f"must hold a text file {CASES}"):
        read_cases(tmp_path)
    (tmp_path / CASES).write_text("classify image\n")
    with pytest.raises(ValueError, match="tensor=file or tensor=>file"):
        read_cases(tmp_path)
    (tmp_path / CASES).write_text("classify image=../outside.raw\n")
    with pytest.raises(ValueError, match="tensor=file"):
        runner_arguments(tmp_path, tmp_path)


def test_own_thresholds(golden, tmp_path):
    path = golden("exits", "float32") / MODEL
    write_golden(path, tmp_path / "all", images(2), thresholds=[-1e30, -1e30])
    for case in read_cases(tmp_path / "all"):
        if case.signature == "classify_at":
            found = np.fromfile(tmp_path / "all" / case.outputs["exit"], "<i4")
            assert found == [0]
