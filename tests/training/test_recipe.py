"""Fine-tuning: it learns, resumes, and refuses what it cannot learn from."""

import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd

layers = keras.layers
Y = np.arange(64) % 2
X = (
    np.random.default_rng(0).normal(0, 20, (64, 8, 8, 3))
    + 100
    + 60 * Y[:, None, None, None]
)


def net(activation="softmax"):
    keras.utils.set_random_seed(0)
    parts = [layers.Rescaling(1 / 100, -1.0), layers.Conv2D(4, 3, activation="relu")]
    parts += [layers.GlobalAveragePooling2D(), layers.Dense(2, activation)]
    return keras.Sequential([keras.Input((8, 8, 3)), *parts])


def pixels():
    parts = [layers.Rescaling(1 / 100, -1.0), layers.Conv2D(2, 3, padding="same")]
    return keras.Sequential([keras.Input((8, 8, 3)), *parts])


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("taught", [False, True])
def test_it_learns(activation, taught):
    model = net(activation)
    teacher = net(activation) if taught else None
    history = kd.fine_tune(
        model, X, Y, epochs=20, batch_size=16, learning_rate=0.02, teacher=teacher,
        teacher_share=0.1, verbose=0,
    ).history  # fmt: skip
    assert history["loss"][-1] < history["loss"][0]
    found = model.predict(X, verbose=0).argmax(-1)
    assert (found == Y).mean() > 0.9


def test_one_hot_and_the_same_again():
    a, b = net(), net()
    kd.fine_tune(a, X, Y, epochs=2, verbose=0)
    kd.fine_tune(b, X, np.eye(2)[Y], epochs=2, verbose=0)
    for ours, theirs in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_it_goes_on_where_it_was_cut_off(tmp_path):
    whole, cut = net(), net()
    kd.fine_tune(whole, X, Y, epochs=4, verbose=0)
    options = {"epochs": 4, "checkpoint": tmp_path / "run.npz", "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        kd.fine_tune(cut, X, Y, callbacks=[Stop()], **options)
    again = net()
    kd.fine_tune(again, X, Y, **options)
    for ours, theirs in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_is_trained_already_is_said_and_other_runs_are_refused(tmp_path, capsys):
    path, model, again = tmp_path / "run.npz", net(), net()
    kd.fine_tune(model, X, Y, epochs=1, checkpoint=path)
    assert "trained already" not in capsys.readouterr().out
    kd.fine_tune(again, X, Y, epochs=1, checkpoint=path)
    assert f"trained already, as {path} has it" in capsys.readouterr().out
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
    for options, name in (
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"augmentation": "strong"}, "augmentation"),
        ({"teacher": model}, "mixtures', 'teacher_share"),
    ):
        with pytest.raises(ValueError, match=f"other settings: .'{name}'"):
            kd.fine_tune(net(), X, Y, epochs=1, checkpoint=path, **options)
    with pytest.raises(ValueError, match="other settings: .'images'"):
        kd.fine_tune(net(), X[:40], Y[:40], epochs=1, checkpoint=path)


def test_exits_are_taught_elsewhere():
    model = net()
    with pytest.raises(ValueError, match="`model.fit_gates.*an EarlyExitModel"):
        kd.fine_tune(kd.add_decision_gates(model, [model.layers[1].name]), X, Y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive"),
        ({"batch_size": 1.5}, "`batch_size` must be a positive"),
        ({"learning_rate": -1}, "`learning_rate` must be"),
        ({"teacher_share": 2}, "`teacher_share` must be"),
        ({"verbose": 3}, "`verbose` must be one of"),
        ({"seed": -1}, "`seed` must be"),
        ({"y": Y[:3]}, "`x` and `y` must be as many"),
        ({"x": [1, 2]}, "`x` must be an array"),
        ({"x": X[:, 1:]}, "`x` must"),
        ({"y": Y + 5}, "class"),
        ({"validation_data": X}, r"`validation_data` must be \(images, labels\)"),
    ],
)
def test_bad_arguments(options, message):
    given = {"x": X, "y": Y, **options}
    with pytest.raises(ValueError, match=message):
        kd.fine_tune(net(), given.pop("x"), given.pop("y"), **given)


def test_mixtures_are_a_teachers_matter(tmp_path):
    """Every other batch, unless another share is asked for; else none."""
    told = net()
    for options, share in (({}, 0.5), ({"mixtures": 0.25}, 0.25), ({"mixtures": 0}, 0)):
        path = tmp_path / f"{share}.npz"
        kd.fine_tune(
            net(), X, Y, epochs=1, teacher=told, checkpoint=path, verbose=0, **options
        )
        with np.load(path) as file:
            settings = json.loads(bytes(file["header"]))["settings"]
        assert settings["mixtures"] == share
    maps = np.zeros((64, 8, 8), int)
    for model, labels, teacher in ((told, Y, None), (pixels(), maps, pixels())):
        with pytest.raises(ValueError, match=r"`mixtures` need a teacher, and images"):
            kd.fine_tune(model, X, labels, teacher=teacher, mixtures=0.5)
    with pytest.raises(ValueError, match=r"`mixtures`"):
        kd.fine_tune(told, X, Y, teacher=told, mixtures=2)
