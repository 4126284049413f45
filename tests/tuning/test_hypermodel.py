"""Nets of a search: refused, taught under the budget, judged, kept, gone on with."""

import dataclasses

import keras
import keras_tuner as kt
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.callbacks import TrainingCheckpoint
from keras_dyngate.tuning import plain_nets, teaching
from keras_dyngate.tuning.place_features import PlaceFeatures
from keras_dyngate.tuning.results import read_result
from keras_dyngate.tuning.search import refusals
from tests.stubs import outputs
from tests.tuning.nets import net, pictures

layers = keras.layers
TRAIN, VALIDATION = pictures(32), pictures(18, seed=1)
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)


def hypermodel(budget="macs:0.6x", plain=None, **options):
    options = {"epochs": 1, "exit_epochs": 1, **options}
    return kd.DynamicHyperModel(plain or net(), TRAIN, VALIDATION, budget, **options)


def values(model, **more):
    hp = kt.HyperParameters()
    model.declare(hp)
    hp.values |= more
    return hp


def ms_of(model):
    """A table in ms, as if each million MACs took one."""
    counted = kd.count_macs(model)
    rows = (dataclasses.replace(row, cost=row.cost / 1e6) for row in counted.rows)
    return dataclasses.replace(counted, rows=tuple(rows), unit="ms")


# ## Before anything is trained


def test_what_cannot_keep_to_the_budget_is_refused_untrained(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching.Teaching, "teach", None)
    model = hypermodel("macs:0.25x", search=["channels", "layers"])
    with pytest.raises(kt.errors.FailedTrialError, match=r"cannot be kept.*0\.\d+x of"):
        model.build(values(model, channels=0.0, layers=1.0))
    with pytest.raises(kt.errors.FailedTrialError, match=r"1\.000x of the plain net"):
        model.build(values(model, channels=0.0))
    assert model.build(values(model)).name == "tiny"
    start = [{"channels": 0.0}]
    with pytest.raises(RuntimeError, match="three trials in a row crashed"):
        kd.search_gates(model, directory=tmp_path, start=start, max_trials=5)
    assert "1.000x of the plain net" in refusals(tmp_path / "search")["0000"]


def test_an_impossible_budget_is_refused_at_the_door(tmp_path):
    with pytest.raises(ValueError, match=r"everything shut.*x of the plain net"):
        kd.search_gates(hypermodel("macs:0.01x"), directory=tmp_path)
    assert not list(tmp_path.glob("search/trial_*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "accuracy:-1.0"}, "`budget` must be of a cost"),
        ({"budget": "macs"}, "`budget` must be like"),
        ({"budget": "latency:0.7x"}, "`table` must be of the budget's unit, ms"),
        ({"table": "measure"}, "`table` must be of the budget's unit, MACs"),
        (
            {"budget": "latency:0.7x", "table": "a"},
            "`table` must be None, 'measure' or",
        ),
        ({"search": ()}, "`search` must be some of"),
        ({"search": ["heads"]}, "`search` must be some of"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"exit_epochs": 0}, "`exit_epochs` must be a positive integer"),
        ({"refuse": 1}, "`refuse` must be True or False"),
        ({"export": 1}, "`export` must be True or False"),
        ({"net_epochs": -1}, "`net_epochs` must be an integer from 0"),
        ({"plain": 3}, "`net` must be a built keras.Model, or a function"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        hypermodel(**options)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (TRAIN[0], "`train` must be two arrays"),
        ((TRAIN[0], [0, 1]), "`train` must be two arrays"),
        ((TRAIN[0], TRAIN[1][:3]), "a label for each image"),
        ((TRAIN[0][:, :4], TRAIN[1]), "`train`"),
        ((TRAIN[0] * np.nan, TRAIN[1]), "`train`"),
        ((TRAIN[0], TRAIN[1] + 1), "class"),
    ],
)
def test_bad_data(train, message):
    with pytest.raises(ValueError, match=message):
        kd.DynamicHyperModel(net(), train, VALIDATION, "macs:0.6x")


def test_a_net_that_is_no_classifier_of_classes():
    image = keras.Input((8, 8, 3))
    maps = keras.Model(image, layers.Conv2D(3, 3)(image))
    with pytest.raises(ValueError, match=r"of shape \[batch, classes\]"):
        hypermodel(plain=maps)
    with pytest.raises(ValueError, match="`budget` must be an amount"):
        hypermodel("latency:0.7x", lambda hp: net(), table=ms_of)
    if keras.backend.backend() != "tensorflow":
        with pytest.raises(RuntimeError, match="needs Keras on TensorFlow"):
            hypermodel("latency:0.7x", table="measure")


# ## One trial


