import keras
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

import keras_dyngate as kd
from keras_dyngate._graph import Part, Stretch, flat_graph
from keras_dyngate.models.exits.students import (
    PacedAdam,
    Students,
    frozen,
    label_in,
    soft_cross_entropy,
)
from tests.stubs import outputs, randomize

pytestmark = pytest.mark.usefixtures("module_numpy_initializers")

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy
RNG = np.random.default_rng(0)
N, CLASSES = 12, 3
X = RNG.normal(size=(N, 4)).astype("float32")
Y = np.array([0, 1, 2, -1, 1, -1, 0, 0, 2, -1, 1, 2], "int32")
W = np.linspace(0, 2, N).astype("float32")


class TestSoftCrossEntropy:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_of_classes(self, temperature):
        teacher, student = RNG.normal(0, 5, (2, 9, 6)).astype("float32")
        found = to_numpy(soft_cross_entropy(teacher, student, temperature))
        wanted = softmax(teacher.astype("float64") / temperature, axis=1)
        logs = log_softmax(student.astype("float64") / temperature, axis=1)
        expected = -(temperature**2) * (wanted * logs).sum(1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_of_one_score(self, temperature):
        teacher, student = RNG.normal(0, 3, (2, 9, 1)).astype("float32")
        found = to_numpy(soft_cross_entropy(teacher, student, temperature))
        yes, said = (
            expit(v[:, 0].astype("float64") / temperature) for v in (teacher, student)
        )
        expected = -yes * np.log(said) - (1 - yes) * np.log(1 - said)
        np.testing.assert_allclose(found, temperature**2 * expected, rtol=1e-4)

    def test_least_where_they_agree(self):
        teacher = RNG.normal(size=(4, 5)).astype("float32")
        agreed = to_numpy(soft_cross_entropy(teacher, teacher + 3, 2.0))
        for _ in range(5):
            other = teacher + RNG.normal(size=(4, 5)).astype("float32")
            assert (to_numpy(soft_cross_entropy(teacher, other, 2.0)) > agreed).all()


def stepped(optimizer, count=4):
    """Two variables after some steps."""
    variables = [
        keras.Variable(np.arange(1.0, 5).reshape(2, 2), dtype="float32"),
        keras.Variable([3.0, -2.0], dtype="float32"),
    ]
    rng = np.random.default_rng(5)
    for _ in range(count):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in variables]
        gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
        optimizer.apply(gradients, variables)
    return [to_numpy(v) for v in variables]


class TestPacedAdam:
    def test_is_adamw(self):
        rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
        found = stepped(PacedAdam(rate, lambda variable: (1.0, 0.3)))
        expected = stepped(keras.optimizers.AdamW(rate, weight_decay=0.3))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    def test_two_paces(self):
        paces = {(2, 2): (1.0, 0.0), (2,): (0.25, 0.5)}
        found = stepped(PacedAdam(0.1, lambda variable: paces[tuple(variable.shape)]))
        rng = np.random.default_rng(5)
        values = [np.arange(1.0, 5).reshape(2, 2), np.array([3.0, -2.0])]
        first, second = ([np.zeros_like(v) for v in values] for _ in "ab")
        for step in range(1, 5):
            gradients = [rng.normal(size=v.shape) for v in values]
            for i, g in enumerate(gradients):
                factor, decay = paces[values[i].shape]
                rate = 0.1 * factor
                values[i] -= rate * decay * values[i]
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                m, v = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
                values[i] -= rate * m / (np.sqrt(v) + 1e-7)
        for a, b in zip(found, values, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)


def net(classes=CLASSES):
    """A trunk of vectors with two heads."""
    x = image = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="a")(x)
    x = layers.Dense(5, activation="relu", name="b")(x)
    end = "sigmoid" if classes == 1 else "softmax"
    trunk = keras.Model(image, layers.Dense(classes, activation=end, name="c")(x))
    model = kd.add_decision_gates(
        trunk, ["a", "b"], head=lambda shape: layers.Dense(classes)
    )
    return randomize(model, seed=2)


def raw(model):
    graph = flat_graph(model)
    return Part(Stretch(graph.inputs, graph.calls, graph.outputs[0]))


def students(model, gates, **options):
    given = {
        "teacher": None,
        "taught": True,
        "joint": False,
        "temperature": 3.0,
        "label_share": 0.3,
        **options,
    }
    made = Students(model, gates, **given)
    made.compile("sgd", jit_compile=False)
    return made


def logits(probabilities):
    return np.log(probabilities.astype("float64"))


def by_hand(scores, teacher, y, weights, share, temperature):
    """Mean over samples; what has no label has no loss by it."""
    total = 0.0
    for student in scores:
        for i, label in enumerate(y):
            loss = 0.0
            if label >= 0:
                loss -= share * log_softmax(student[i])[label]
            if teacher is not None:
                wanted = softmax(teacher[i] / temperature)
                soft = -(wanted * log_softmax(student[i] / temperature)).sum()
                loss += (1 - share) * temperature**2 * soft
            total += weights[i] * loss / len(y)
    return total


