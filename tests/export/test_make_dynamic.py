"""One call: what is tried, what is chosen, what the sentence says."""

import dataclasses

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("exporting needs TensorFlow", allow_module_level=True)
pytest.importorskip("ai_edge_litert")
pytest.importorskip("scipy")

import keras_dyngate as kd
from keras_dyngate.export.dynamic_result import DynamicResult, Tried
from keras_dyngate.export.dynamic_wish import DynamicWish
from tests.export.nets import only_builtins

layers = keras.layers


def net(flatten=False):
    """Residual, on pictures of 64 pixels, so that all kinds of candidates are tried."""
    keras.utils.set_random_seed(0)
    image = x = keras.Input((96, 96, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(x)
    x = layers.Conv2D(16, 3, strides=4, padding="same", activation="relu")(x)
    for number in (1, 2):
        y = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
        y = layers.Conv2D(16, 3, padding="same", name=f"conv{number}")(y)
        x = layers.Add(name=f"sum{number}")([x, y])
    x = layers.Flatten()(x) if flatten else layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(x), name="net")


def pictures(count, seed):
    """Four colours, easily told apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 4
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [128, 128, 128]])
    x = colours[y][:, None, None] + rng.normal(0, 40, (count, 96, 96, 3))
    return np.clip(x, 0, 255).astype("float32"), y


TRAIN, VALIDATION = pictures(96, 0), pictures(40, 1)


@pytest.fixture(scope="module")
def trained():
    model = net()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(*TRAIN, epochs=6, batch_size=16, verbose=0)
    return model


def small(trained):
    keras.utils.set_random_seed(1)
    image = keras.Input((24, 24, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    top = layers.Dense(4)
    return keras.Model(image, top(layers.GlobalAveragePooling2D()(x)), name="small")


def check(found, path, budget):
    assert found.path == str(path) and found.plain.name == "the plain net"
    assert path.read_bytes() == found.best.content
    assert only_builtins(path.read_bytes())
    assert str(found.budget) == budget
    text = str(found)
    for tried in found.tried:
        assert tried.name in text and tried.ms > 0 and tried.macs > 0
        assert 0 <= tried.accuracy <= 1 and tried.bytes > 0
    assert found.sentence in text
    # The file is what the row says.
    right = kd.LiteRTModel(path).evaluate(*VALIDATION)["accuracy"]
    assert abs(right - found.best.accuracy) <= 1 / len(VALIDATION[1]) + 1e-9


@pytest.mark.heavy
def test_everything_is_tried(trained, tmp_path):
    before = trained.get_weights()
    path = tmp_path / "net.tflite"
    options = {
        "first": small(trained),
        "exits": ["sum1"],
        "epochs": 1,
        "exit_epochs": 2,
        "joint_epochs": 1,
        "path": path,
        "labels": ["red", "green", "blue", "grey"],
        "checkpoint": tmp_path / "taught",
        "verbose": 0,
    }
    found = kd.make_dynamic(trained, TRAIN, VALIDATION, "macs:0.7x", **options)
    check(found, path, "macs:0.7x")
    names = [net.name for net in found.tried]
    assert names == [
        "the plain net",
        "the plain net in 8 bits",
        "exits",
        "the first net alone",
        "the plain net taught with its exits",
        "layer gates",
        "exits and layer gates",
        "the plain net at 80 pixels",
    ]
    by_name = dict(zip(names, found.tried, strict=True))
    plain = by_name["the plain net"]
    for name in names:
        row = by_name[name]
        assert row.dynamic == ("gates" in name or name == "exits")
        assert row.kept == (row.macs <= 1.02 * 0.7 * plain.macs)
    assert found.kept and found.best.accuracy == max(
        row.accuracy for row in found.tried if row.kept
    )
    assert found.table.unit == "ms" and found.table.measured.trials == 150
    for ours, theirs in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # What was taught is kept: the same call goes on from there.
    again = kd.make_dynamic(trained, TRAIN, VALIDATION, "macs:0.7x", **options)
    for a, b in zip(found.tried, again.tried, strict=True):
        assert a.name == b.name and a.accuracy == b.accuracy


@pytest.mark.heavy
def test_time_for_an_accuracy(trained, tmp_path, quantization="int8"):
    path = tmp_path / "net.tflite"
    found = kd.make_dynamic(
        trained,
        TRAIN,
        VALIDATION,
        "accuracy:-10",
        quantization=quantization,
        first=None,
        gates="channels",
        epochs=1,
        exit_epochs=1,
        joint_epochs=0,
        path=path,
        verbose=0,
    )
    check(found, path, "accuracy:-10")
    assert "taught with its exits" not in str(found)
    kept = [row for row in found.tried if row.accuracy >= found.plain.accuracy - 0.1]
    assert {row.name for row in kept} == {row.name for row in found.tried if row.kept}
    assert found.best.ms <= 1.02 * min(row.ms for row in kept)
    assert "channel gates" in {row.name for row in found.tried}
    assert {row.quantization for row in found.tried} >= {quantization}


def test_what_cannot_be_done_is_said(tmp_path):
    """A net made for one size, without a branch: the rest is tried."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="one")(image)
    x = layers.Flatten()(layers.Conv2D(4, 3, strides=4, name="two")(x))
    model = keras.Model(image, layers.Dense(4)(x))
    x, y = np.random.default_rng(0).uniform(0, 255, (24, 16, 16, 3)), np.arange(24) % 4
    found = kd.make_dynamic(
        model,
        (x, y),
        (x, y),
        "macs:0.05x",
        first=None,
        epochs=1,
        exit_epochs=1,
        joint_epochs=1,
        path=tmp_path / "net.tflite",
        verbose=0,
    )
    text = str(found)
    assert not found.kept and "Nothing that was tried keeps to the budget" in text
    assert "not tried: channel gates: with all shut" in text
    assert "lower resolution" in text


def row(name, accuracy, ms, macs, dynamic):
    return Tried(name, dynamic, None, "int8", b"x" * 9, accuracy, ms, macs)


def result(rows, budget=None, drop=None):
    wish = DynamicWish.of(budget, drop)
    rows = [dataclasses.replace(r, kept=wish.keeps(r, rows[0])) for r in rows]
    kept = [r for r in rows if r.kept]
    found = DynamicResult(
        None, "net.tflite", "", tuple(rows), wish.budget, wish.drop, None, None, (), 1.0
    )
    best = found.nearest(kept or rows)
    return dataclasses.replace(found, answer=best.name)


ROWS = [
    row("the plain net", 0.80, 10.0, 100, False),
    row("exits", 0.79, 6.0, 50, True),
    row("layer gates", 0.81, 8.0, 70, True),
    row("the plain net at 128 pixels", 0.78, 6.5, 64, False),
]


@pytest.mark.parametrize(
    ("budget", "drop", "answer", "words"),
    [
        ("latency:0.7x", None, "exits", "It pays: exits, 6.00 ms a picture, 0.60 of"),
        ("latency:8.0ms", None, "layer gates", "best static net, the plain net at 128"),
        ("macs:0.65x", None, "exits", "pixels, takes 6.50 ms at 78.0%"),
        (None, 0.0, "layer gates", "The best static net, the plain net, takes 10.00"),
        ("accuracy:-1.5", None, "exits", "It pays"),
        ("latency:0.55x", None, "exits", "Nothing that was tried keeps to the budget"),
        ("latency:0.7x", 0.005, "layer gates", "and an accuracy drop of 0.5%"),
    ],
)
def test_sentences(budget, drop, answer, words):
    found = result(ROWS, budget, drop)
    if words.startswith(("Nothing", "and")):
        assert not found.kept and words in found.sentence
        return
    assert found.answer == answer and words in found.sentence and found.pays


def test_where_it_does_not_pay():
    rows = [*ROWS, row("the first net alone", 0.82, 5.0, 20, False)]
    found = result(rows, "latency:0.7x")
    assert not found.pays and found.sentence.startswith(
        "It does not pay here: the first net alone is the better choice, 5.00 ms"
    )
    assert "The best dynamic net, exits, takes 6.00 ms at 79.0%" in found.sentence


def test_an_answer_that_a_static_net_beats_does_not_pay():
    """It keeps to a budget of MACs, which the net in 8 bits does not, being faster."""
    rows = [ROWS[0], row("exits", 0.60, 7.0, 60, True)]
    rows.append(row("the plain net in 8 bits", 0.79, 3.0, 100, False))
    found = result(rows, "macs:0.7x")
    assert found.answer == "exits" and found.kept and not found.pays
    assert found.better.name == "the plain net in 8 bits"
    assert found.sentence.startswith("It does not pay here: exits keeps to the budget")
    assert "the plain net in 8 bits, in int8, takes 3.00 ms at 79.0%" in (
        found.sentence
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "cheap"}, "`budget` must be like"),
        ({"budget": "instructions:0.5x"}, "`budget` must be of latency, MACs or acc"),
        ({"budget": "accuracy:-1", "max_accuracy_drop": 0.1}, "said by the budget"),
        ({"max_accuracy_drop": 2.0}, "`max_accuracy_drop` must be"),
        ({"gates": "some"}, "`gates` must be one of"),
        ({"quantization": "int7"}, "`quantization` must be one of"),
        ({"epochs": 0}, "`epochs` must be a positive"),
        ({"joint_epochs": -1}, "`joint_epochs` must be an integer from 0"),
        ({"labels": ["one"]}, "`labels` must"),
        ({"exits": ["none"], "first": None}, "`exits`"),
        ({"validation": (np.ones((0, 96, 96, 3)), [])}, "`validation` must hold"),
        ({"validation": np.ones((2, 96, 96, 3))}, "`validation` must have labels"),
        ({"train": (np.ones((2, 9, 9, 3)), [0, 1])}, "`train` must hold images"),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    given = {"train": TRAIN, "validation": VALIDATION, "verbose": 0, **options}
    with pytest.raises(ValueError, match=message):
        kd.make_dynamic(net(), path=tmp_path / "net.tflite", **given)
    assert not (tmp_path / "net.tflite").exists()
