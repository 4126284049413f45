import warnings

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits import students as teaching
from keras_dyngate.models.exits import teaching as exit_teaching
from tests.stubs import randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("module_numpy_initializers"),
]

layers = keras.layers
to_numpy = keras.ops.convert_to_numpy
RNG = np.random.default_rng(0)
N, CLASSES = 48, 3
CENTERS = 2.0 * np.eye(CLASSES, 4)
Y = np.arange(N) % CLASSES
X = (CENTERS[Y] + 0.4 * RNG.normal(size=(N, 4))).astype("float32")
QUICK = {"epochs": 2, "batch_size": 16, "verbose": 0}


@pytest.fixture(autouse=True)
def eager(request, monkeypatch):
    """Compiling takes longer than running: few tests do."""
    if "compiled" not in request.fixturenames:
        compile_ = teaching.Students.compile

        def run_eagerly(self, optimizer, **kwargs):
            compile_(self, optimizer, run_eagerly=True, **kwargs)

        monkeypatch.setattr(teaching.Students, "compile", run_eagerly)


@pytest.fixture
def compiled():
    """A test that compiles as users do."""


def vectors(classes=CLASSES, seed=22):
    """A trunk with batch normalization and dropout, which says all classes as often."""
    x = image = keras.Input((4,))
    x = layers.Dense(8, name="a")(x)
    x = layers.ReLU(name="b")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dropout(0.3)(layers.Dense(6, activation="relu", name="c")(x))
    end = "sigmoid" if classes == 1 else "softmax"
    x = layers.Dense(classes, activation=end, name="d")(x)
    return randomize(keras.Model(image, x, name="trunk"), seed)


def head(classes=CLASSES):
    return lambda shape: keras.Sequential(
        [keras.Input(shape), layers.Dropout(0.2), layers.Dense(classes)]
    )


def small(classes=CLASSES):
    x = image = keras.Input((4,))
    x = layers.BatchNormalization(momentum=0.5)(layers.Dense(5)(x))
    return keras.Model(image, layers.Dense(classes)(layers.ReLU()(x)), name="small")


def exits(after=("b", "c"), **arguments):
    keras.utils.set_random_seed(3)  # of heads and their dropout
    arguments = {"head": head(), **arguments}
    model = kd.add_decision_gates(vectors(), list(after), **arguments)
    for seed, gate in enumerate(model.gates):
        randomize(gate, seed)
    return model


def state(layer):
    return [np.array(to_numpy(w)) for w in layer.weights]


def flags(model):
    return [layer.trainable for layer in model._flatten_layers()]


def equal(first, second):
    return [bool((a == b).all()) for a, b in zip(first, second, strict=True)]


def assert_same(first, second, tolerance=0.0):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


