"""Gates of a trained net of anybody's spend what they are told to, and it is resumed."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.models.gating.nets import nested, segmenter
from tests.stubs import images

pytestmark = pytest.mark.heavy
to_numpy = keras.ops.convert_to_numpy
X = images(48, 16, 16, 3)
Y = np.arange(48) % 3
PRICE = [kd.GateSparsity(0.0, weighting="macs")]


def spent(model):
    profile = kd.count_macs(model)
    return profile.of(kd.decide(model, X), 16).mean() / profile.total  # as a file does


def test_the_share_is_kept_from_the_first_step(capsys):
    plain = nested(at_rest=False)
    keras.utils.set_random_seed(0)
    model = kd.add_channel_gates(plain, groups=4, regularizers=PRICE)
    assert spent(model) > 0.45
    began = []
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: began.append(spent(model))
    )
    history = kd.train_gates(
        model,
        X,
        Y,
        0.35,
        epochs=3,
        batch_size=8,
        learning_rate=1e-4,
        teacher=plain,
        prime_samples=48,
        callbacks=[look],
    )
    shares = history.history["mac_share"]
    assert len(shares) == 3
    assert 0.2 < began[0] <= 0.35 + 1e-6
    assert max(abs(share - began[0]) for share in [*shares, spent(model)]) < 0.1
    assert capsys.readouterr().out.count("min left") == 3


@pytest.mark.parametrize(
    "prime, end, half_way", [(False, 1.0, 0.75), (False, 0.5, 0.5)]
)
def test_the_budget_falls_for_as_long_as_is_said(prime, end, half_way, monkeypatch):
    made = []

    class Kept(kd.CostBudget):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr("keras_dyngate.training.gate_training.CostBudget", Kept)
    model = kd.add_channel_gates(nested(), groups=4, regularizers=PRICE)
    options = {"epochs": 2, "batch_size": 8, "prime": prime, "verbose": 0}
    kd.train_gates(model, X, Y, 0.5, budget_end=end, **options)
    assert made[0].budget(6) == pytest.approx(half_way)  # of 12 steps
    with pytest.raises(ValueError, match="`budget_end`.*Received: budget_end=2"):
        kd.train_gates(model, X, Y, 0.5, budget_end=2)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow"
)
def test_a_file_spends_what_was_said_also_in_thin_groups(tmp_path):
    layers = keras.layers
    image = keras.Input(X.shape[1:])
    x = layers.ReLU()(layers.Conv2D(16, 3, padding="same")(image))
    x = layers.ReLU()(layers.Conv2D(24, 3, padding="same", name="a")(x))
    x = layers.Conv2D(16, 3, padding="same", name="b")(x)
    x = layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x))
    keras.utils.set_random_seed(0)
    model = kd.add_channel_gates(keras.Model(image, x), "a", regularizers=PRICE)
    options = {"epochs": 3, "batch_size": 16, "prime_samples": 16, "verbose": 0}
    history = kd.train_gates(model, X, Y, 0.5, budget_samples=48, **options)
    kd.export_tflite(model, tmp_path / "net.tflite", parity_data=False)
    found = kd.LiteRTModel(tmp_path / "net.tflite").evaluate(X, Y)
    share = found["mean_executed_macs"] / kd.count_macs(model).total
    assert share == pytest.approx(history.history["mac_share"][-1], abs=0.02)


def test_an_interrupted_training_goes_on(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    options = {
        "epochs": 3,
        "batch_size": 16,
        "prime_samples": 16,
        "verbose": 0,
    }
    ends = []
    for interrupted in (False, True):
        keras.utils.set_random_seed(0)
        model = kd.add_layer_gates(segmenter(), regularizers=PRICE)
        maps = np.broadcast_to(Y[:, None, None], (48, 16, 16))
        path = tmp_path / f"{interrupted}.npz"
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                kd.train_gates(
                    model, X, maps, 0.8, checkpoint=path, callbacks=[Stop()], **options
                )
            keras.utils.set_random_seed(0)
            model = kd.add_layer_gates(segmenter(), regularizers=PRICE)
        kd.train_gates(model, X, maps, 0.8, checkpoint=path, **options)
        ends.append([to_numpy(v) for v in model.weights])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="must have controllers with a `GateSparsity"):
        kd.train_gates(kd.add_channel_gates(nested()), X, Y)
    model = kd.add_channel_gates(nested(), regularizers=PRICE)
    before = [to_numpy(v) for v in model.weights]
    with pytest.raises(ValueError, match="`x` and `y`.*Received: 48 images, 3 labels"):
        kd.train_gates(model, X, Y[:3])
    with pytest.raises(ValueError, match="`share`.*Received: share=1.5"):
        kd.train_gates(model, X, Y, 1.5)
    with pytest.raises(ValueError, match="`teacher` must put out"):
        kd.train_gates(model, X, Y, teacher=segmenter())
    with pytest.raises(ValueError, match="`x` must hold finite numbers"):
        kd.train_gates(model, np.where(X > 250, np.nan, X), Y)
    with pytest.raises(ValueError, match="`y` must hold class indices from 0 to 2"):
        kd.train_gates(model, X, Y + 1)
    with pytest.raises(ValueError, match="`teacher_share`.*teacher_share=2"):
        kd.train_gates(model, X, Y, teacher_share=2)
    with pytest.raises(ValueError, match="`x` must be an array.*Received: a list"):
        kd.train_gates(model, list(X), Y)
    one = keras.Sequential([keras.Input(X.shape[1:]), keras.layers.Flatten()])
    one.add(keras.layers.Dense(1, "sigmoid"))
    with pytest.raises(
        ValueError, match="`model` must put out a score for each of two"
    ):
        kd.train_gates(one, X, Y % 2)
    for variable, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old)
