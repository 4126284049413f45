"""A run that was cut off ends like an unbroken one, to the bit; a bad state is not kept.

The batches are functions of the step, and a fresh net is built with another seed: what
it ends with, it has from the file.
"""

import contextlib
import errno
import itertools
import json
import os

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate import _files
from keras_dyngate._backend import before_assign
from keras_dyngate._walk import controllers
from tests.backend_utils import BACKEND

pytestmark = pytest.mark.heavy

STEPS, EPOCHS = 6, 3
IMAGES = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype("float32")


def stream(step):
    """Batches without end, from `step` on."""
    for n in itertools.count(step):
        rng = np.random.default_rng([7, n])
        yield rng.normal(size=(4, 4, 4, 3)).astype("float32"), rng.integers(0, 3, 4)


def make(seed=0, gated=False, units=8, optimizer=None, **compiling):
    """A net with dropout, batch statistics and a falling learning rate; or gates too."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((4, 4, 3))
    if gated:
        shaping = kd.BatchShaping(coefficient=kd.LinearSchedule(0.75, 0.0, end=0.5))
        price = kd.GateSparsity(0.0, weighting="macs")
        gate = kd.BinaryGate(3, regularizers=[shaping, price])
        x = kd.GatedBasicBlock(3, channel_gate=gate, name="block")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
    else:
        x = keras.layers.Dense(units)(keras.layers.Flatten()(x))
        x = keras.layers.Dropout(0.3)(keras.layers.BatchNormalization()(x))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    rate = keras.optimizers.schedules.CosineDecay(0.02, STEPS * EPOCHS)
    model.compile(
        optimizer or keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        **{"jit_compile": False, **compiling},
    )
    return model


class Watch(keras.callbacks.Callback):
    """The coefficients of gates by step; raises after `stop` steps if told."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.coefficients = stop, {}

    def on_train_batch_begin(self, batch, logs=None):
        before_assign(self.model)
        step = int(self.model.optimizer.iterations)
        if step == self.stop:
            raise InterruptedError("cut off")
        self.coefficients[step] = [
            float(c) for gate in controllers(self.model) for c in gate.coefficients
        ]


def session(path, model, epochs=EPOCHS, batches=stream, callbacks=(), **kwargs):
    """One session of a run; the checkpoint and the history, None if cut off."""
    checkpoint = kd.TrainingCheckpoint(path, **{"every": 4, **kwargs})
    history = None
    with contextlib.suppress(InterruptedError):
        history = checkpoint.fit(
            model,
            batches,
            steps_per_epoch=STEPS,
            epochs=epochs,
            callbacks=callbacks,
            verbose=0,
        )
    return checkpoint, history


def state(model):
    """All variables, those of the optimizer and of random generators among them."""
    return [
        np.array(keras.ops.convert_to_numpy(v))
        for v in (*model.variables, *model.optimizer.variables)
    ]


