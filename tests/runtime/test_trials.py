"""Trials: what is drawn, saved, run; a forcible file does what it is told."""

import json

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")

import keras_dyngate as kd
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.trials import Trials, draw_trials, time_trials
from tests.export.nets import (
    conv_net,
    images,
    only_builtins,
    small_net,
    spread_gates,
    tinted,
    with_exits,
)
from tests.models.gating.nets import mobile, pictures

FORCIBLE = kd.GateOptions(forcible=True)


def nets():
    x = tinted(8)
    own = mobile(shape=x.shape[1:], classes=7)
    gated = kd.add_layer_gates(kd.add_channel_gates(own, groups=3))
    both = kd.add_decision_gates(gated, after=["gated_sum"], pooling="avg")
    both.thresholds = [0.3]
    return {
        "channels": spread_gates(small_net(groups=4), x),
        "saliences": spread_gates(
            small_net(groups=4, layers=True, gate=kd.SalienceController), x
        ),
        "bottlenecks": small_net(kd.GatedBottleneckBlock, 16, shortcut="pad"),
        "own": gated,
        "both": both,
        "exits": with_exits(conv_net(), ["a", "b"], x),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("trials"), {}

    def get(name, quantization="float32"):
        if (name, quantization) not in made:
            path = folder / f"{name}-{quantization}.tflite"
            model = nets()[name]
            report = kd.export_tflite(
                model,
                path,
                quantization=quantization,
                representative_data=tinted(16),
                options=FORCIBLE,
                parity_data=tinted(3),
            )
            assert report.parity.max_difference < (
                0.2 if quantization == "int8" else 1e-4
            )
            made[name, quantization] = model, path, report
        return made[name, quantization]

    return get


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize(
    "name",
    list(nets())
    if False
    else ["channels", "saliences", "bottlenecks", "own", "both", "exits"],
)
def test_a_file_runs_what_it_is_told(files, name, quantization):
    model, path, report = files(name, quantization)
    file = LiteRTModel(path)
    assert only_builtins(path.read_bytes())
    trials = draw_trials(file, 12)
    table = kd.count_macs(model)
    expected = table.of(trials.decided(), report.group_sizes)
    for index in range(len(trials)):
        feed = {"image": tinted(1)[0], **trials.feed(index)}
        found = file.run(trials.signature, **feed)
        assert abs(1000 * int(found["executed_macs"][0]) - expected[index]) <= 1000
        if trials.exits is not None:
            assert found["exit"][0] == trials.exits[index]
    # Left to itself it decides as the net does, and no other signature asks.
    if trials.decisions:
        itself = {"decisions": np.full(trials.held.shape[1], -1, "int32")}
        if trials.exits is not None:
            itself["thresholds"] = model.thresholds
        for image in tinted(3):
            told = file.run(trials.signature, image=image, **itself)
            own = file.run("classify", image=image)
            np.testing.assert_array_equal(told["logits"], own["logits"])
            assert told["executed_macs"] == own["executed_macs"]
    others = set(file.signatures) - {"answer_under"}
    assert all("decisions" not in file.signatures[s].inputs for s in others)


def test_what_is_told_shut_is_not_computed(files, tmp_path):
    """NaN in the weights of what must not run: the output stays finite."""
    model = small_net(groups=4)
    block = model.get_layer("block1")
    for conv in block.convs:
        kernel = keras.ops.convert_to_numpy(conv.kernel).copy()
        kernel[..., 16:] = np.nan  # the second of the two groups that run together
        if conv is block.convs[1]:
            kernel = keras.ops.convert_to_numpy(conv.kernel).copy()
            kernel[:, :, 16:] = np.nan
        conv.kernel.assign(kernel)
    path = tmp_path / "nan.tflite"
    kd.export_tflite(model, path, options=FORCIBLE, parity_data=False)
    file = LiteRTModel(path)
    decisions = np.ones(
        file.signatures["answer_under"].inputs["decisions"].shape, "int32"
    )
    feed = {"image": images(1)[0]}
    run = file.run("answer_under", **feed, decisions=decisions)
    assert np.isnan(run["logits"]).all()
    decisions[2:4] = 0
    run = file.run("answer_under", **feed, decisions=decisions)
    assert np.isfinite(run["logits"]).all()


def test_the_net_without_gates(files, tmp_path):
    for name in ("channels", "own", "both", "exits"):
        model, path, _ = files(name)
        plain = tmp_path / f"{name}.tflite"
        ungated = kd.GateOptions(ungated=True)
        report = kd.export_tflite(model, plain, options=ungated)
        assert (
            report.parity.max_difference < 1e-4 and report.parity.argmax_agreement == 1
        )
        assert report.branches == ()
        assert report.macs.total == kd.count_macs(model).total
        assert report.macs.controllers == report.macs.gateable == 0
        file, told = LiteRTModel(plain), LiteRTModel(path)
        feed = {"image": tinted(1)[0]}
        trials = draw_trials(told, 2)
        feeds = trials.feed(0)  # everything open, to the end
        a = file.run("classify", **feed)["logits"]
        b = told.run(trials.signature, **feed, **feeds)["logits"]
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(a).max())