class TestStudents:
    def judged(self, made):
        return made.evaluate(
            X, Y, sample_weight=W, batch_size=N, verbose=0, return_dict=1
        )

    def test_by_the_trunk(self):
        model = net()
        found = self.judged(students(model, model.gates))
        dense = {k: to_numpy(v) for k, v in model(X).items()}
        scores = [dense["gate_1"], dense["gate_2"]]
        expected = by_hand(scores, logits(dense["head"]), Y, W, 0.3, 3.0)
        assert found["loss"] == pytest.approx(expected, rel=1e-4)
        assert sorted(found) == ["gate_1_accuracy", "gate_2_accuracy", "loss"]
        known = W * (Y >= 0)
        for name, said in zip(("gate_1", "gate_2"), scores, strict=True):
            right = (known * (said.argmax(1) == Y)).sum() / known.sum()
            assert found[f"{name}_accuracy"] == pytest.approx(right, rel=1e-5)

    def test_some_of_the_exits_and_no_more_of_the_trunk(self):
        model, other = net(), randomize(net().trunk, seed=7)
        made = students(model, model.gates[:1], teacher=raw(other))
        assert len(made.parts) == 1
        found = self.judged(made)
        scores, teacher = to_numpy(model(X)["gate_1"]), outputs(other, X)
        expected = by_hand([scores], teacher, Y, W, 0.3, 3.0)
        assert found["loss"] == pytest.approx(expected, rel=1e-4)

    def test_jointly(self):
        model, other = net(), randomize(net().trunk, seed=7)
        made = students(model, model.gates[1:], teacher=raw(other), joint=True)
        dense = {k: to_numpy(v) for k, v in model(X).items()}
        scores = [dense["gate_2"], logits(dense["head"])]
        expected = by_hand(scores, outputs(other, X), Y, W, 0.3, 3.0)
        found = self.judged(made)
        assert found["loss"] == pytest.approx(expected, rel=1e-4)
        assert "head_accuracy" in found

    def test_by_labels_alone(self):
        model = net()
        found = self.judged(students(model, model.gates, taught=False))
        dense = model(X)
        scores = [to_numpy(dense[name]) for name in ("gate_1", "gate_2")]
        expected = by_hand(scores, None, Y, W, 1.0, 3.0)
        assert found["loss"] == pytest.approx(expected, rel=1e-4)

    def test_one_output(self):
        model = net(1)
        y = np.where(Y > 1, 1, Y)
        made = students(model, model.gates[:1], temperature=1.0)
        found = made.evaluate(X, y, batch_size=N, verbose=0, return_dict=True)
        dense = {k: to_numpy(v).astype("float64") for k, v in model(X).items()}
        yes, said = dense["head"][:, 0], expit(dense["gate_1"][:, 0])
        soft = -yes * np.log(said) - (1 - yes) * np.log(1 - said)
        hard = -np.log(np.where(y == 1, said, 1 - said)) * (y >= 0)
        expected = (0.3 * hard + 0.7 * soft).mean()
        assert found["loss"] == pytest.approx(expected, rel=1e-4)
        right = ((said > 0.5) == y)[y >= 0].mean()
        assert found["gate_1_accuracy"] == pytest.approx(right)

    def test_regularizers_count(self):
        model = net()
        before = self.judged(students(model, model.gates))["loss"]
        (dense,) = (x for x in model.gates[0].body.layers if x.weights)
        dense.kernel.regularizer = keras.regularizers.L2(0.1)
        after = self.judged(students(model, model.gates))["loss"]
        squares = np.square(to_numpy(dense.kernel)).sum()
        assert after == pytest.approx(before + 0.1 * squares, rel=1e-4)

    def test_the_teacher_is_told_nothing(self):
        """Neither by gradients nor by weight decay."""
        model, other = net(), randomize(net().trunk, seed=7)
        old = [np.array(w) for w in other.get_weights()]
        with frozen([model.trunk, teacher := raw(other)]):
            made = students(model, model.gates, teacher=teacher)
            gates = {id(w) for gate in model.gates for w in gate.weights}
            assert {id(w) for w in made.trainable_weights} == gates
            made.compile(PacedAdam(0.1, lambda v: (1.0, 0.5)), jit_compile=False)
            made.fit(X, Y, batch_size=N, verbose=0)
        for a, b in zip(old, other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_label_in():
    found = label_in(keras.ops.convert_to_tensor(RNG.normal(size=(5, 4))))
    assert keras.backend.standardize_dtype(found.dtype) == "int32"
    one = label_in(keras.ops.convert_to_tensor([[-1.0], [0.0], [2.0]]))
    assert to_numpy(one).tolist() == [0, 0, 1]


def all_flags(model):
    every = [layer.trainable for layer in model._flatten_layers()]
    return every, [v.trainable for v in model.variables]


class TestFrozen:
    def nested(self):
        """A base that is frozen but for one layer; a layer that both hold."""
        shared = layers.Dense(4, name="shared")
        one = keras.Sequential([keras.Input((4,)), shared, layers.Dense(4)], name="one")
        two = keras.Sequential(
            [keras.Input((4,)), shared, layers.BatchNormalization()], name="two"
        )
        image = keras.Input((4,))
        model = keras.Model(image, layers.Dense(2)(two(one(image))))
        return model, one, two, shared

    def test_all_inside(self):
        model, *_ = self.nested()
        with frozen([model]):
            assert not model.trainable_weights and not model.trainable
            assert not any(all_flags(model)[0])
        assert len(model.trainable_weights) == 8

    @pytest.mark.parametrize("outer", [True, False])
    def test_flags_come_back(self, outer):
        model, one, two, shared = self.nested()
        two.trainable = False
        shared.trainable = True
        one.layers[-1].bias.trainable = False
        if not outer:
            model.trainable = False
            one.trainable = True
        expected = all_flags(model)
        assert len({*expected[0]}) == 2
        for layers_ in ([model], [two, one], [shared, model]):
            with frozen(layers_):
                pass
            assert all_flags(model) == expected
        with pytest.raises(RuntimeError, match="stop"), frozen([model]):
            raise RuntimeError("stop")
        assert all_flags(model) == expected
