"""The penalty here is exactly 1 and the model learns nothing, so that the loss of a
batch is the coefficient that the compiled step really used."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate._backend import before_assign
from keras_dyngate.callbacks import regularization_schedule

pytestmark = pytest.mark.heavy


class One(kd.GateRegularizer):
    """Penalty 1, whatever the gates do."""

    def __call__(self, output, unit_macs=None):
        return 1.0 + 0.0 * ops.mean(output.score)


RAMP = kd.LinearSchedule(0.0, 1.0)
IMAGES = np.random.default_rng(0).normal(size=(12, 4, 4, 3)).astype("float32")
LABELS = np.zeros((12, 1), "float32")
PER_EPOCH = 3  # batches of 4


class Watch(keras.callbacks.Callback):
    """The loss of each batch, taken apart from Keras's running mean."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        before = sum(self.losses[len(self.losses) - batch :]) if batch else 0.0
        self.losses.append(total - before)


def make(*regularizers, jit=False):
    image = keras.Input((4, 4, 3))
    gate = kd.BinaryGate(3, regularizers=list(regularizers))
    x = kd.GatedBasicBlock(3, channel_gate=gate, name="block")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1)(x))
    model.compile(
        keras.optimizers.SGD(0.0), lambda y, p: 0.0 * ops.mean(p), jit_compile=jit
    )
    return model, gate


def fit(model, epochs, schedule=None, x=IMAGES, **kwargs):
    watch = Watch()
    schedule = schedule or kd.RegularizationSchedule()
    if x is IMAGES:
        kwargs |= {"y": LABELS, "batch_size": 4}
    callbacks = [schedule, watch, *kwargs.pop("callbacks", ())]
    history = model.fit(
        x, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **kwargs
    )
    return watch.losses, history.history


def unknown_length():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
    return data.filter(lambda x, y: True)


@pytest.mark.parametrize("jit", [False, True])
def test_the_compiled_step_uses_the_coefficient_of_its_batch(jit):
    model, _ = make(One(RAMP, "one"), jit=jit)
    losses, _ = fit(model, epochs=2)
    np.testing.assert_allclose(losses, np.arange(6) / 6, atol=1e-6)


def test_validation_between_epochs_changes_nothing():
    model, _ = make(One(RAMP, "one"))
    losses, _ = fit(model, epochs=2, validation_data=(IMAGES, LABELS))
    np.testing.assert_allclose(losses, np.arange(6) / 6, atol=1e-6)