def test_draws(files):
    _, path, report = files("both")
    file = LiteRTModel(path)
    trials = draw_trials(file, 200, seed=3)
    assert len(trials) == 200 and trials.gates == 1
    assert trials.held[0].all() and not trials.held[1].any()
    assert trials.exits[:2].tolist() == [1, 1]
    assert np.bincount(trials.exits).min() > 90
    decided = trials.decided()
    for name, units, groups in trials.decisions:
        together = decided[name].reshape(200, groups, units // groups)
        assert (together.min(-1) == together.max(-1)).all()
        assert 0.4 < decided[name].mean() < 0.6
    again = draw_trials(file, 200, seed=3)
    np.testing.assert_array_equal(again.held, trials.held)
    assert (draw_trials(file, 200, seed=4).held != trials.held).any()
    exits = draw_trials(file, what="exits")
    assert exits.exits.tolist() == [0, 1] and (exits.held == 1).all()


def test_saved(files, tmp_path):
    _, path, _ = files("both")
    trials = draw_trials(LiteRTModel(path), 7)
    trials.save(tmp_path / "trials.json")
    again = Trials.load(tmp_path / "trials.json")
    np.testing.assert_array_equal(again.held, trials.held)
    np.testing.assert_array_equal(again.exits, trials.exits)
    assert again.decisions == trials.decisions and again.gates == trials.gates
    assert again.file_sha256 == trials.file_sha256 != ""
    noted = json.loads((tmp_path / "trials.json").read_text())
    np.testing.assert_array_equal(
        np.array(noted["thresholds"], "float32"), trials.thresholds
    )
    for content in (b"", b"{}", b"[1]", (tmp_path / "trials.json").read_bytes()[:-9]):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(
            ValueError, match="`path` must be a file that `Trials.save`"
        ):
            Trials.load(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        Trials.load(tmp_path / "none.json")


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_times(files, cache):
    _, path, _ = files("exits")
    file = LiteRTModel(path)
    trials, seen = draw_trials(file, 5), []
    ms, beside = time_trials(
        file,
        trials,
        pictures(2)[:, :12, :12],
        rounds=2,
        cache=cache,
        others={"itself": file},
        watch=seen.append,
    )
    assert ms.shape == (5,) and (ms > 0).all() and beside["itself"] > 0
    assert len(seen) == 10 and seen[-1] == pytest.approx(1)


def test_refused(files, tmp_path):
    _, path, _ = files("channels")
    _, other, _ = files("own")
    file = LiteRTModel(path)
    with pytest.raises(ValueError, match="`trials` must be drawn for this file"):
        time_trials(file, draw_trials(LiteRTModel(other), 2))
    with pytest.raises(ValueError, match="`what` must be one of 'all', 'exits'"):
        draw_trials(file, what="gates")
    with pytest.raises(ValueError, match="`model` must have exits"):
        draw_trials(file, what="exits")
    with pytest.raises(ValueError, match="`cache` must be one of 'warm', 'cold'"):
        time_trials(file, draw_trials(file, 2), cache="hot")
    plain = tmp_path / "plain.tflite"
    kd.export_tflite(small_net(), plain, parity_data=False)
    with pytest.raises(ValueError, match="export it with `options=kd.GateOptions"):
        draw_trials(LiteRTModel(plain))
    with pytest.raises(ValueError, match="`forcible` is for gates"):
        kd.GateOptions(forcible=True, ungated=True)
