"""Whole nets one after the other: the same answers and MACs as the nets have alone."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits.cascading import at_input
from tests.stubs import images

layers = keras.layers
X = images(12, 16, 16, 3)


def net(size, width, classes=4, channels=3):
    image = keras.Input((size, size, channels))
    x = layers.Conv2D(width, 3, 2, activation="relu")(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x))


def test_each_answers_alone_for_those_before_it():
    nets = [net(8, 3), net(16, 4), net(16, 32)]
    model = kd.cascade(nets, combine=False)
    assert [gate.name for gate in model.gates] == ["net_1", "net_2"]
    assert model.trunk is not nets[2] and model.trunk.name == nets[2].name
    small = layers.Resizing(8, 8)(X)
    answers = [
        keras.ops.convert_to_numpy(each(x)).argmax(-1)
        for each, x in zip(nets, (small, X, X), strict=True)
    ]
    macs = np.cumsum([kd.count_macs(each).total for each in nets])
    for exit_, thresholds in enumerate(([0.0, 0.0], [2.0, 0.0], [2.0, 2.0])):
        found = model.predict(X, thresholds=thresholds, verbose=0)
        assert (found["exit"] == exit_).all() and (found["macs"] == macs[exit_]).all()
        np.testing.assert_array_equal(found["label"], answers[exit_])


def test_two_nets_share_a_place_for_nobody():
    """One net before another: the trunk stays as it is."""
    first, last = net(16, 3), net(16, 8)
    model = kd.cascade([first, last], name="both")
    assert model.trunk is last and model.after == ("input",) and model.combine
    assert model.name == "both"
    assert at_input(last, 1) == (last, ["input"])
    assert at_input(last, 3)[1] == ["input", "again_1", "again_2"]


def test_saved_and_calibrated(tmp_path):
    model = kd.cascade([net(8, 3), net(16, 4), net(16, 8)])
    model.calibrate(X, np.arange(12) % 4, accuracy_drop=0.5)
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "cascade.keras")
    read = keras.models.load_model(tmp_path / "cascade.keras")
    for name, values in read.predict(X, verbose=0).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize(
    ("combine", "shared", "different"),
    [(True, None, 1), (True, False, 2), (False, None, 2), (False, True, 1)],
)
def test_one_threshold_where_answers_combine(combine, shared, different):
    model = kd.cascade([net(8, 3), net(16, 4), net(16, 8)], combine=combine)
    y = np.arange(12) % 4
    found = model.calibrate(X, y, accuracy_drop=0.2, shared=shared)
    assert len(set(found.thresholds)) == different
    assert found.accuracy >= found.head_accuracy - 0.2 - 1e-9
    np.testing.assert_array_equal(model.thresholds, found.thresholds)


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        (lambda a: a, "`nets` must be two or more .* Received: nets=<Functional"),
        (lambda a: [a], "`nets` must be two or more"),
        (lambda a: [a, a], "each once"),
        (lambda a: [net(8, 3, classes=5), a], "`nets` must tell the trunk's 4 classes"),
        (lambda a: ["small", a], "`nets` must be a functional .* output, built. Rece"),
        (
            lambda a: [net(8, 3, channels=1), a],
            "`nets` must take inputs of the trunk's",
        ),
        (lambda a: [a, "large"], "`model` must be a keras.Model. Received: model='la"),
        (
            lambda a: [net(8, 3), kd.cascade([net(8, 3), a])],
            "`nets` must be without exits",
        ),
    ],
)
def test_refused(nets, message):
    with pytest.raises(ValueError, match=message):
        kd.cascade(nets(net(16, 4)))
