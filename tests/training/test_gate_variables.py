"""What learns and what decays, by what a step of training changes."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.models.gating.nets import mobile, pictures
from tests.stubs import randomize

to_numpy = keras.ops.convert_to_numpy


def gated():
    model = kd.add_layer_gates(kd.add_channel_gates(mobile()))
    randomize(model, 3)
    return model


def owners(model):
    """Which of the variables are the gates', by hand: their layers are named so."""
    paths = [v.path for v in model.trainable_variables]
    return {path for path in paths if "binary_gate" in path}


def changed(model, optimizer, epochs=1):
    before = {v.path: to_numpy(v) for v in model.variables}
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(pictures(), np.arange(6) % 5, epochs=epochs, verbose=0)
    return {v.path for v in model.variables if (to_numpy(v) != before[v.path]).any()}


def test_gate_variables_are_those_of_all_controllers():
    model = gated()
    found = kd.gate_variables(model)
    assert {v.path for v in found} == owners(model) and found
    assert len({id(v) for v in found}) == len(found)
    assert kd.gate_variables(mobile()) == []


def test_gates_do_not_decay():
    model = gated()
    optimizer = keras.optimizers.SGD(0.0, weight_decay=0.5)
    assert kd.without_gate_decay(optimizer, model) is optimizer
    optimizer.learning_rate = 0.1
    before = {v.path: to_numpy(v) for v in model.trainable_variables}
    optimizer.build(model.trainable_variables)
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply(zeros)
    for variable in model.trainable_variables:
        old = before[variable.path]
        factor = 1.0 if variable.path in owners(model) else 0.95
        np.testing.assert_allclose(to_numpy(variable), old * factor, rtol=1e-5)
    with pytest.raises(ValueError, match="`optimizer` must be a new one"):
        kd.without_gate_decay(optimizer, model)


def test_the_trunk_is_frozen_and_thaws():
    model = gated()
    gates = owners(model)
    everything = [v.path for v in model.trainable_variables]
    assert kd.freeze_trunk(model) is model
    assert {v.path for v in model.trainable_variables} == gates
    moved = changed(model, keras.optimizers.SGD(0.1))
    assert moved and all("binary_gate" in path or "seed" in path for path in moved)
    kd.freeze_trunk(model, frozen=False)
    assert [v.path for v in model.trainable_variables] == everything
    with pytest.raises(ValueError, match="`model` must have gates"):
        kd.freeze_trunk(mobile())


def test_no_model():
    with pytest.raises(ValueError, match="`model` must be a built keras.Model. Rec"):
        kd.freeze_trunk(None)
    with pytest.raises(ValueError, match="`source` must be a built keras.Model. Rec"):
        kd.load_trunk_weights(mobile(), None)