class Stop(keras.callbacks.Callback):
    """Raises after so many batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class TestOnAFrozenTrunk:
    def test_learns_and_leaves_the_trunk(self, compiled):
        model = exits()
        model.trunk.get_layer("c").trainable = False
        before, was = state(model.trunk), flags(model.trunk)
        gates = [state(gate) for gate in model.gates]
        found = model.fit_gates(
            X,
            Y,
            epochs=12,
            batch_size=24,
            learning_rate=0.2,
            label_share=1.0,
            validation_data=(X[:20], Y[:20]),
            verbose=0,
            callbacks=(keras.callbacks.LambdaCallback(),),
        )
        assert all(equal(before, state(model.trunk))) and flags(model.trunk) == was
        for old, gate in zip(gates, model.gates, strict=True):
            assert not any(equal(old, state(gate)))
        assert list(found) == ["gate_1", "gate_2"]
        for index, fit in enumerate(found.values()):
            assert (fit.loss, fit.features) == (None, None) and fit.seconds > 0
            said = to_numpy(model(X[:20])[f"gate_{index + 1}"]).argmax(1)
            assert fit.validation_accuracy == pytest.approx((said == Y[:20]).mean())
            assert fit.accuracy > 0.6
        assert found["gate_1"].validation_accuracy > 0.8
        assert not model.calibrated

    def test_an_exception_leaves_the_trunk(self):
        model = exits()
        model.trunk.get_layer("c").trainable = False
        before, was = state(model.trunk), flags(model.trunk)
        with pytest.raises(KeyboardInterrupt):
            model.fit_gates(X, Y, callbacks=[Stop(2)], **QUICK)
        assert all(equal(before, state(model.trunk))) and flags(model.trunk) == was

    def test_the_trunk_teaches_without_labels(self):
        """Exits come to say what it says, and nothing is known of their accuracy."""
        model = exits(["c"])
        found = model.fit_gates(
            X, epochs=20, batch_size=N, learning_rate=0.3, mixtures=0.2, verbose=0
        )
        assert np.isnan(found["gate_1"].accuracy)
        said = {k: to_numpy(v).argmax(1) for k, v in model(X).items()}
        assert (said["gate_1"] == said["head"]).mean() > 0.75

    def test_another_teacher(self):
        """It is of the user's own, and is not touched."""
        image = keras.Input((4,))
        teacher = keras.Model(image, layers.Dense(3, use_bias=False)(image))
        teacher.set_weights([5.0 * np.eye(4, 3)])
        before, was = state(teacher), flags(teacher)
        model = exits(["b"])
        model.fit_gates(
            X,
            epochs=20,
            batch_size=N,
            learning_rate=0.3,
            teacher=teacher,
            weight_decay=0.1,
            verbose=0,
        )
        assert all(equal(before, state(teacher))) and flags(teacher) == was
        said = {k: to_numpy(v).argmax(1) for k, v in model(X).items()}
        assert (said["head"] == Y).mean() < 0.4
        assert (said["gate_1"] == Y).mean() > 0.8

    def test_no_teacher(self):
        """The trunk's answers play no part: only its features."""
        found = []
        for seed in (0, 1):
            model = exits()
            model.trunk.get_layer("d").set_weights(state(vectors(seed=seed).layers[-1]))
            model.fit_gates(X, Y, teacher=None, **QUICK)
            found.append(sum((state(gate) for gate in model.gates), []))
        assert_same(*found, tolerance=1e-6)

    def test_weights_of_samples(self):
        """What counts nothing could as well be of any class."""
        found = []
        for wrong in (0, 1):
            y, weight = Y.copy(), np.ones(N)
            weight[:16] = 0
            y[:16] = wrong
            model = exits(["b"])
            fit = model.fit_gates(X, y, sample_weight=weight, teacher=None, **QUICK)
            found.append([*state(model.gates[0]), fit["gate_1"].accuracy])
        assert_same(*found, tolerance=1e-6)

    def test_one_output(self):
        model = kd.add_decision_gates(vectors(1), ["b"], head=head(1))
        y = (Y == 1).astype("int64")
        found = model.fit_gates(
            X,
            y,
            epochs=15,
            batch_size=N,
            learning_rate=0.3,
            label_share=1.0,
            mixtures=0.0,
            verbose=0,
        )
        right = (to_numpy(model(X)["gate_1"])[:, 0] > 0) == y
        assert right.mean() > 0.8 and found["gate_1"].accuracy > 0.6

    def test_data_of_any_kind(self):
        """An array that is not shuffled gives what its batches in a dataset give."""
        parts = [slice(i, i + 16) for i in range(0, N, 16)]

        class Data(keras.utils.PyDataset):
            def __len__(self):
                return len(parts)

            def __getitem__(self, index):
                return X[parts[index]], Y[parts[index]]

        listed = [(X[part], Y[part]) for part in parts]
        kinds = [listed, iter(listed), (item for item in listed), Data()]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            kinds.append(tf.data.Dataset.from_tensor_slices((X, Y)).batch(16))
        found = []
        for data in kinds:
            model = exits(["b"])
            model.fit_gates(data, epochs=2, verbose=0)
            found.append(state(model.gates[0]))
        for other in found[1:]:
            assert_same(found[0], other, tolerance=1e-6)

    def test_some_batches_without_labels(self):
        model = exits(["b"])
        found = model.fit_gates([(X[:16], Y[:16]), X[16:32]], epochs=1, verbose=0)
        assert 0 <= found["gate_1"].accuracy <= 1

    def test_linear_gates_beside_heads(self):
        """They are fitted to the trunk's labels where there are none, from a generator."""
        model = exits(head=["linear", head()], pooling="avg")
        found = model.fit_gates((X[i : i + 16] for i in (0, 16)), epochs=1, verbose=0)
        assert [fit.features for fit in found.values()] == [8, None]
        assert found["gate_1"].loss is not None and found["gate_1"].accuracy > 0.4


