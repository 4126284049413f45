"""Tables from what other machines wrote."""

import json

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")
pytest.importorskip("scipy")

import keras_dyngate as kd
from tests.export.nets import conv_net, small_net, spread_gates, tinted


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    model = spread_gates(small_net(groups=4), tinted(8))
    options = kd.GateOptions(forcible=True)
    path = folder / "net.tflite"
    report = kd.export_tflite(model, path, options=options, parity_data=False)
    trials = kd.runtime.draw_trials(kd.LiteRTModel(path), 60)
    trials.save(folder / "trials.json")
    costs = 100 + kd.count_macs(model).of(trials.decided(), report.group_sizes)
    return folder, model, trials, costs


def written(folder, trials, costs, **more):
    noted = {
        "format": "keras_dyngate costs 1",
        "unit": "instructions",
        "device": "cortex-a76 (emulated)",
        "threads": 1,
        "cache": "warm",
        "file_sha256": trials.file_sha256,
        "costs": [int(cost) for cost in costs],
        "plain": 4e6,
        **more,
    }
    path = folder / "costs.json"
    path.write_text(json.dumps(noted))
    return path


@pytest.mark.parametrize("count", [60, 40])
def test_the_table(drawn, count):
    folder, model, trials, costs = drawn
    path = written(folder, trials, costs[:count])
    table = kd.cost_table_from(model, folder / "trials.json", path, quantization="int8")
    assert table.unit == "instructions" and table.total == 4e6
    np.testing.assert_allclose(table.of(trials.decided()), costs, rtol=1e-6)
    assert table.measured.trials == count and table.measured.quantization == "int8"
    assert table.measured.device == "cortex-a76 (emulated)"
    assert kd.Budget("instructions:0.9x").cost(table) == pytest.approx(3.6e6)


def test_refused(drawn, tmp_path):
    folder, model, trials, costs = drawn
    good = folder / "trials.json"
    bad = tmp_path / "bad.json"
    for content in ("", "{}", '{"format": "other"}', "[1]"):
        bad.write_text(content)
        with pytest.raises(ValueError, match="`costs` must be a file of the format"):
            kd.cost_table_from(model, good, bad)
        with pytest.raises(
            ValueError, match="`path` must be a file that `Trials.save`"
        ):
            kd.cost_table_from(model, bad, written(folder, trials, costs))
    with pytest.raises(ValueError, match="Received: 61 costs for 60 trials"):
        kd.cost_table_from(model, good, written(folder, trials, [*costs, 1]))
    other = written(folder, trials, costs, file_sha256="0")
    with pytest.raises(ValueError, match="of a file of another hash"):
        kd.cost_table_from(model, good, other)
    with pytest.raises(ValueError, match="`costs` must be positive"):
        kd.cost_table_from(model, good, written(folder, trials, 0 * costs))
    with pytest.raises(ValueError, match="`costs` must differ from trial to trial"):
        kd.cost_table_from(model, good, written(folder, trials, 0 * costs + 1))
    with pytest.raises(ValueError, match=r"`costs` must be of \d+ trials or more"):
        kd.cost_table_from(model, good, written(folder, trials, costs[:2]))
    with pytest.raises(ValueError, match="unit 'joule', none of"):
        kd.cost_table_from(model, good, written(folder, trials, costs, unit="joule"))
    with pytest.raises(FileNotFoundError):
        kd.cost_table_from(model, good, tmp_path / "none.json")
    with pytest.raises(ValueError, match="`trials` must be drawn for a file of this"):
        kd.cost_table_from(conv_net(), good, written(folder, trials, costs))
