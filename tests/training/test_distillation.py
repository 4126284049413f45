"""The loss by hand, and what a teacher teaches."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import keras_dyngate as kd
from tests.stubs import randomize

to_numpy = keras.ops.convert_to_numpy
X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3


def net(seed, activation="softmax", penalty=None):
    top = keras.layers.Dense(3, activation, kernel_regularizer=penalty)
    return randomize(keras.Sequential([keras.Input((4,)), top]), seed)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("share, temperature", [(0.0, 1.0), (0.3, 1.0), (0.7, 4.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_by_hand(share, temperature, from_logits, weighted):
    activation = None if from_logits else "softmax"
    student, teacher = net(0, activation, "l2"), net(1, activation)
    fitted = kd.Distillation(student, teacher, share, temperature, from_logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    weights = np.linspace(0, 2, 12).astype("float32") if weighted else np.ones(12)
    fitted.compile(keras.optimizers.SGD(0.0), loss)
    given = weights if weighted else None

    def said(given, training):
        found = fitted.compute_loss(X, Y, fitted(X), given, training=training)
        return float(to_numpy(found))

    found = said(given, True)
    s, t = (
        X @ to_numpy(m.layers[0].kernel) + to_numpy(m.layers[0].bias)
        for m in (student, teacher)
    )
    hard = -log_softmax(s, 1)[np.arange(12), Y]
    soft = -(softmax(t / temperature, 1) * log_softmax(s / temperature, 1)).sum(1)
    mixed = (1 - share) * hard + share * soft * temperature**2
    penalty = 0.01 * (to_numpy(student.layers[0].kernel) ** 2).sum()
    assert found == pytest.approx((weights * mixed).mean() + penalty, rel=1e-5)
    at_rest = said(None, False)
    assert at_rest == pytest.approx(hard.mean() + penalty, rel=1e-5)


def test_what_has_no_label_learns_from_the_teacher_alone():
    student, teacher = net(0), net(1)
    fitted = kd.Distillation(student, teacher, share=0.3)
    loss = keras.losses.SparseCategoricalCrossentropy()
    fitted.compile(keras.optimizers.SGD(0.0), loss, weighted_metrics=["accuracy"])
    labels = np.where(np.arange(12) < 5, Y, -1)
    found = fitted.train_on_batch(X, labels, return_dict=True)
    s, t = (to_numpy(m(X)) for m in (student, teacher))
    hard = -np.log(s[np.arange(12), Y]) * (labels >= 0)
    soft = -(t * np.log(s)).sum(1)
    assert found["loss"] == pytest.approx((0.7 * hard + 0.3 * soft).mean(), rel=1e-5)
    right = (s.argmax(1) == Y)[:5].mean()
    assert found["accuracy"] == pytest.approx(right, rel=1e-6)


def test_the_student_becomes_the_teacher_which_stays():
    student, teacher = net(0), net(1)
    before = [to_numpy(v) for v in teacher.weights]
    fitted = kd.Distillation(student, lambda x: teacher(x), share=1.0)
    fitted.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    fitted.fit(X, Y, epochs=200, verbose=0)
    told, said = to_numpy(teacher(X)), to_numpy(student(X))
    np.testing.assert_allclose(said, told, atol=0.02)
    for variable, old in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old)
    ours = {id(v) for v in fitted.variables}
    assert not ours & {id(v) for v in teacher.variables}


def test_bad_input():
    student = net(0)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    with pytest.raises(ValueError, match=r"`teacher` must put out what the student"):
        kd.Distillation(student, other)
    with pytest.raises(ValueError, match=r"`teacher` must be a Keras model, or"):
        kd.Distillation(student, 3)
    with pytest.raises(ValueError, match=r"`share`.*Received: share=2"):
        kd.Distillation(student, net(1), share=2)
    with pytest.raises(ValueError, match=r"`temperature`.*Received: temperature=0"):
        kd.Distillation(student, net(1), temperature=0)