class TestFirstNet:
    def test_learns_whole(self):
        model = exits(["c"], first=small())
        first = model.gates[0]
        before, trunk = state(first), state(model.trunk)
        found = model.fit_gates(
            X,
            Y,
            epochs=15,
            batch_size=N,
            learning_rate=0.2,
            teacher=None,
            verbose=0,
        )
        assert list(found) == ["first", "gate_1"]
        assert not any(equal(before, state(first)))  # batch statistics too
        assert all(equal(trunk, state(model.trunk)))
        assert found["first"].accuracy > 0.7

    def test_its_pace_and_decay(self):
        """With a rate of its own, and without gradients but for decay."""
        lesson = type(
            "Lesson",
            (),
            {
                "model": (model := exits(["c"], first=small())),
                "recipe": type("Recipe", (), {"weight_decay": 0.3}),
            },
        )
        pace = exit_teaching._paces(lesson, model.gates[:1])
        assert {pace(v) for v in model.gates[0].weights} == {(0.5, 1e-4)}
        assert {pace(v) for v in model.gates[1].weights} == {(1.0, 0.3)}
        assert {pace(v) for v in model.trunk.weights} == {(1.0, 1e-4)}


class TestJointly:
    def judged_as(self, monkeypatch, *accuracies):
        told = iter(accuracies)
        monkeypatch.setattr(exit_teaching, "_head_accuracy", lambda *_: next(told))

    def test_all_weights_learn(self, monkeypatch):
        self.judged_as(monkeypatch, 0.5, 0.5)
        model = exits(["c"], first=small())
        trunk, was = state(model.trunk), flags(model.trunk)
        found = model.fit_gates(X, Y, joint_epochs=2, **QUICK)
        assert list(found) == ["first", "gate_1", "head"]
        assert not any(equal(trunk, state(model.trunk)))
        assert flags(model.trunk) == was
        assert found["head"].validation_accuracy == 0.5

    def test_frozen_statistics_stay(self, monkeypatch):
        self.judged_as(monkeypatch, 0.5, 0.5)
        model = exits(["c"])
        model.trunk.get_layer("bn").trainable = False
        trunk = state(model.trunk)
        model.fit_gates(X, Y, joint_epochs=2, **QUICK)
        names = [w.path for w in model.trunk.weights]
        for name, kept in zip(names, equal(trunk, state(model.trunk)), strict=True):
            assert kept == ("bn" in name), name

    def test_a_head_that_loses(self, monkeypatch, compiled):
        self.judged_as(monkeypatch, 0.9, 0.8)
        model, alone = exits(["b"]), []
        trunk = state(model.trunk)
        keep = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: alone.append(state(model.gates[0]))
        )
        message = "The net's own head lost by joint training, from 90.0% to 80.0% of"
        with pytest.warns(UserWarning, match=message) as warned:
            warnings.simplefilter("ignore", DeprecationWarning)  # see pyproject.toml
            found = model.fit_gates(
                X[:40],
                Y[:40],
                validation_data=(X, Y),
                joint_epochs=2,
                callbacks=[keep],
                **QUICK,
            )
        assert warned[0].filename == __file__
        assert all(equal(trunk, state(model.trunk)))
        assert list(found) == ["gate_1"]
        assert len(alone) == 2 and not any(equal(*alone))
        assert_same(alone[1], state(model.gates[0]))

    def test_how_the_head_is_judged(self):
        """On a tenth of the pictures, which then do not teach."""
        model = exits(["c"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it may lose
            model.fit_gates(X, Y, joint_epochs=1, **QUICK)
        lesson = exit_teaching._Lesson(model, recipe(joint_epochs=1), X, Y, None, None)
        assert len(lesson.stream.arrays.x) == 43
        (judged,) = lesson.judged
        assert len(judged.x) == 5
        made = exit_teaching._students(lesson, model.gates, teacher=None, joint=True)
        made.compile("sgd", jit_compile=False)
        said = to_numpy(model(judged.x)["head"]).argmax(1)
        accuracy = exit_teaching._head_accuracy(made, lesson)
        assert accuracy == pytest.approx((said == judged.y).mean())

    def test_without_a_teacher(self, monkeypatch):
        self.judged_as(monkeypatch, 0.5, 0.6)
        model = exits(["c"])
        found = model.fit_gates(X, Y, teacher=None, joint_epochs=1, **QUICK)
        assert list(found) == ["gate_1", "head"]

    def test_a_nested_trunk_with_augmentation(self, monkeypatch):
        """As transfer learning makes it: the frozen copy is of all that."""
        self.judged_as(monkeypatch, 0.5, 0.5)
        x = inner = keras.Input((6, 6, 1))
        x = layers.Conv2D(3, 3, name="conv")(x)
        x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
        base = keras.Model(inner, x, name="base")
        image = keras.Input((6, 6, 1))
        x = base(layers.RandomFlip()(image), training=False)
        x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
        trunk = keras.Model(image, layers.Dense(2, name="out")(x))
        head = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(2)])
        model = kd.add_decision_gates(randomize(trunk), ["relu"], head=head)
        x = RNG.normal(size=(12, 6, 6)).astype("float32")  # grey, without a channel
        statistics = state(base.get_layer("bn"))
        kernel = state(base.get_layer("conv"))
        model.fit_gates(
            x, np.arange(12) % 2, epochs=1, joint_epochs=1, batch_size=6, verbose=0
        )
        now = state(base.get_layer("bn"))
        assert equal(statistics, now) == [False, False, True, True]
        assert not any(equal(kernel, state(base.get_layer("conv"))))


