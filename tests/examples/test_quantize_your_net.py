"""Which file to ship, as a user asks for it, of very small nets."""

import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.examples.scripts import run, small_net

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="the script exports"
    ),
]
MODES = ["float32", "float16", "dynamic", "int8", "int8, trained for"]


def often_open(units):
    return kd.BinaryGate(units, bias_initializer=1.0)


def test_every_mode_is_judged_and_nothing_is_trained_twice(tmp_path):
    small_net(tmp_path / "plain.keras")
    done = run("quantize_your_net.py", f"--out={tmp_path}", "--epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch 1 of 1") == 2
    rows = json.loads((tmp_path / "result.json").read_text())
    assert list(rows) == MODES
    assert rows["float32"]["labels"] == 1.0 and rows["int8"]["labels"] > 0.9
    assert rows[MODES[-1]]["labels"] > 0.98
    kilobytes = [rows[mode]["bytes"] for mode in MODES[:4]]
    assert kilobytes[0] > kilobytes[1] > kilobytes[3]
    macs = kd.count_macs(keras.models.load_model(tmp_path / "float.keras")).total
    for row in rows.values():
        assert row["mmacs"] == pytest.approx(macs / 1e6, rel=0.01)  # in thousands
    assert all(row["ms"] > 0 and row["decisions"] is None for row in rows.values())
    done = run("quantize_your_net.py", f"--out={tmp_path}", "--epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch" not in done.stdout
    again = json.loads((tmp_path / "result.json").read_text())
    assert [row["accuracy"] for row in again.values()] == [
        row["accuracy"] for row in rows.values()
    ]


@pytest.mark.parametrize("head", ["linear", "separable"])
def test_a_net_with_gates_and_exits_on_cifar(head, tmp_path):
    rng = np.random.default_rng(0)
    data = {}
    for name, count in (("train", 160), ("test", 60)):
        data[f"y_{name}"] = np.arange(count) % 10
        faint = (
            rng.integers(0, 60, (count, 32, 32, 3))
            + 15 * data[f"y_{name}"][:, None, None, None]
        )
        data[f"x_{name}"] = faint.astype("uint8")
    np.savez(tmp_path / "cifar.npz", **data)
    small_net(tmp_path / "plain.keras")
    net = keras.models.load_model(tmp_path / "plain.keras")
    net = kd.add_layer_gates(net, where=["sum"], gate=often_open)
    kd.add_decision_gates(net, after=["gated_sum"], head=head).save(
        tmp_path / "net.keras"
    )
    given = f"--net={tmp_path}/net.keras", f"--cifar={tmp_path}/cifar.npz"
    out = tmp_path / "out"
    done = run("quantize_your_net.py", *given, f"--out={out}", "--epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((out / "result.json").read_text())
    assert rows["float32"]["exits"] == rows["float32"]["decisions"] == 1.0
    assert rows[MODES[-1]]["exits"] > 0.9 and rows[MODES[-1]]["decisions"] > 0.9
    table = kd.count_macs(keras.models.load_model(out / "float.keras"))
    whole = 1.01 * (table.total + table.controllers) / 1e6  # 0.01: rounded
    assert all(0 < row["mmacs"] < whole for row in rows.values())


def test_cifar_without_a_net_is_refused(tmp_path):
    done = run("quantize_your_net.py", "--cifar=x.npz", f"--out={tmp_path}")
    assert done.returncode != 0
    assert "--net and --photos or --cifar go together." in done.stdout + done.stderr