def test_training_itself_is_kept_when_coefficients_move():
    """The state that JAX holds outside the variables must survive every assignment."""
    weights = []
    for callbacks in ([], [kd.RegularizationSchedule()]):
        keras.utils.set_random_seed(0)
        image = keras.Input((4, 4, 3))
        gate = kd.BinaryGate(3, regularizers=[One(RAMP, "one")], seed=1)
        x = kd.GatedBasicBlock(3, channel_gate=gate, name="block")(image)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(image, keras.layers.Dense(1)(x))
        start = [np.array(ops.convert_to_numpy(w)) for w in model.trainable_weights]
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
        model.fit(
            IMAGES,
            LABELS + 1,
            batch_size=4,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        assert int(model.optimizer.iterations) == 6
        weights.append([ops.convert_to_numpy(w) for w in model.trainable_weights])
    moved = [np.abs(a - b).max() for a, b in zip(start, weights[0], strict=True)]
    assert min(moved) > 1e-3
    for without, with_schedule in zip(*weights, strict=True):
        np.testing.assert_allclose(with_schedule, without, atol=1e-6)


def test_a_resumed_run_goes_on_where_it_stopped():
    model, _ = make(One(RAMP, "one"))
    losses, _ = fit(model, epochs=4, initial_epoch=3)
    np.testing.assert_allclose(losses, np.arange(9, 12) / 12, atol=1e-6)


def test_a_run_goes_on_in_the_middle_of_an_epoch():
    """4 of 12 steps are done: the rest of an epoch, then a whole one."""
    model, _ = make(One(RAMP, "one"))
    schedule = kd.RegularizationSchedule(total_steps=12, initial_step=4)
    rest, history = fit(model, 2, schedule, initial_epoch=1, steps_per_epoch=2)
    np.testing.assert_allclose(rest, np.arange(4, 6) / 12, atol=1e-6)
    assert history["one_coefficient"] == pytest.approx([5 / 12])
    schedule.start_from(6, 12)
    whole, _ = fit(model, 4, schedule, initial_epoch=2)
    np.testing.assert_allclose(whole, np.arange(6, 12) / 12, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_steps_done_are_told_where_they_cannot_be_known():
    model, _ = make(One(RAMP, "one"))
    schedule = kd.RegularizationSchedule(total_steps=12, initial_step=3)
    losses, _ = fit(model, 3, schedule, unknown_length(), initial_epoch=1)
    np.testing.assert_allclose(losses, np.arange(3, 9) / 12, atol=1e-6)


def test_initial_step_needs_total_steps():
    with pytest.raises(ValueError, match="`initial_step` needs.*initial_step=3"):
        kd.RegularizationSchedule(initial_step=3)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_moves_once_per_epoch():
    model, _ = make(One(RAMP, "one"))
    losses, _ = fit(model, epochs=2, x=unknown_length())
    np.testing.assert_allclose(losses, [0, 0, 0, 0.5, 0.5, 0.5], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("unknown", [False, True])
def test_total_steps_set_the_pace_and_the_end(unknown):
    model, gate = make(One(RAMP, "one"))
    schedule = kd.RegularizationSchedule(total_steps=4)
    x = unknown_length() if unknown else IMAGES
    losses, history = fit(model, 2, schedule, x)
    np.testing.assert_allclose(losses, [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6)
    assert history["one_coefficient"] == [0.5, 1.0]
    assert float(gate.coefficients[0]) == 1.0


def test_coefficients_stay_after_training():
    model, gate = make(One(RAMP, "one"), One(0.25, "fixed"))
    fit(model, epochs=2)
    values = [float(c) for c in gate.coefficients]
    np.testing.assert_allclose(values, [5 / 6, 0.25], atol=1e-6)


class Own(keras.callbacks.Callback):
    """Sets the coefficient of a regularizer after each batch, once per `every`."""

    def __init__(self, gate, index):
        super().__init__()
        self.gate, self.index, self.steps = gate, index, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        before_assign(self.model)
        self.gate.coefficients[self.index].assign(float(self.steps))


@pytest.mark.parametrize("own_first", [False, True])
def test_numbers_are_set_once_and_belong_to_others_then(own_first):
    """The loss of step n is the ramp's n / 6 and what was set after step n - 1."""
    model, gate = make(One(RAMP, "one"), One(0.25, "fixed"))
    gate.coefficients[1].assign(7.0)  # of an earlier training, say
    own, watch = Own(gate, 1), Watch()
    callbacks = [kd.RegularizationSchedule(), own]
    history = model.fit(
        IMAGES,
        LABELS,
        batch_size=4,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[watch, *(callbacks[::-1] if own_first else callbacks)],
    ).history
    expected = np.arange(6) / 6 + [0.25, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(watch.losses, expected, atol=1e-5)
    assert history["fixed_coefficient"] == [3.0, 6.0]  # as it is, not as it was made


def test_a_run_that_goes_on_leaves_numbers_as_they_are():
    model, gate = make(One(RAMP, "one"), One(0.25, "fixed"))
    gate.coefficients[1].assign(3.0)
    schedule = kd.RegularizationSchedule()
    schedule.start_from(6, 12)
    losses, _ = fit(model, 3, schedule, initial_epoch=2)
    np.testing.assert_allclose(losses, np.arange(6, 9) / 12 + 3, atol=1e-5)
    losses, _ = fit(model, 1, schedule)  # what was told was told of one `fit`
    np.testing.assert_allclose(losses, np.arange(3) / 3 + 0.25, atol=1e-5)


def test_an_own_length_is_kept_where_another_is_told():
    model, _ = make(One(RAMP, "one"))
    schedule = kd.RegularizationSchedule(total_steps=4)
    schedule.start_from(1, 12)
    losses, _ = fit(model, 1, schedule)
    np.testing.assert_allclose(losses, [0.25, 0.5, 0.75], atol=1e-6)
    assert isinstance(schedule, kd.StepAwareCallback)
    assert not isinstance(schedule, kd.StatefulCallback)


def test_executions_of_several_steps():
    """3 batches in executions of 2: the second one has only one step to do."""
    model, _ = make(One(RAMP, "one"))
    model.steps_per_execution = 2
    schedule, found = kd.RegularizationSchedule(), []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: found.append(schedule.progress(batch))
    )
    fit(model, 2, schedule, callbacks=[keep])
    np.testing.assert_allclose(found, np.array([0, 2, 3, 5]) / 6, rtol=1e-12)


def test_a_second_training_starts_anew():
    model, _ = make(One(RAMP, "one"))
    schedule = kd.RegularizationSchedule()
    first, _ = fit(model, 1, schedule)
    second, _ = fit(model, 1, schedule)
    np.testing.assert_allclose(second, first, atol=1e-6)
    np.testing.assert_allclose(second, [0, 1 / 3, 2 / 3], atol=1e-6)


def test_logs_of_an_epoch_hold_its_last_coefficients(tmp_path):
    model, _ = make(One(RAMP, "one"), One(0.25, "fixed"))
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    _, history = fit(model, epochs=2, callbacks=[log])
    np.testing.assert_allclose(history["one_coefficient"], [2 / 6, 5 / 6], atol=1e-6)
    assert history["fixed_coefficient"] == [0.25, 0.25]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["one_coefficient"]) for row in rows] == pytest.approx(
        [2 / 6, 5 / 6]
    )


def test_one_name_on_several_controllers_logs_the_mean():
    image = keras.Input((4, 4, 3))
    x = image
    for value in (0.1, 0.3):
        gate = kd.BinaryGate(3, regularizers=[One(value, "one")])
        x = kd.GatedBasicBlock(3, channel_gate=gate)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse", jit_compile=False)
    _, history = fit(model, epochs=1)
    assert history["one_coefficient"] == pytest.approx([0.2])


@pytest.mark.parametrize(
    "coefficient, expected",
    [(0.5, 3), (RAMP, 6), (kd.LinearSchedule(1.0, 0.0, end=0.5), 4)],
)
def test_variables_are_assigned_once_an_epoch_and_when_a_value_changed(
    monkeypatch, coefficient, expected
):
    calls = []

    def counted(model):
        calls.append(model)
        before_assign(model)

    monkeypatch.setattr(regularization_schedule, "before_assign", counted)
    model, _ = make(One(coefficient, "one"))
    fit(model, epochs=2)
    # A number: once for all, then it is read for the logs of each epoch.
    assert calls == [model] * expected


def test_unknown_past_of_a_resumed_run_is_refused():
    model, _ = make(One(RAMP, "one"))
    schedule = kd.RegularizationSchedule(total_steps=12)
    with pytest.raises(ValueError, match="steps_per_epoch.*initial_epoch=1"):
        fit(model, 2, schedule, unknown_length(), initial_epoch=1)


@pytest.mark.parametrize("step", [-1, 1.5, True, "1"])
def test_initial_step_must_be_a_number_of_steps(step):
    with pytest.raises(ValueError, match="`initial_step` must.*Received: initial_step"):
        kd.RegularizationSchedule(total_steps=12, initial_step=step)


@pytest.mark.parametrize("total", [0, -3, 1.5, True])
def test_total_steps_must_be_positive(total):
    with pytest.raises(ValueError, match="total_steps"):
        kd.RegularizationSchedule(total)


def test_a_model_without_controllers_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must hold controllers"):
        model.fit(
            np.zeros((2, 2)),
            np.zeros((2, 1)),
            verbose=0,
            callbacks=[kd.RegularizationSchedule()],
        )