class TestGoneOnWith:
    OPTIONS = {"epochs": 3, "batch_size": 16, "verbose": 0, "mixtures": 0.4}

    @pytest.mark.parametrize("after", [2, 6])
    def test_as_if_never_cut_off(self, tmp_path, after):
        whole = exits()
        fits = whole.fit_gates(X, Y, **self.OPTIONS)
        path = tmp_path / "run.npz"
        with pytest.raises(KeyboardInterrupt):
            exits().fit_gates(
                X, Y, checkpoint=path, callbacks=[Stop(after)], **self.OPTIONS
            )
        model = exits()
        found = model.fit_gates(X, Y, checkpoint=path, **self.OPTIONS)
        for one, other in zip(whole.gates, model.gates, strict=True):
            assert_same(state(one), state(other), tolerance=1e-6)
        assert list(found) == list(fits)
        assert [p.name for p in tmp_path.iterdir()] == ["run.exits.npz"]
        with pytest.raises(ValueError, match="other settings: .'temperature'"):
            exits().fit_gates(X, Y, checkpoint=path, temperature=1.0, **self.OPTIONS)
        with pytest.raises(ValueError, match="other settings: .'augmentation'"):
            exits().fit_gates(
                X, Y, checkpoint=path, augmentation=np.sin, **self.OPTIONS
            )

    def test_jointly(self, tmp_path, monkeypatch):
        monkeypatch.setattr(exit_teaching, "_head_accuracy", lambda *_: 0.5)
        options = {"epochs": 1, "joint_epochs": 2, "batch_size": 16, "verbose": 0}
        whole = exits(["c"], first=small())
        whole.fit_gates(X, Y, **options)
        path = tmp_path / "run.npz"
        for after in (
            2,
            4,
            8,
        ):  # three steps of heads, six together, three of the first
            with pytest.raises(KeyboardInterrupt):
                exits(["c"], first=small()).fit_gates(
                    X, Y, checkpoint=path, callbacks=[Stop(after)], **options
                )
        model = exits(["c"], first=small())
        model.fit_gates(X, Y, checkpoint=path, **options)
        assert_same(state(whole), state(model), tolerance=1e-6)
        assert {p.name for p in tmp_path.iterdir()} == {
            "run.exits.npz",
            "run.all_together.npz",
            "run.first_net.npz",
        }


