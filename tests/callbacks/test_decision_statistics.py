"""Decision statistics against counts by hand, and against `decide`."""

import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate.callbacks import decision_statistics

pytestmark = pytest.mark.heavy

MODULE = sys.modules["keras_dyngate.callbacks.decision_statistics"]
IMAGES = np.random.default_rng(0).normal(size=(12, 4, 4, 3)).astype("float32")
LABELS = np.arange(12).reshape(12, 1).astype("float32")
HELD_OUT = np.random.default_rng(1).normal(size=(10, 4, 4, 3)).astype("float32")


def make(blocks=2):
    keras.utils.set_random_seed(0)
    x = image = keras.Input((4, 4, 3))
    for index in range(blocks):
        gate = kd.BinaryGate(3, bias_initializer=0.0, seed=index)
        x = kd.GatedBasicBlock(3, channel_gate=gate, name=f"block{index + 1}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
    return model


def fit(model, epochs, callbacks, **kwargs):
    return model.fit(
        IMAGES,
        LABELS,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **kwargs,
    ).history


def test_rates_of_gates_and_layers():
    a = np.zeros((200, 4))
    a[:, 0] = 1  # always on
    a[:198, 1] = 0.3  # 99 %: just conditional; a score above 0 is open
    a[:2, 2] = 1  # 1 %: just conditional
    a[:1, 3] = 1  # half a percent: always off
    b = np.zeros((200, 1))
    b[:199] = 1
    found = decision_statistics({"a/channel": a, "b/layer": b})
    np.testing.assert_allclose(found["gates"]["a/channel"], [1, 0.99, 0.01, 0.005])
    np.testing.assert_allclose(found["gates"]["b/layer"], [0.995])
    assert found["layers"]["a/channel"] == pytest.approx(2.005 / 4)
    assert found["open_rate"] == pytest.approx(3.0 / 5)
    assert found["always_on"] == pytest.approx(2 / 5)
    assert found["always_off"] == pytest.approx(1 / 5)
    assert found["conditional"] == pytest.approx(2 / 5)


@pytest.mark.parametrize("decisions", [{}, {"a/channel": np.zeros((0, 3))}])
def test_no_decisions_are_refused(decisions):
    with pytest.raises(ValueError, match="at least one sample"):
        decision_statistics(decisions)


@pytest.mark.parametrize("group_size", [None, 3])
def test_logs_agree_with_decide(group_size):
    model = make()
    watch = kd.DecisionStatistics(HELD_OUT, group_size=group_size, batch_size=4)
    history = fit(model, 3, [watch])
    decisions = kd.decide(model, HELD_OUT)  # with the weights of the last epoch
    expected = decision_statistics(decisions)
    for name in ("open_rate", "always_on", "always_off", "conditional"):
        assert history[name][-1] == pytest.approx(expected[name])
    for name, rate in expected["layers"].items():
        assert history[f"open_rate/{name}"][-1] == pytest.approx(rate)
    macs = kd.count_macs(model).of(decisions, group_size).mean()
    assert history["mean_macs"][-1] == pytest.approx(macs)
    assert 0 < expected["open_rate"] < 1  # otherwise the above shows little
    assert len(set(history["open_rate"])) > 1  # weights of each epoch, not the first's


def test_time_is_that_of_the_second_pass_per_image(monkeypatch):
    model, passes = make(), []
    clock = SimpleNamespace(perf_counter=lambda: 0.5 * len(passes))
    monkeypatch.setattr(MODULE, "time", clock)
    decide = kd.DecisionStatistics._decide

    def counted(self):
        passes.append(self)
        return decide(self)

    monkeypatch.setattr(kd.DecisionStatistics, "_decide", counted)
    history = fit(model, 2, [kd.DecisionStatistics(HELD_OUT)])
    assert len(passes) == 3  # one to compile, then one an epoch
    assert history["ms_per_image"] == pytest.approx([50.0, 50.0])


def test_training_is_not_disturbed():
    """On JAX the model's state lies outside the variables while it trains."""
    weights = []
    for callbacks in ([], [kd.DecisionStatistics(HELD_OUT)]):
        model = make()
        start = [np.array(ops.convert_to_numpy(w)) for w in model.trainable_weights]
        fit(model, 3, callbacks, validation_data=(IMAGES, LABELS))
        assert int(model.optimizer.iterations) == 9
        weights.append([ops.convert_to_numpy(w) for w in model.weights])
    end = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    moved = [np.abs(a - b).max() for a, b in zip(start, end, strict=True)]
    assert max(moved) > 1e-2
    for without, with_statistics in zip(*weights, strict=True):
        np.testing.assert_allclose(with_statistics, without, atol=1e-6)


@pytest.mark.parametrize("every, measured", [(1, 5), (2, 4), (3, 3), (10, 2)])
def test_first_last_and_every_so_many_epochs(every, measured):
    """Of 5 epochs: all; 1, 2, 4, 5; 1, 3, 5; 1, 5."""
    history = fit(make(1), 5, [kd.DecisionStatistics(HELD_OUT, every=every)])
    assert len(history["loss"]) == 5
    assert len(history["open_rate"]) == measured


def test_layers_can_be_kept_out_of_the_logs():
    history = fit(make(1), 1, [kd.DecisionStatistics(HELD_OUT, per_layer=False)])
    assert "open_rate" in history
    assert not [name for name in history if "/" in name]


def test_tensorboard_gets_scalars_and_histograms(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    model = make(1)
    watch = kd.DecisionStatistics(HELD_OUT, log_dir=tmp_path / "logs", per_layer=False)
    history = fit(model, 2, [watch])
    (file,) = (tmp_path / "logs").iterdir()
    found = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found[value.tag, event.step] = make_ndarray(value.tensor)
    for epoch in range(2):
        for name in ("open_rate", "mean_macs", "ms_per_image"):
            logged = found[f"decisions/{name}", epoch]
            assert float(logged) == pytest.approx(history[name][epoch], rel=1e-6)
    rates = decision_statistics(kd.decide(model, HELD_OUT))["gates"]["block1/channel"]
    buckets = found["gates/block1/channel", 1]  # rows of (left, right, count)
    assert buckets[:, 2].sum() == 3
    assert buckets[0, 0] == pytest.approx(rates.min())
    assert buckets[-1, 1] == pytest.approx(rates.max(), abs=1e-6)
    assert ("decisions/open_rate/block1/channel", 0) in found


def test_missing_tensorboard_says_what_to_install(monkeypatch, tmp_path):
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install keras_dyngate\[tensorboard\]"):
        kd.DecisionStatistics(HELD_OUT, log_dir=tmp_path)
    kd.DecisionStatistics(HELD_OUT)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="every"):
        kd.DecisionStatistics(HELD_OUT, every=0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must hold controllers"):
        model.fit(
            np.zeros((2, 2)),
            np.zeros((2, 1)),
            verbose=0,
            callbacks=[kd.DecisionStatistics(np.zeros((2, 2)))],
        )
