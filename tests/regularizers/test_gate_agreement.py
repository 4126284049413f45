import keras
import numpy as np
import pytest
from keras import ops

from keras_dyngate import BinaryGate, ControllerOutput, GateAgreement
from tests.backend_utils import gradients
from tests.layer_checks import check_config

T = np.random.default_rng(0).normal(0, 2, (9, 6)).astype("float32")


def output(t):
    t = ops.convert_to_tensor(t)
    return ControllerOutput(ops.cast(t > 0, "float32"), t)


def by_loops(t, size):
    p = 1 / (1 + np.exp(-t.astype("float64")))
    wasted = 0.0
    for row in p:
        for start in range(0, len(row), size):
            group = row[start : start + size]
            wasted += len(group) * max(group) - sum(group)
    return wasted / len(p)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_value(size):
    item = GateAgreement(group_size=size)
    found = float(item(output(T)))
    np.testing.assert_allclose(found, by_loops(T, size), rtol=1e-6, atol=1e-7)
    check_config(item)


def test_nothing_where_groups_agree():
    t = np.repeat(T[:, :3], 2, axis=1)
    assert float(GateAgreement(group_size=2)(output(t))) == 0
    assert float(GateAgreement(group_size=3)(output(t))) > 0.5


def test_the_gradient_draws_a_group_together():
    _, slope = gradients(lambda t: GateAgreement(group_size=3)(output(t)), T)
    highest = T == T.reshape(9, 2, 3).max(axis=2).repeat(3, axis=1)
    assert (slope[highest] > 0).all() and (slope[~highest] < 0).all()


def test_trained_with_it_gates_of_a_group_decide_alike():
    gate = BinaryGate(8, regularizers=GateAgreement(1.0, group_size=4), seed=0)
    x = np.random.default_rng(1).normal(size=(32, 2, 2, 5)).astype("float32")
    image = keras.Input((2, 2, 5))
    net = keras.Model(image, gate(image).score)
    net.compile(keras.optimizers.Adam(0.02), lambda y, score: 0.0 * score)

    def wasted():
        return by_loops(ops.convert_to_numpy(gate(x, training=False).logit), 4)

    before = wasted()
    net.fit(x, np.zeros((32, 8)), epochs=60, batch_size=32, verbose=0)
    assert wasted() < before / 4


def test_bad_arguments():
    with pytest.raises(ValueError, match="`group_size` must be"):
        GateAgreement(group_size=0)
    with pytest.raises(
        ValueError, match="must divide the gates.*group_size=4, 6 gates"
    ):
        GateAgreement(group_size=4)(output(T))
