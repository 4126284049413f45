import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_dyngate import BatchShaping, BinaryGate, GateSparsity
from keras_dyngate.controllers.binary_gate import binary_concrete, logistic_noise
from tests.backend_utils import gradients
from tests.layer_checks import run_layer_test
from tests.stubs import images, randomize

to_numpy = ops.convert_to_numpy


def test_layer(tmp_path):
    run_layer_test(
        lambda: BinaryGate(
            4,
            hidden=3,
            temperature=0.5,
            bias_initializer=-0.2,
            bn_momentum=0.8,
            bn_epsilon=1e-4,
            noise=0.5,
            regularizers=[BatchShaping(), GateSparsity(0.1)],
            seed=3,
        ),
        (4, 4, 6),
        (4,),
        tmp_path / "gate.keras",
        output_dtype="float32",
    )


def test_the_noise_is_logistic():
    noise = to_numpy(logistic_noise((400, 1000), keras.random.SeedGenerator(1)))
    noise = noise.astype("float64").ravel()
    n = noise.size
    variance = np.pi**2 / 3
    # One-sided Gumbel noise has mean .577 and variance pi^2 / 6.
    assert abs(noise.mean()) < 4 * np.sqrt(variance / n)
    assert abs(noise.var() - variance) < 4 * variance * np.sqrt(3.2 / n)
    assert abs(stats.skew(noise)) < 0.05
    assert stats.kstest(noise, stats.logistic.cdf).statistic < 1.63 / np.sqrt(n)


@pytest.mark.parametrize("temperature", [2 / 3, 0.1])
def test_straight_through_value_is_exact_and_gradient_that_of_the_sigmoid(temperature):
    logits = np.array([-60, -5, -0.3, -1e-6, 0, 1e-6, 0.2, 4, 60], "float32")
    noise = np.array([1, 7, 0.2, 0, 0, 0, -0.5, -3, 2], "float32")
    weights = np.arange(1.0, 10.0, dtype="float32")

    shift = ops.convert_to_tensor(noise)
    value = binary_concrete(ops.convert_to_tensor(logits), temperature, shift)
    np.testing.assert_array_equal(to_numpy(value), logits + noise > 0)

    def weighted(t):
        scores = binary_concrete(t, temperature, shift)
        return ops.sum(scores * ops.convert_to_tensor(weights))

    _, gradient = gradients(weighted, logits)
    s = (logits.astype("float64") + noise) / temperature
    slope = 1 / (1 + np.exp(-s)) / (1 + np.exp(s)) / temperature
    np.testing.assert_allclose(
        gradient / weights, slope, rtol=1e-4, atol=1e-7 / temperature
    )
    assert (gradient[2:-1] > 0).all()


def test_gating_module_by_hand():
    gate = randomize_gate(BinaryGate(3, hidden=5), channels=4)
    x = images(6, 2, 3, 4)
    w = {v.path.split("/", 1)[1]: to_numpy(v).astype("float64") for v in gate.weights}
    hidden = x.astype("float64").mean(axis=(1, 2)) @ w["reduce/kernel"]

    def logits(mean, variance):
        h = (hidden - mean) / np.sqrt(variance + 1e-5)
        h = np.maximum(h * w["norm/gamma"] + w["norm/beta"], 0)
        return h @ w["expand/kernel"] + w["expand/bias"]

    output = gate(x)
    expected = logits(w["norm/moving_mean"], w["norm/moving_variance"])
    np.testing.assert_allclose(to_numpy(output.logit), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(to_numpy(output.score), expected > 0)
    assert 0 < (expected > 0).mean() < 1

    trained = to_numpy(gate(x, training=True).logit)
    expected = logits(hidden.mean(axis=0), hidden.var(axis=0))
    np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-4)


def randomize_gate(gate, channels):
    gate.build((None, 2, 3, channels))
    return randomize(gate)