def assert_equal_states(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def files_in(folder):
    return [entry.name for entry in folder.iterdir()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The end of a run of one session, and its history."""
    model = make()
    start = state(model)
    path = tmp_path_factory.mktemp("unbroken") / "run.npz"
    _, history = session(path, model)
    end = state(model)
    (seed,) = [i for i, v in enumerate(model.variables) if "seed" in v.path]
    assert (start[seed] != end[seed]).any()
    assert history.epoch == [0, 1, 2]
    return end, history.history["loss"]


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """The content of a file of 6 steps."""
    path = tmp_path_factory.mktemp("one_epoch") / "run.npz"
    session(path, make(), epochs=1)
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path, one_epoch):
    path = tmp_path / "run.npz"
    path.write_bytes(one_epoch)
    return path


# Steps done when the run is cut off, steps in the file then, epochs of the rest.
@pytest.mark.parametrize(
    "stop, kept, epochs, per_execution",
    [
        (3, None, [0, 1, 2], 1),
        (5, 4, [0, 1, 2], 1),
        (6, 6, [1, 2], 1),
        (17, 16, [2], 1),
        (10, 8, [1, 2], 2),
    ],
)
def test_a_run_cut_off_ends_like_an_unbroken_one(
    tmp_path, unbroken, stop, kept, epochs, per_execution
):
    path = tmp_path / "run.npz"
    model = make(steps_per_execution=per_execution)
    session(path, model, callbacks=[Watch(stop)])
    assert path.exists() == (kept is not None)
    watch = Watch()
    model = make(0 if kept is None else 9, steps_per_execution=per_execution)
    checkpoint, history = session(path, model, callbacks=[watch])
    end, losses = unbroken
    assert checkpoint.step == STEPS * EPOCHS
    assert min(watch.coefficients) == (kept or 0)
    assert history.epoch == epochs
    whole = [epoch for epoch in epochs if epoch * STEPS >= (kept or 0)]
    assert whole == [] or history.history["loss"][-len(whole) :] == [
        losses[epoch] for epoch in whole
    ]
    assert_equal_states(state(model), end)
    assert files_in(tmp_path) == ["run.npz"]


def test_coefficients_and_the_budget_go_on_as_well(tmp_path):
    ends = []
    for name, stops in (("unbroken", [None]), ("cut_off", [10, None])):
        coefficients = {}
        for seed, stop in enumerate(stops):
            model = make(seed, gated=True)
            budget, watch = kd.MacBudget(0.4, IMAGES, every=3), Watch(stop)
            callbacks = [kd.RegularizationSchedule(), budget, watch]
            path = tmp_path / f"{name}.npz"
            session(path, model, callbacks=callbacks, stateful=[budget])
            coefficients |= watch.coefficients
        ends.append((coefficients, budget.get_state(), state(model)))
    (one, control, end), (other, other_control, other_end) = ends
    shaping, price = np.transpose([one[step] for step in range(STEPS * EPOCHS)])
    expected = 0.75 * np.maximum(1 - np.arange(STEPS * EPOCHS) / (0.5 * 18), 0)
    np.testing.assert_allclose(shaping, expected, atol=1e-6)
    assert (price[:3] == 0).all() and len(set(price)) == 6  # set after 3, 6, ...
    assert other == one
    assert other_control == control
    assert_equal_states(other_end, end)


class Counter(keras.callbacks.Callback):
    """A callback of a user's own: it sums what it sees, and is told where it stands."""

    def __init__(self):
        super().__init__()
        self.total, self.told = 0.0, []

    def on_train_batch_end(self, batch, logs=None):
        before_assign(self.model)
        self.total += float(self.model.optimizer.iterations)

    def get_state(self):
        return {"total": self.total}

    def set_state(self, state):
        self.total = state["total"]

    def start_from(self, step, total_steps):
        self.told.append((step, total_steps))


def test_a_callback_of_the_protocol_goes_on(tmp_path):
    """Cut off after 10 steps, 8 of them saved: the steps 9, 10 are summed once."""
    path, counters = tmp_path / "run.npz", (Counter(), Counter())
    for seed, (counter, stop) in enumerate(zip(counters, (10, None), strict=True)):
        callbacks = [counter, Watch(stop)]
        session(path, make(seed), callbacks=callbacks, stateful=[counter])
    assert counters[1].total == sum(range(1, STEPS * EPOCHS + 1))
    assert counters[0].told == [(0, 18)]
    assert counters[1].told == [(8, 18), (12, 18)]  # the rest of an epoch, then all


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # within `warns`
def test_a_state_that_would_be_lost_is_said(tmp_path):
    checkpoint, counter = kd.TrainingCheckpoint(tmp_path / "run.npz"), Counter()
    with pytest.warns(UserWarning, match="A Counter begins anew .* `stateful`"):
        checkpoint.fit(
            make(),
            stream,
            steps_per_epoch=STEPS,
            epochs=1,
            callbacks=[counter],
            verbose=0,
        )


def test_averaged_weights_and_runs_that_are_lengthened(tmp_path):
    """Keras writes the average over the weights whenever a `fit` ends; compiled on JAX,
    where a step takes its variables' memory."""
    ends = []
    for stops in ([None], [5, None]):
        path = tmp_path / f"{len(stops)}.npz"
        for seed, stop in enumerate(stops):
            model = make(
                seed,
                optimizer=keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True),
                jit_compile=BACKEND == "jax",
            )
            session(path, model, 2, callbacks=[Watch(stop)])
        checkpoint, history = session(path, model)
        assert checkpoint.step == STEPS * EPOCHS and history.epoch == [2]
        ends.append(state(model))
    assert_equal_states(*ends)


def test_a_finished_run_trains_nothing(saved, one_epoch):
    model, other = make(9), make(4)
    watch = Watch()
    checkpoint, history = session(saved, model, epochs=1, callbacks=[watch])
    assert checkpoint.step == STEPS and watch.coefficients == {}
    assert history.epoch == [] and history.history == {}
    assert saved.read_bytes() == one_epoch
    assert kd.TrainingCheckpoint(saved).restore(other) == STEPS
    assert int(other.optimizer.iterations) == STEPS
    assert_equal_states(state(other), state(model))


class StopAfter(keras.callbacks.Callback):
    """Ends the training after so many steps."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        before_assign(self.model)
        if int(self.model.optimizer.iterations) == self.step:
            self.model.stop_training = True


# Cut off in the middle of the first epoch; told to stop in its rest, or later.
@pytest.mark.parametrize("told, epochs", [(5, [0]), (8, [0, 1])])
def test_training_that_is_told_to_stop_stops(tmp_path, told, epochs):
    path = tmp_path / "run.npz"
    session(path, make(), callbacks=[Watch(5)])
    model, other = make(9), make(4)
    checkpoint, history = session(path, model, callbacks=[StopAfter(told)])
    assert checkpoint.step == int(model.optimizer.iterations) == told
    assert history.epoch == epochs
    watch = Watch()
    again, history = session(path, other, callbacks=[watch])
    assert again.stopped and again.step == told
    assert history.epoch == [] and watch.coefficients == {}
    assert_equal_states(state(other), state(model))


def test_what_early_stopping_brings_back_is_kept(tmp_path):
    """The best weights, not those of the epoch in which patience was lost."""
    path = tmp_path / "run.npz"
    epochs = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epochs.append(state(model))
    )
    best = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=1, min_delta=100.0, restore_best_weights=True
    )
    model, other = make(9), make(4)
    session(path, model, callbacks=[keep, best])
    assert len(epochs) == 2  # the second is not better by so much
    session(path, other)
    assert_equal_states(state(other), state(model))
    kernels = [s[0] for s in (*epochs, state(other))]
    np.testing.assert_array_equal(kernels[2], kernels[0])
    assert (kernels[1] != kernels[0]).any()


def test_bfloat16_comes_back_exactly(tmp_path, dtype_policy):
    dtype_policy("bfloat16")
    path = tmp_path / "run.npz"
    model, other = make(), make(9)
    session(path, model, epochs=1)
    assert "bfloat16" in {str(v.dtype) for v in model.trainable_variables}
    kd.TrainingCheckpoint(path).restore(other)
    assert_equal_states(state(other), state(model))


# ## States that must not be kept


def test_a_loss_that_is_no_number_ends_the_run(saved, one_epoch):
    def broken(step):
        for n, (x, y) in enumerate(stream(step), step):
            yield x * (np.nan if n == 6 else 1), y

    with pytest.raises(
        FloatingPointError, match=r"step 7 the loss.*of step 6, is kept"
    ):
        session(saved, make(9), batches=broken)
    assert saved.read_bytes() == one_epoch
    assert files_in(saved.parent) == ["run.npz"]


class Spoil(keras.callbacks.Callback):
    """Puts NaN where training does not look: into the mean that inference uses."""

    def on_train_batch_end(self, batch, logs=None):
        before_assign(self.model)
        mean = self.model.layers[-3].moving_mean
        mean.assign(np.full(mean.shape, np.nan))


def test_a_weight_that_is_no_number_is_not_saved(saved, one_epoch):
    message = r"step 8 the variable .*moving_mean.*of step 6, is kept"
    with pytest.raises(FloatingPointError, match=message):
        session(saved, make(9), callbacks=[Spoil()])
    assert saved.read_bytes() == one_epoch


@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_leaves_the_last_good_file(
    tmp_path, one_epoch, monkeypatch, earlier
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "run.npz"
    if earlier:
        path.write_bytes(one_epoch)
    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "fsync", full)
        with pytest.raises(OSError, match="could not be written") as raised:
            session(path, make(9))
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(path)
    if earlier:
        assert "step 8" in str(raised.value)
        assert "the last good one, of step 6, is kept" in str(raised.value)
        assert path.read_bytes() == one_epoch and files_in(tmp_path) == ["run.npz"]
        assert kd.TrainingCheckpoint(path).restore(make(9)) == STEPS
    else:
        assert "step 4" in str(raised.value) and "no earlier one" in str(raised.value)
        assert files_in(tmp_path) == []


# ## Files that are refused


def as_npz(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def header_of(value):
    return np.frombuffer(json.dumps(value).encode(), "uint8")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"step,loss\n1,2\n"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "begun": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "foreign": lambda path: as_npz(path, x_train=np.zeros(3)),
    "one array": lambda path: path.write_bytes(
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(117)
        + b"\n\0\0\0\0"
    ),
    "pickled": lambda path: as_npz(path, header=np.array([{"step": 1}], object)),
    "no JSON": lambda path: as_npz(path, header=np.zeros(3, "uint8")),
    "other JSON": lambda path: as_npz(path, header=header_of([1, 2])),
    "arrays missing": lambda path: as_npz(
        path, header=header_of({"format": 1, "step": 3, "shapes": [[2]]})
    ),
}


@pytest.fixture(scope="module")
def untrained():
    return make(9)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_damaged_or_foreign_is_refused(saved, untrained, damage):
    DAMAGES[damage](saved)
    content, before = saved.read_bytes(), state(untrained)
    with pytest.raises(ValueError, match=r"run\.npz cannot be read.*or remove it"):
        session(saved, untrained)
    assert saved.read_bytes() == content
    assert_equal_states(state(untrained), before)


def test_other_settings_are_refused_by_name(tmp_path, untrained):
    path, settings = tmp_path / "run.npz", {"rate": 0.1, "seed": 0, "stages": (1, 2)}
    session(path, make(), epochs=1, settings=settings)
    checkpoint, _ = session(path, make(), epochs=1, settings=settings)
    assert checkpoint.step == STEPS
    other = {"rate": 0.2, "seed": 0, "stages": (1, 2), "width": 2}
    message = r"other settings: \['rate', 'width'\].*\[0\.2, 2\].*\[0\.1, None\]"
    with pytest.raises(ValueError, match=message):
        session(path, untrained, settings=other)
    with pytest.raises(ValueError, match="other settings"):
        session(path, untrained)


@pytest.mark.parametrize("other", [{"units": 9}, {"optimizer": "sgd"}])
def test_another_model_or_optimizer_is_refused(saved, other):
    model = make(**other)
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    with pytest.raises(ValueError, match="another model or optimizer"):
        session(saved, model)
    assert_equal_states(state(model), before)


def test_an_epoch_is_whole_executions(tmp_path):
    """Keras would take 8 steps where 6 are asked for."""
    with pytest.raises(ValueError, match="steps_per_epoch.*steps_per_execution"):
        session(tmp_path / "run.npz", make(steps_per_execution=4))


@pytest.mark.parametrize("every", [0, -1, 2.5])
def test_every_must_be_positive(tmp_path, every):
    with pytest.raises(ValueError, match="every"):
        kd.TrainingCheckpoint(tmp_path / "run.npz", every=every)


def test_a_folder_that_is_missing_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="`path` must be a file in an existing"):
        kd.TrainingCheckpoint(tmp_path / "nowhere" / "run.npz")


@pytest.mark.parametrize(
    "stateful",
    [[keras.callbacks.EarlyStopping()], [Counter], 5, keras.callbacks.History()],
)
def test_callbacks_without_a_state_are_refused(tmp_path, stateful):
    with pytest.raises(ValueError, match="`stateful` must be a list of .*Received: "):
        kd.TrainingCheckpoint(tmp_path / "run.npz", stateful=stateful)


def test_one_callback_is_a_list_of_one(tmp_path):
    counter = Counter()
    found = kd.TrainingCheckpoint(tmp_path / "run.npz", stateful=counter)
    assert found.stateful == [counter]


def test_a_state_that_is_not_for_json_is_refused_before_training(tmp_path):
    counter = Counter()
    counter.total = np.zeros(3)
    with pytest.raises(ValueError, match="must give a dict for JSON.*of Counter"):
        session(tmp_path / "run.npz", make(), callbacks=[counter], stateful=[counter])
    assert files_in(tmp_path) == []


def test_states_of_other_callbacks_are_refused(tmp_path, untrained):
    path, counter = tmp_path / "run.npz", Counter()
    session(path, make(), epochs=1, callbacks=[counter], stateful=[counter])
    budget = kd.MacBudget(0.5, IMAGES)
    for stateful, received in (([], r"\[\]"), ([budget], r"\['CostBudget'\]")):
        message = rf"state of 1 callbacks: \['Counter'\]. Received: {received}"
        with pytest.raises(ValueError, match=message):
            session(path, untrained, stateful=stateful)


def test_a_callback_by_its_former_name(tmp_path):
    """Files of before `MacBudget` became `CostBudget` are gone on with."""
    path, budget = tmp_path / "run.npz", kd.MacBudget(0.4, IMAGES, every=3)
    options = {"callbacks": [budget], "stateful": [budget]}
    session(path, make(gated=True), epochs=1, **options)
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(bytes(arrays["header"]))
    assert header["kinds"] == ["CostBudget"]
    header["kinds"] = ["MacBudget"]
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), "uint8")
    np.savez(path, **arrays)
    again = kd.MacBudget(0.4, IMAGES, every=3)
    session(path, make(1, gated=True), epochs=1, callbacks=[again], stateful=[again])
    assert again.get_state() == budget.get_state()