def test_early_stopping():
    model = exits(["b"])
    stop = keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True)
    best = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            best.append((logs["val_loss"], state(model.gates[0])))

    model.fit_gates(
        X[:24],
        Y[:24],
        epochs=30,
        batch_size=24,
        learning_rate=3.0,
        teacher=None,
        validation_data=[(X[24:], Y[24:])],
        callbacks=[Watch(), stop],
        verbose=0,
    )
    assert 2 <= len(best) < 30
    expected = min(best, key=lambda item: item[0])[1]
    assert_same(expected, state(model.gates[0]))


def test_a_line_per_epoch(capsys):
    exits(["b"]).fit_gates(X, Y, epochs=2, batch_size=24)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "exits, epoch 1 of 2",
        "exits, epoch 2 of 2",
    ]
    assert "gate_1 0." in lines[1] and lines[1].endswith("0.0 min left")


@pytest.mark.parametrize("options", [{"y": None}, {"y": Y, "mixtures": 1.0}])
def test_no_accuracy_where_nothing_has_a_label(options, capsys):
    exits(["b"]).fit_gates(X, **options, epochs=1, validation_data=(X, Y))
    (line,) = capsys.readouterr().out.splitlines()
    assert ": loss " in line and ", val_gate_1 0." in line and " gate_1 " not in line


def test_mixed_precision(dtype_policy):
    dtype_policy("mixed_float16")
    model = exits(["b"])
    before = state(model.trunk)
    model.fit_gates(X, Y, **QUICK)
    assert all(equal(before, state(model.trunk)))
    for gate in model.gates:
        assert all(np.isfinite(w).all() for w in state(gate))


def recipe(**changed):
    given = {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 1e-3,
        "teacher": "trunk",
        "temperature": 2.0,
        "label_share": 0.5,
        "mixtures": None,
        "augmentation": None,
        "joint_epochs": 0,
        "callbacks": (),
        "checkpoint": None,
        "verbose": 0,
        "seed": 0,
        **changed,
    }
    return exit_teaching.Recipe(**given)


def test_mixtures_by_default():
    model = exits(["b"])
    for given, expected in (
        ({}, 0.5),
        ({"teacher": None}, 0.0),
        ({"mixtures": 0.2}, 0.2),
        ({"teacher": None, "mixtures": 0.0}, 0.0),
    ):
        lesson = exit_teaching._Lesson(model, recipe(**given), X, Y, None, None)
        assert lesson.stream.mixtures == expected


class NoGraph(keras.Model):
    def call(self, x):
        return x


def other_inputs():
    return keras.Sequential([keras.Input((5,)), layers.Dense(CLASSES)], name="other")