def test_there_is_no_noise_at_inference():
    gate = BinaryGate(64, hidden=2)
    gate.build((None, 1, 1, 2))
    gate.expand.bias.assign(np.zeros(64))  # at the threshold, any noise would show
    x = np.zeros((50, 1, 1, 2), "float32")
    np.testing.assert_array_equal(to_numpy(gate(x).score), 0)  # not above 0: shut
    state = to_numpy(gate.seed_generator.state)
    x = images(50, 1, 1, 2)
    np.testing.assert_array_equal(
        to_numpy(gate(x).score), to_numpy(gate(x, training=False).score)
    )
    np.testing.assert_array_equal(to_numpy(gate.seed_generator.state), state)
    first, second = (to_numpy(gate(x, training=True).score) for _ in range(2))
    assert 0.3 < (first != second).mean() < 0.7
    assert set(np.unique(first)) == {0.0, 1.0}


@pytest.mark.parametrize("bias", [0.4, -1.5])
def test_in_training_a_gate_opens_with_the_sigmoid_of_its_logit(bias):
    gate = BinaryGate(100, hidden=1, bias_initializer=bias)
    scores = to_numpy(gate(np.zeros((400, 1, 1, 1), "float32"), training=True).score)
    p = 1 / (1 + np.exp(-bias))
    assert abs(scores.mean() - p) < 4 * np.sqrt(p * (1 - p) / scores.size)


def test_by_default_a_gate_opens_with_the_mean_of_the_prior():
    gate = BinaryGate(4)
    gate.build((None, 1, 1, 2))
    p = 1 / (1 + np.exp(-to_numpy(gate.expand.bias)))
    np.testing.assert_allclose(p, stats.beta.mean(0.6, 0.4), atol=0.002)
    assert gate.hidden == 16 and gate.temperature == 2 / 3


def test_a_seed_fixes_the_noise():
    x = np.zeros((20, 1, 1, 1), "float32")

    def draws(seed):
        gate = BinaryGate(8, seed=seed)
        return [to_numpy(gate(x, training=True).score) for _ in range(2)]

    first, second = draws(1)
    again = draws(1)
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])
    assert (first != draws(2)[0]).any() and (first != second).any()


def test_decisions_are_taken_in_float32(dtype_policy):
    """Bfloat16 has 8 bits: computed in it, logits would be off by some 1e-2."""
    x = (images(8, 3, 3, 4) / 255).astype("float32")
    x = to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))  # loses nothing later
    plain = randomize_gate(BinaryGate(6), channels=4)
    dtype_policy("mixed_bfloat16")
    mixed = BinaryGate(6)
    mixed.build((None, 3, 3, 4))
    mixed.set_weights(plain.get_weights())
    score, logit = mixed(x)
    assert keras.backend.standardize_dtype(logit.dtype) == "float32"
    np.testing.assert_allclose(
        to_numpy(logit), to_numpy(plain(x).logit), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(to_numpy(score), to_numpy(plain(x).score))


def test_macs():
    assert BinaryGate(32).count_macs(channels=64) == 16 * 64 + 16 * 32
    assert BinaryGate(3, hidden=5).count_macs(channels=7) == 5 * 7 + 5 * 3


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"units": 0}, "units"),
        ({"units": 2.0}, "units"),
        ({"units": True}, "units"),
        ({"units": 2, "hidden": 0}, "hidden"),
        ({"units": 2, "temperature": 0}, "temperature"),
        ({"units": 2, "temperature": float("nan")}, "temperature"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        BinaryGate(**arguments)


def test_noise_scales_what_training_draws():
    """Without noise a gate trains on the decisions that it makes at inference."""
    x = ops.convert_to_tensor(images(8, 4, 4, 3))
    quiet, loud = (BinaryGate(64, noise=noise, seed=1) for noise in (0.0, 1.0))
    for gate in (quiet, loud):
        gate(x)
    for ours, theirs in zip(loud.weights, quiet.weights, strict=True):
        ours.assign(theirs)
    drawn = [to_numpy(gate(x, training=True).score) for gate in (quiet, quiet, loud)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).mean() > 0.1
    assert BinaryGate.from_config(quiet.get_config()).noise == 0.0
    with pytest.raises(ValueError, match=r"`noise` must not be negative"):
        BinaryGate(4, noise=-1.0)
