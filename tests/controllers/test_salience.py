import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate.controllers.salience import relu1
from tests.backend_utils import gradients
from tests.layer_checks import run_layer_test
from tests.stubs import images, randomize

TIMES = np.array([-2.0, -1e-6, 0.0, 1e-6, 0.4, 1.0, 1.0 + 1e-6, 7.0], "float32")


@pytest.mark.parametrize("leak", [0.0, 0.1, 1.0])
def test_relu1(leak):
    """The clip's value exactly, and 1 as the gradient at both of its ends."""
    slopes = [leak, leak, 1, 1, 1, 1, leak, leak]
    np.testing.assert_array_equal(
        ops.convert_to_numpy(relu1(ops.convert_to_tensor(TIMES), leak)),
        np.clip(TIMES, 0, 1),
    )
    _, slope = gradients(lambda t: ops.sum(relu1(t, leak)), TIMES)
    np.testing.assert_array_equal(slope, np.float32(slopes))


def test_against_the_formula():
    x = images(6, 5, 4, 3) / 255
    gate = kd.SalienceController(7)
    gate.build(x.shape)
    randomize(gate)
    pooled = x.astype("float64").mean((1, 2))
    kernel = ops.convert_to_numpy(gate.dense.kernel).astype("float64")
    logits = pooled @ kernel + ops.convert_to_numpy(gate.dense.bias)
    for training in (False, True):
        found = gate(x, training=training)
        np.testing.assert_allclose(
            ops.convert_to_numpy(found.logit), logits, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(found.score),
            np.clip(logits, 0, 1),
            rtol=1e-5,
            atol=1e-6,
        )


def test_starts_at_one_and_counts():
    gate = kd.SalienceController(5)
    score = ops.convert_to_numpy(gate(images(4, 6, 6, 3)).score)
    np.testing.assert_array_equal(score, np.ones((4, 5), "float32"))
    assert gate.count_macs(16) == 80


def test_as_a_layer(tmp_path):
    def make():
        return kd.SalienceController(
            4,
            leak=0.25,
            kernel_initializer="glorot_uniform",
            bias_initializer=0.4,
            regularizers=[kd.GateSparsity(0.1, norm="l1")],
            name="gate",
        )

    run_layer_test(make, (6, 6, 3), (4,), tmp_path / "gate.keras", "float32")


def test_forced():
    """Held open a salience is 1, held shut 0, whatever it says itself."""
    gate = kd.SalienceController(3)
    gate.build((None, 4, 4, 3))
    randomize(gate)
    gate.forced = np.array([True, False, True])
    score = ops.convert_to_numpy(gate(images(5, 4, 4, 3)).score)
    np.testing.assert_array_equal(score, np.tile([1.0, 0.0, 1.0], (5, 1)))


def test_take_units():
    source, target = kd.SalienceController(4), kd.SalienceController(2)
    for gate in (source, target):
        gate.build((None, 4, 4, 3))
    randomize(source)
    target.take_units(source, [3, 1])
    x = images(5, 4, 4, 3)
    np.testing.assert_allclose(
        ops.convert_to_numpy(target(x).logit),
        ops.convert_to_numpy(source(x).logit)[:, [3, 1]],
        rtol=1e-6,
    )
    with pytest.raises(NotImplementedError, match="held_open"):
        target.take_units(source, [0, 1], held_open=[0])


def test_refuses():
    with pytest.raises(ValueError, match="`leak`.*Received"):
        kd.SalienceController(2, leak=1.5)
    with pytest.raises(ValueError, match="`units`.*Received"):
        kd.SalienceController(0)


def test_l1_penalty_and_its_gradient():
    """By hand: mean over samples, sum or mean over units, weighted by MACs or not."""
    penalty = kd.GateSparsity(0.5, norm="l1")
    mean = kd.GateSparsity(0.5, norm="l1", reduction="mean")
    macs = kd.GateSparsity(0.5, norm="l1", weighting="macs")
    logits = np.array([[0.25, 2.0], [-1.0, 0.5]], "float32")
    unit_macs = np.array([1_000_000, 3_000_000])

    def value(item, t):
        output = kd.ControllerOutput(relu1(t), t)
        return float(item(output, unit_macs))

    t = ops.convert_to_tensor(logits)
    assert value(penalty, t) == pytest.approx((0.25 + 1.0 + 0.0 + 0.5) / 2)
    assert value(mean, t) == pytest.approx((0.25 + 1.0 + 0.0 + 0.5) / 4)
    assert value(macs, t) == pytest.approx((0.25 * 1 + (1.0 + 0.5) * 3) / 2)
    _, slope = gradients(
        lambda t: penalty(kd.ControllerOutput(relu1(t, 0.1), t), None), logits
    )
    np.testing.assert_allclose(slope, [[0.5, 0.05], [0.05, 0.5]], rtol=1e-6)


def test_learns_which_images_to_skip():
    """Bright images need the unit, dark ones are charged for it."""
    rng = np.random.default_rng(0)
    bright = rng.uniform(size=64) < 0.5
    x = np.where(bright[:, None, None, None], 1.0, 0.1) * np.ones((64, 4, 4, 1))
    gate = kd.SalienceController(
        1, regularizers=kd.GateSparsity(0.3, norm="l1"), leak=0.1
    )
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, gate(image).score)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, bright.astype("float32"), epochs=40, verbose=0)
    score = model.predict(x, verbose=0)[:, 0]
    assert score[bright].min() > 0.5 and score[~bright].max() == 0.0
