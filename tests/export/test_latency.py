"""`measure_latency`: what it fits, with a clock that tells known times."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("scipy")

import keras_dyngate as kd
from keras_dyngate.export import latency
from keras_dyngate.runtime.trials import sha256_of
from tests.export.nets import conv_net, small_net, tinted, with_exits
from tests.models.gating.nets import mobile
from tests.tflite.golden_files import net


def model(name):
    if name == "channels":
        return small_net(groups=4)
    if name == "exits":
        return with_exits(conv_net(), ["a", "b"], tinted(8))
    own = mobile(shape=tinted(1).shape[1:], classes=7)
    gated = kd.add_layer_gates(kd.add_channel_gates(own, groups=3))
    both = kd.add_decision_gates(gated, after=["gated_sum"], pooling="avg")
    both.thresholds = [0.3]
    return both


@pytest.fixture
def clock(monkeypatch):
    """Times are 1 ms and 2 microseconds for a thousand MACs, the plain net's 5 ms."""

    def install(table, sizes):
        def times(file, trials, images, **options):
            for name, plain in options.get("others", {}).items():
                assert name == "plain" and "classify" in plain.signatures
            return 1 + 2e-6 * table.of(trials.decided(), sizes), {"plain": 5.0}

        monkeypatch.setattr(latency, "time_trials", times)

    return install


@pytest.mark.parametrize("name", ["channels", "exits", "both"])
def test_the_table_tells_the_times(clock, tmp_path, name):
    net, path = model(name), tmp_path / "kept.tflite"
    counted = kd.count_macs(net)
    report = kd.export_tflite(net, path, parity_data=False)
    clock(counted, report.group_sizes)
    table = kd.measure_latency(net, path=path, trials=120)
    assert table.unit == "ms" and table.total == 5.0
    assert table.group_sizes == report.group_sizes
    assert [row.name for row in table.rows] == [row.name for row in counted.rows]
    found = kd.decide(net, tinted(16))
    expected = 1 + 2e-6 * counted.of(found, report.group_sizes)
    np.testing.assert_allclose(table.of(found), expected, rtol=1e-6)
    assert table.measured.file_sha256 == sha256_of(path)
    assert table.measured.r2 > 0.999 and table.measured.trials == 120
    assert table.measured.quantization == "float32" and table.measured.device


def test_stages_alone(clock):
    net = model("both")
    counted = kd.count_macs(net)
    clock(counted, None)
    table = kd.measure_latency(net, what="exits")
    expected = 1 + 2e-6 * np.array(counted.per_exit)
    np.testing.assert_allclose(table.per_exit, expected, rtol=1e-6)
    assert table.measured.trials == 2


def test_on_this_machine(tmp_path):
    """No clock but the machine's: positive times, in a table of the right form."""
    path = tmp_path / "kept.tflite"
    table = kd.measure_latency(
        model("channels"),
        quantization="dynamic",
        trials=30,
        rounds=2,
        num_threads=2,
        cache="cold",
        path=path,
    )
    assert path.exists() and table.total > 0 and table.least > 0
    assert table.measured.threads == 2 and table.measured.cache == "cold"


def test_an_anytime_net():
    net_ = net("anytime")
    table, counted = kd.measure_latency(net_), kd.count_macs(net_)
    assert len(table.per_subnetwork) == len(counted.per_subnetwork) == 3
    assert len(table.per_step) == len(counted.per_step)
    assert min(table.per_subnetwork) > 0 and table.unit == "ms"
    assert sum(row.cost for row in table.rows) == pytest.approx(
        table.per_subnetwork[-1]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "gates"}, "`what` must be one of 'all', 'exits'"),
        ({"cache": "hot"}, "`cache` must be one of"),
        ({"trials": 0}, "`trials` must be a positive"),
        ({"rounds": 0}, "`rounds` must be a positive"),
        ({"num_threads": 0}, "`num_threads` must be a positive"),
        ({"quantization": "int7"}, "`quantization` must be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        kd.measure_latency(model("channels"), **options)


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="`model` must hold gates or exits"):
        kd.measure_latency(conv_net())
    with pytest.raises(ValueError, match="`model` must be a built keras.Model"):
        kd.measure_latency(None)
