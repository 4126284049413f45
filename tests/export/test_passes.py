"""The table of signatures in exported files, and what reads it: names say nothing."""

import json

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)

import keras_dyngate as kd
from keras_dyngate.export.passes import passes
from keras_dyngate.flatfile import flatbuffer
from keras_dyngate.runtime import time_images
from keras_dyngate.runtime.chain import chain
from keras_dyngate.runtime.litert_model import METADATA_NAME
from keras_dyngate.runtime.signature_table import Role, SignatureTable
from tests.export.nets import small_net, spread_gates, tinted, with_exits
from tests.stubs import randomize

X = tinted(16)
Y = np.arange(16) % 7


@pytest.fixture(scope="module")
def exits(tmp_path_factory):
    model = with_exits(spread_gates(small_net(groups=4), X), ["block1"], X)
    path = tmp_path_factory.mktemp("exits") / "net.tflite"
    kd.export_tflite(model, path, parity_data=False)
    return model, path


@pytest.fixture(scope="module")
def anytime(tmp_path_factory):
    model = randomize(
        kd.sliced_resnet(
            blocks=1, width=12, subnetworks=3, input_shape=X.shape[1:], classes=7
        )
    )
    path = tmp_path_factory.mktemp("anytime") / "net.tflite"
    options = kd.AnytimeOptions(subnetworks=[1, 3])
    kd.export_tflite(model, path, options=options, parity_data=False)
    return model, path


def noted(path):
    file = flatbuffer.read(path.read_bytes())
    metadata = json.loads(flatbuffer.get_metadata(file, METADATA_NAME))
    return metadata["signatures"]


def renamed(path, target):
    """A copy of a file with other names of signatures; the new ones by the old."""
    file = flatbuffer.read(path.read_bytes())
    metadata = json.loads(flatbuffer.get_metadata(file, METADATA_NAME))
    old = [entry.signatureKey.decode() for entry in file.signatureDefs]
    new = {name: f"f{len(old) - index}" for index, name in enumerate(old)}
    for entry in file.signatureDefs:
        entry.signatureKey = new[entry.signatureKey.decode()].encode()
    metadata["signatures"] = {
        new[name]: {
            key: new[value] if key in ("follows", "explained_by") else value
            for key, value in role.items()
        }
        for name, role in metadata["signatures"].items()
    }
    flatbuffer.set_metadata(file, METADATA_NAME, json.dumps(metadata).encode())
    target.write_bytes(flatbuffer.write(file))
    return new


def test_every_signature_is_in_the_table(exits, anytime):
    """And as the names tell, which a reader of old files goes by."""
    for _, path in (exits, anytime):
        litert = kd.LiteRTModel(path)
        assert set(noted(path)) == set(litert.signatures)
        assert litert.table == SignatureTable.read({}, litert.signatures)
        assert not any(role.kind == "other" for role in litert.table.values())


def test_the_table_of_a_file_with_fewer_signatures(exits, anytime, tmp_path):
    path = tmp_path / "few.tflite"
    kept = ["classify", "classify_at", "explain_at", "stage_2"]
    kd.export_tflite(exits[0], path, signatures=kept, parity_data=False)
    assert noted(path) == {
        "classify": {"kind": "answer"},  # what explained it is gone
        "classify_at": {"kind": "answer_at", "explained_by": "explain_at"},
        "explain_at": {"kind": "witness_at", "explained_by": "explain_at"},
        "stage_2": {"kind": "stage", "order": 2},
    }
    assert path.read_bytes().count(b'"keras_dyngate"') == 1  # nor the old metadata
    kd.export_tflite(
        anytime[0], path, signatures=["start", "step_2"], parity_data=False
    )
    assert noted(path) == {
        "start": {"kind": "step", "order": 1},
        "step_2": {"kind": "step", "order": 2, "follows": "start"},
    }


def test_calibration_keeps_the_table(exits, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(exits[1].read_bytes())
    before = noted(path)
    outcome = kd.calibrate_tflite(path, X, Y, exit_shares=[0.5])
    assert noted(path) == before
    assert len(outcome.thresholds) == 1


def test_exits_under_other_names(exits, tmp_path):
    path, target = exits[1], tmp_path / "net.tflite"
    new = renamed(path, target)
    ours, theirs = kd.LiteRTModel(path), kd.LiteRTModel(target)
    calls = zip(
        chain(ours, {"image": X[0]}), chain(theirs, {"image": X[0]}), strict=True
    )
    by_name = {name: outputs for name, _, outputs in (pair[0] for pair in calls)}
    for name, _, outputs in chain(theirs, {"image": X[0]}):
        (old,) = (key for key, value in new.items() if value == name)
        assert all(np.array_equal(outputs[k], by_name[old][k]) for k in outputs)
    last = chain(theirs, {"image": X[0]}, new["stage_2"])
    assert [name for name, *_ in last] == [new["stage_1"], new["stage_2"]]
    assert theirs.evaluate(X, Y)["accuracy"] == ours.evaluate(X, Y)["accuracy"]
    report = time_images({"a": (theirs, new["classify"], X[:4])}, rounds=1)["a"]
    same = time_images({"a": (ours, "classify", X[:4])}, rounds=1)["a"]
    assert report.open_rates.tolist() == same.open_rates.tolist()
    kd.calibrate_tflite(target, X, Y, exit_shares=[0.0])
    again = kd.LiteRTModel(target)
    assert {int(again.run(new["classify"], image=x)["exit"][0]) for x in X} == {1}


def test_steps_under_other_names(anytime, tmp_path):
    model, path = anytime
    new = renamed(path, tmp_path / "net.tflite")
    runner = kd.AnytimeRunner(tmp_path / "net.tflite", warmup=1)
    assert runner.incremental and runner.subnetworks == 3
    answer = runner.run(X[0])
    expected = model.predict_at(3, X[:1])[0]
    np.testing.assert_allclose(answer.logits, expected, rtol=1e-4, atol=1e-5)
    assert runner.model.table[new["step_3"]] == Role("step", 3, new["step_2"])


def test_passes_by_quantization():
    """Those of all files come last, the metadata at the very end."""
    every = passes(None)
    assert passes("float16") == every
    for quantization in ("dynamic", "int8"):
        found = passes(quantization)
        assert found[-len(every) :] == every and len(found) > len(every)