@pytest.mark.heavy
@pytest.mark.parametrize("table", [None, ms_of])
def test_gates_and_exits_are_taught_and_judged(table, tmp_path):
    plain = net()
    before = [w.copy() for w in plain.get_weights()]
    budget = "macs:0.7x" if table is None else "latency:0.7x"
    model = hypermodel(budget, plain, table=table, epochs=2)
    start = [{"exits": 1, "exit_1": model.space.places[1], "head": "linear"}]
    front = kd.search_gates(model, directory=tmp_path, start=start, max_trials=1)
    (point,) = front.tried
    assert point.values["exits"] == 1 and point.values["by_gates"] == 0.6
    found = front.model(point)
    x, y = VALIDATION
    # The file says what was judged.
    counted, decisions = kd.count_macs(found), kd.decide(found, x)
    sizes = {f"{b.name}/channel": 16 for b in found.trunk.layers if "gated" in b.name}
    macs = counted.of(decisions, sizes).mean()
    np.testing.assert_allclose(point.macs, macs, rtol=1e-6)
    assert point.ms == (None if table is None else pytest.approx(macs / 1e6))
    np.testing.assert_allclose(point.share, macs / counted.total, rtol=1e-6)
    assert point.accuracy == np.mean(found.predict(x, verbose=0)["label"] == y)
    assert point.kept == (point.share <= 0.7 * 1.02)
    metrics = read_result(tmp_path / "search" / "trial_0000").metrics
    over = 0 if point.kept else point.share / 0.7 - 1
    assert metrics["objective"] == pytest.approx(point.accuracy - over)
    assert metrics["steps"] == 2  # of 32 pictures; a linear gate takes none
    assert not list((tmp_path / "search" / "trial_0000").glob("*.npz"))
    # The net that was given is as it was.
    for ours, theirs in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.heavy
def test_a_budget_in_another_unit_and_its_tables(tmp_path):
    asked = []

    def table(model):
        asked.append(model)
        return ms_of(model)

    model = hypermodel("latency:0.7x", table=table, search=["channels"])
    front = kd.search_gates(model, directory=tmp_path, max_trials=1)
    (point,) = front.tried
    assert point.values["channels"] == 1.0
    assert point.ms == pytest.approx(point.macs / 1e6) and front.known[0] == "ms"
    assert len(asked) == 2  # of the cheapest choice, and of the trial's
    assert len(list((tmp_path / "search" / "tables").iterdir())) == 2
    again = hypermodel("latency:0.7x", table=table, search=["channels"])
    again.prepare(tmp_path / "search")
    again.build(values(again))
    assert len(asked) == 2  # they were read


@pytest.mark.heavy
@tensorflow_only
def test_measured_here_and_exported(tmp_path):
    model = hypermodel(
        "latency:0.95x", table="measure", search=["layers"], export=True, epochs=1
    )
    (point,) = kd.search_gates(model, directory=tmp_path, max_trials=1).tried
    assert point.ms > 0 and point.macs > 0
    file = tmp_path / "search" / "trial_0000" / "model.tflite"
    assert point.bytes == file.stat().st_size


@pytest.mark.heavy
def test_what_is_not_refused_spends_the_least_it_can():
    model = hypermodel("macs:0.1x", search=["layers"], refuse=False)
    hp = values(model)
    built = model.build(hp)
    found = model.fit(hp, built)
    assert found["kept"] == 0 and found["val_cost"] > 0.1
    excess = found["val_cost"] / 0.1 - 1
    assert found["objective"] == pytest.approx(found["val_accuracy"] - excess)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")
def test_a_tuner_of_keras_tuner_s_own_takes_it(tmp_path):
    model = hypermodel("macs:1.0x", search=["layers"])  # also without gates
    tuner = kt.RandomSearch(
        model, kt.Objective("objective", "max"), 1, directory=tmp_path
    )
    tuner.search(verbose=0)
    (trial,) = tuner.oracle.get_best_trials()
    assert trial.metrics.get_last_value("val_cost") <= 1.02  # counts as kept
    taught, found = model.make({"layers": 1.0}, epochs=2)
    assert found["steps"] == 2 and taught.name == "tiny"
    with pytest.raises(
        ValueError, match=r"`values` must be of \['layers'.*Received: 'chains'"
    ):
        model.make({"chains": 1.0})


# ## Exits alone


