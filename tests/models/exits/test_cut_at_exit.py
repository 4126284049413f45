"""The static net that ends at an exit."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy


def net():
    keras.utils.set_random_seed(0)
    image = x = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="b")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(5, activation="softmax")(x), name="net")


def first():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, strides=2, activation="relu")(image)
    x = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x, name="small")


def test_each_is_its_exit_alone():
    model = kd.add_decision_gates(
        net(), ["a", "b"], head=["linear", "separable"], first=first(), combine=True
    )
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype("float32")
    said, spent = model(x), 0
    for number, gate in enumerate(model.gates, 1):
        static = kd.cut_at_exit(model, exit=number - 1)
        found = to_numpy(static(x))
        scores = to_numpy(said[gate.name])
        if number == 1:  # its body ends in a softmax
            scores = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-6)
        spent += sum(r.macs for r in model.stage_profiles[number - 1].layers)
        others = sum(
            g.kernel_macs(s.part.output_shape)
            for g, s in zip(model.gates[: number - 1], model.stages, strict=False)
        )
        assert kd.count_macs(static).total == spent - others
        mine = {id(w) for w in static.weights}
        assert mine <= {id(w) for w in model.weights}


@pytest.mark.parametrize("number", [-1, 2, True, None])
def test_refused(number):
    model = kd.add_decision_gates(net(), ["a", "b"])
    with pytest.raises(ValueError, match="`exit` must be from 0 to 1. Received: exit"):
        kd.cut_at_exit(model, exit=number)


def test_the_old_number_counts_from_1():
    model = kd.add_decision_gates(net(), ["a", "b"])
    with pytest.warns(DeprecationWarning, match="is now `exit=`, from 0"):
        old = kd.cut_at_exit(model, 2)
    assert old.name == kd.cut_at_exit(model, exit=1).name
