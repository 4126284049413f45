import keras
import numpy as np
import pytest
from keras import ops

from keras_dyngate import BatchShaping, BinaryGate, GateSparsity, LinearSchedule
from keras_dyngate import controllers as controllers_module
from tests import reference
from tests.stubs import MeanController, images

to_numpy = ops.convert_to_numpy


def logits_of(controller, x):
    means = x.astype("float64").mean(axis=(1, 2))
    return means @ to_numpy(controller.kernel)


def make(regularizers, batch):
    controller = MeanController(6, regularizers=regularizers)
    x = images(batch, 2, 2, 5, seed=batch) / 255 - 0.3
    controller.build(x.shape)
    return controller, x


@pytest.mark.parametrize("batch", [4, 32])
def test_penalties_are_added_in_training_only_and_as_they_are(batch):
    """Not by the batch size: Keras's activity regularizers are divided by it."""
    controller, x = make([BatchShaping(), GateSparsity(0.1)], batch)
    controller(x)
    assert controller.losses == []
    controller(x, training=True)
    t = logits_of(controller, x)
    shaping = reference.batch_shaping(t).sum() / batch
    sparsity = (1 / (1 + np.exp(-t))).mean(axis=0).sum()
    np.testing.assert_allclose(
        [to_numpy(loss) for loss in controller.losses],
        [0.75 * shaping, 0.1 * sparsity],
        rtol=1e-5,
    )


def test_penalties_reach_the_loss_of_fit():
    controller, x = make([BatchShaping(), GateSparsity(0.1)], 8)
    image = keras.Input(x.shape[1:])
    model = keras.Model(image, controller(image).score)
    model.compile(keras.optimizers.SGD(0.0), loss=None)
    t = logits_of(controller, x)
    expected = 0.75 * reference.batch_shaping(t).sum() / 8
    expected += 0.1 * (1 / (1 + np.exp(-t))).mean(axis=0).sum()
    history = model.fit(x, batch_size=8, epochs=1, verbose=0)
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-5)

    # The coefficients are variables: no new trace is needed for another value.
    controller.coefficients[0].assign(0.0)
    controller.coefficients[1].assign(3.0)
    expected = 3.0 * (1 / (1 + np.exp(-t))).mean(axis=0).sum()
    history = model.fit(x, batch_size=8, epochs=1, verbose=0)
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-5)


def test_coefficients_start_at_their_schedule_and_are_not_trained():
    controller, _ = make(
        [BatchShaping(coefficient=LinearSchedule(0.75, 0.0)), GateSparsity(0.5)], 2
    )
    assert [float(c.value) for c in controller.coefficients] == [0.75, 0.5]
    assert len(controller.trainable_variables) == 1


def test_state_of_noise_and_coefficients_is_in_the_file(tmp_path):
    image = keras.Input((2, 2, 5))
    gate = BinaryGate(6, regularizers=[GateSparsity(0.1)], seed=5)
    model = keras.Model(image, gate(image).score)
    x = images(8, 2, 2, 5)
    gate(x, training=True)
    gate.coefficients[0].assign(0.03)
    model.save(tmp_path / "net.keras")

    loaded = keras.saving.load_model(tmp_path / "net.keras")
    again = next(layer for layer in loaded.layers if isinstance(layer, BinaryGate))
    assert float(again.coefficients[0].value) == np.float32(0.03)
    np.testing.assert_array_equal(
        to_numpy(again.seed_generator.state), to_numpy(gate.seed_generator.state)
    )
    fresh = BinaryGate(6, seed=5)
    fresh.build((None, 2, 2, 5))
    fresh.set_weights(gate.get_weights()[1:])
    expected = to_numpy(gate(x, training=True).score)
    np.testing.assert_array_equal(to_numpy(again(x, training=True).score), expected)
    assert (to_numpy(fresh(x, training=True).score) != expected).any()


def test_nets_with_and_without_regularizers_share_files(tmp_path):
    def model(regularizers):
        image = keras.Input((2, 2, 5))
        gate = BinaryGate(6, regularizers=regularizers, name="gate")
        return keras.Model(image, gate(image).logit), gate

    full, gate = model([BatchShaping(), GateSparsity(0.1)])
    gate.coefficients[1].assign(0.03)
    bare, _ = model(None)
    other, other_gate = model([GateSparsity(0.5)])
    x = images(4, 2, 2, 5)
    expected = full.predict(x, verbose=0)
    full.save_weights(tmp_path / "full.weights.h5")
    for target in (bare, other):
        target.load_weights(tmp_path / "full.weights.h5")
        np.testing.assert_array_equal(target.predict(x, verbose=0), expected)
    assert float(other_gate.coefficients[0].value) == np.float32(0.03)  # by name
    bare.save_weights(tmp_path / "bare.weights.h5")
    full.load_weights(tmp_path / "bare.weights.h5")
    assert float(gate.coefficients[1].value) == np.float32(0.03)  # left alone


def test_each_controller_has_its_own_regularizers():
    shared = GateSparsity(0.1)
    one, two = (BinaryGate(2, regularizers=shared) for _ in range(2))
    assert one.regularizers[0] is not shared
    assert one.regularizers[0] is not two.regularizers[0]


def test_symbolic_and_real_output_agree():
    gate = BinaryGate(3)
    symbolic = gate(keras.Input((2, 2, 4)))
    real = gate(images(2, 2, 2, 4))
    for part in ("score", "logit"):
        assert tuple(getattr(symbolic, part).shape) == (None, 3)
        assert tuple(getattr(real, part).shape) == (2, 3)
        assert getattr(symbolic, part).dtype == "float32"


class TestGet:
    def test_none_and_instances_pass(self):
        gate = BinaryGate(2)
        assert controllers_module.get(None) is None
        assert controllers_module.get(gate) is gate

    @pytest.mark.parametrize("name", ["binary", "binary_gate"])
    def test_name(self, name):
        gate = controllers_module.get(name, 3)
        assert type(gate) is BinaryGate and gate.units == 3

    def test_callable(self):
        gate = controllers_module.get(lambda units: BinaryGate(units, hidden=4), 3)
        assert (gate.units, gate.hidden) == (3, 4)

    def test_config(self):
        config = keras.saving.serialize_keras_object(BinaryGate(5, hidden=4))
        assert controllers_module.get(config).get_config()["hidden"] == 4

    @pytest.mark.parametrize("bad", ["gumbel", 3, keras.layers.Dense, ["binary"]])
    def test_others_are_refused(self, bad):
        with pytest.raises(ValueError, match="A gate must be None.*Received: "):
            controllers_module.get(bad, 3)