def test_features_are_those_of_the_trunk_and_kept(tmp_path):
    plain = net()
    place = kd.cut_points(plain)[-1].layer
    kept = PlaceFeatures(plain, TRAIN[0], tmp_path)
    features = kept.at(place)
    assert features.dtype == "float16" and len(features) == 32
    stage = kd.add_decision_gates(plain, [place]).stages[0].part
    np.testing.assert_allclose(features, outputs(stage, TRAIN[0]), rtol=2e-3, atol=1e-3)
    scores = np.exp(kept.scores().astype("float64"))
    probabilities = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, outputs(plain, TRAIN[0]), atol=3e-3)
    assert len(list((tmp_path / "features").iterdir())) == 2
    again = PlaceFeatures(plain, TRAIN[0][:0], tmp_path)  # they are read
    np.testing.assert_array_equal(again.at(place), features)
    np.testing.assert_array_equal(PlaceFeatures(plain, TRAIN[0]).at(place), features)


@pytest.mark.heavy
@pytest.mark.parametrize("head", ["linear", "conv", "separable"])
def test_exits_share_the_trunk_s_features(head, tmp_path, monkeypatch):
    passes = []
    real = PlaceFeatures._passes

    def counted(self, part):
        passes.append(part.name)
        return real(self, part)

    monkeypatch.setattr(PlaceFeatures, "_passes", counted)
    plain = net()
    model = hypermodel("macs:0.9x", plain, search=["exits"], exit_epochs=12)
    place = model.space.places[-1]
    start = [
        {"exits": 1, "exit_1": place, "head": head},
        {"exits": 2, "exit_1": place, "exit_2": model.space.places[0], "head": head},
    ]
    front = kd.search_gates(model, directory=tmp_path, start=start, max_trials=2)
    assert len(front.tried) == 2
    # Once for each place, and for the teacher's scores where heads have a teacher.
    assert len(passes) == (2 if head == "linear" else 3)
    found = front.model("0000")
    said = found.exit_table(*VALIDATION)
    head_right = said.plain_correct.mean()
    assert said.correct[:, 0].mean() >= (head_right if head == "linear" else 0.3)
    for point in front.tried:
        assert point.share <= 0.9


# ## Nets that a function makes


@pytest.mark.heavy
def test_depth_and_width_are_searched_too(tmp_path, monkeypatch):
    taught = []
    real = plain_nets._teach
    monkeypatch.setattr(
        plain_nets, "_teach", lambda *args: taught.append(args[0].name) or real(*args)
    )

    def make(hp):
        width = hp.Choice("width", [16, 8])
        return net(width, name=f"net{width}")

    options = {"search": ["layers"], "net_epochs": 1, "epochs": 1}
    model = hypermodel("macs:0.55x", make, **options)
    start = [{}, {"net/width": 8}, {"net/width": 8, "layers": 0.0}]
    front = kd.search_gates(model, directory=tmp_path, start=start, max_trials=3)
    whole = kd.count_macs(net(16)).total
    by_name = {point.name: point for point in front.tried}
    assert taught == ["net16", "net8"]
    for point in front.tried:
        np.testing.assert_allclose(point.share, point.macs / whole, rtol=1e-6)
    # A narrow net without gates is a rival: its cost is under the budget.
    narrow = by_name["0002"]
    assert narrow.share == kd.count_macs(net(8)).total / whole <= 0.55
    assert not any("gated" in layer.name for layer in front.model(narrow).layers)
    with pytest.raises(kt.errors.FailedTrialError, match="macs:0.55x of the net that"):
        model.build(values(model, **{"net/width": 16, "layers": 0.0}))
    # Taught nets are kept for a search that goes on.
    again = hypermodel("macs:0.55x", make, **options)
    again.prepare(tmp_path / "search")
    weights = again.nets.taught(
        values(again, **{"net/width": 8}), *again.train, 0
    ).get_weights()
    assert taught == ["net16", "net8"]
    for ours, theirs in zip(front.model(narrow).get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ## Cut off inside a trial


class Killed(BaseException):
    """What no `except Exception` holds up, like the end of a process."""


@pytest.mark.heavy
def test_a_trial_goes_on_from_its_last_epoch(tmp_path, monkeypatch):
    options = {"search": ["channels", "layers", "exits"], "epochs": 3}
    epochs = []
    real = TrainingCheckpoint.on_epoch_end

    def ended(self, epoch, logs=None):
        real(self, epoch, logs)
        epochs.append(epoch)
        if len(epochs) == 2:
            raise Killed

    monkeypatch.setattr(TrainingCheckpoint, "on_epoch_end", ended)
    with pytest.raises(Killed):
        kd.search_gates(hypermodel(**options), directory=tmp_path, max_trials=1)
    assert (tmp_path / "search" / "trial_0000" / "gates.npz").exists()
    front = kd.search_gates(hypermodel(**options), directory=tmp_path, max_trials=1)
    assert epochs == [0, 1, 2]
    assert [point.name for point in front.tried] == ["0000"]