@pytest.fixture(scope="module")
def refuses(module_numpy_initializers):
    return exits(["b"])


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"epochs": 0}, "`epochs` must be a positive integer"),
            ({"batch_size": 1.5}, "`batch_size` must be a positive integer"),
            ({"joint_epochs": -1}, "`joint_epochs` must be an integer from 0"),
            ({"temperature": 0}, "`temperature` must be a number above 0. Received: t"),
            ({"temperature": "hot"}, "`temperature` must be a number above 0"),
            ({"learning_rate": -1.0}, "`learning_rate` must be a number above 0"),
            ({"label_share": 1.5}, "`label_share` must be a number from 0 to 1"),
            ({"mixtures": 2}, "`mixtures` must be a number from 0 to 1"),
            (
                {"mixtures": 0.5, "teacher": None},
                "`mixtures` need a teacher.*Received: mixtures=0.5, teacher=None",
            ),
            ({"y": None, "teacher": None}, "`y` must be given with teacher=None"),
            (
                {"teacher": "net"},
                "`teacher` must be 'trunk', None or a Keras classifier",
            ),
            (
                {"teacher": NoGraph},
                "`teacher` must be functional or a keras.Sequential",
            ),
            (
                {"teacher": lambda: vectors(5)},
                "`teacher` must tell the net's 3 classes apart. Received: teacher='trunk'",
            ),
            (
                {"teacher": other_inputs},
                r"`teacher` must take what the net takes, inputs of shape \(4,\). "
                r"Received: teacher='other' for \(5,\)",
            ),
            (
                {"augmentation": "flips"},
                "`augmentation` must be 'auto', 'photos', 'strong', a Ker",
            ),
            ({"augmentation": "photos"}, "`augmentation='photos'` is for pictures"),
            ({"sample_weight": -np.ones(N)}, "`sample_weight` must be one number of 0"),
            (
                {"sample_weight": np.ones(3)},
                "`sample_weight` must have a weight for eac",
            ),
            ({"y": Y + 1}, "`y` must hold class indices from 0 to 2"),
            ({"y": None, "joint_epochs": 1}, "`(y|validation_data)` must have labels"),
            ({"validation_data": X}, "`(y|validation_data)` must have labels"),
            (
                {"x": [(X, Y)], "y": None, "joint_epochs": 1},
                "`validation_data` must be given with `joint_epochs` where `x` is a data",
            ),
            ({"x": X[:, :3]}, r"`x` must have batches of shape \(None, 4\)"),
            ({"x": X[:0], "y": Y[:0]}, "`x` must hold at least one sample"),
            ({"x": [], "y": None}, "`x` must hold at least one sample"),
        ],
    )
    def test_one_sentence(self, refuses, arguments, message):
        model = refuses
        arguments = {"x": X, "y": Y, "epochs": 1, "verbose": 0, **arguments}
        if callable(arguments.get("teacher")):
            arguments["teacher"] = arguments["teacher"]()
        before, was = state(model), flags(model.trunk)
        with pytest.raises(ValueError, match=message):
            model.fit_gates(arguments.pop("x"), arguments.pop("y"), **arguments)
        assert all(equal(before, state(model))) and flags(model.trunk) == was

    def test_joint_epochs_of_linear_gates(self):
        model = exits(["b"], head="linear")
        with pytest.raises(ValueError, match="`joint_epochs` teaches heads; train lin"):
            model.fit_gates(X, Y, joint_epochs=1)


def test_exits_that_only_guess():
    """Right no oftener than one label for all, on pictures enough to say so."""
    model = exits(["c"])
    x, y = np.tile(X, (2, 1)), np.where(np.arange(2 * N) % 6, 0, 1)
    lost = 1e-9  # a rate at which nothing is learned
    model.gates[0].weights[-1].assign([0.0, 0.0, 99.0])
    with pytest.warns(
        UserWarning, match="'gate_1' is right on 0.0% .* for all is on 83"
    ):
        model.fit_gates(x, y, validation_data=(x, y), learning_rate=lost, **QUICK)
    few = (x[:30], y[:30])
    model.fit_gates(x, y, validation_data=few, learning_rate=lost, **QUICK)


def test_a_checkpoint_knows_its_data_and_net(tmp_path):
    options = {**QUICK, "checkpoint": tmp_path / "taught"}
    exits(["c"]).fit_gates(X, Y, **options)
    exits(["c"]).fit_gates(X, Y, **options)  # at its end
    for x, y in ((X + 1, Y), (X, (Y + 1) % CLASSES)):
        with pytest.raises(ValueError, match="settings: .'data and net'"):
            exits(["c"]).fit_gates(x, y, **options)
    other = exits(["c"])
    randomize(other.trunk, 99)
    with pytest.raises(ValueError, match="settings: .'data and net'"):
        other.fit_gates(X, Y, **options)


def test_a_shuffled_dataset_goes_on(tmp_path):
    options = {**QUICK, "checkpoint": tmp_path / "taught"}
    exits(["c"]).fit_gates([(X[:24], Y[:24]), (X[24:], Y[24:])], **options)
    found = exits(["c"]).fit_gates([(X[24:], Y[24:]), (X[:24], Y[:24])], **options)
    assert np.isnan(found["gate_1"].accuracy)  # at its end


def test_mixtures_alone_have_no_accuracy():
    found = exits(["c"]).fit_gates(X, Y, mixtures=1.0, **QUICK)
    assert np.isnan(found["gate_1"].accuracy)
