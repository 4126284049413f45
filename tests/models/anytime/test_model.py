import contextlib
import functools
import json

import keras
import numpy as np
import pytest
from scipy.special import softmax

import keras_dyngate as kd
from keras_dyngate.models.anytime.config import AnytimeConfig
from tests.backend_utils import BACKEND
from tests.layer_checks import constructor_arguments
from tests.stubs import images, randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("module_numpy_initializers", "quick_compilation"),
]

to_numpy = keras.ops.convert_to_numpy
NAN = np.nan
CLASSES = 5
X = images(6, 8, 8, 3)
LABELS = np.array([0, 1, 2, 3, 4, 2])
TAXONOMY = kd.HierarchicalTaxonomy([0, 1, 1, 0, 2])
COARSE = np.array([0, 1, 1, 0, 2])[LABELS]
TINY = {"blocks": 1, "width": 6, "subnetworks": 3, "input_shape": (8, 8, 3)}
GROUPED = {**TINY, "branch_width": 2, "cardinality": 6}
NETS = {
    "inclusive": ("inclusive_resnext", {**GROUPED, "width": 5}),
    "resnext": ("sliced_resnext", GROUPED),
    "resnet": ("sliced_resnet", {**TINY, "heads": "shared", "execution": "sliced"}),
    "coarse": (
        "sliced_resnet",
        {
            **TINY,
            "width": 8,
            "subnetworks": 4,
            "heads": "shared",
            "taxonomy": TAXONOMY,
            "coarse_heads": 2,
        },
    ),
}
KINDS = list(NETS)
OPTION = "jax_disable_most_optimizations"


@pytest.fixture(scope="module")
def quick_compilation():
    """JAX compiles for far longer than these nets run."""
    if BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.values[OPTION]
    jax.config.update(OPTION, True)
    yield
    jax.config.update(OPTION, before)


def made(kind, **arguments):
    name, given = NETS[kind]
    return getattr(kd, name)(**{"classes": CLASSES, **given, **arguments})


@functools.cache
def net(kind):
    """A net with random weights, for every test that leaves it as it was."""
    return randomize(made(kind))


@functools.cache
def answers(kind):
    """Of all sub-networks in one pass."""
    return net(kind).predict(X, verbose=0)


@functools.cache
def scores(kind):
    """Of each sub-network on its own."""
    model = net(kind)
    return [model.predict_at(k, X) for k in range(1, model.subnetworks + 1)]


def close(found, expected, tolerance=1e-5):
    """Equal, relative to the largest."""
    limit = tolerance * np.abs(expected).max()
    assert np.isfinite(limit)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def own(net, j):
    """(variable, index) of all numbers that belong to slice or branch j alone."""
    count = net.subnetworks

    def block(variable, axis):
        size = variable.shape[axis] // count
        return slice((j - 1) * size, j * size)

    for layer in net.layers:
        if isinstance(layer, kd.NestedConv2D):
            axis = -2 if layer.nested == "inputs" else -1
            index = block(layer.kernel, axis)
            yield (
                layer.kernel,
                (..., index, slice(None)) if axis == -2 else (..., index),
            )
        elif isinstance(layer, kd.SlicedConv2D):
            rows = slice(None)
            if layer.sliced_inputs and layer.groups == 1:
                rows = slice(0, j * layer.kernel.shape[-2] // count)
            yield layer.kernel, (..., rows, block(layer.kernel, -1))
        elif isinstance(layer, kd.SlicedBatchNormalization):
            for variable in layer.weights:
                yield variable, block(variable, 0)
        elif isinstance(layer, kd.SlicedDense):
            units = layer.bias.shape[0] // count
            columns = slice((j - 1) * units, j * units)
            yield layer.kernel, (slice(0, block(layer.kernel, 0).stop), columns)
            yield layer.bias, columns
        elif isinstance(layer, kd.NestedDense):
            yield layer.kernel, block(layer.kernel, 0)
        elif layer.name.endswith((f"_k{j}", f"head_{j}")):
            for variable in layer.weights:
                yield variable, ...


@contextlib.contextmanager
def changed(net, slices, value=None):
    """Other weights in some slices: `value`, or random ones."""
    rng = np.random.default_rng(5)
    before = net.get_weights()
    for j in slices:
        for variable, index in own(net, j):
            array = to_numpy(variable).copy()
            array[index] = rng.uniform(0.5, 1.5, array.shape)[index]
            if value is not None:
                array[index] = value
            variable.assign(array)
    try:
        yield
    finally:
        net.set_weights(before)


class TestAgreement:
    @pytest.mark.parametrize("kind", KINDS)
    def test_predict_at(self, kind):
        """One pass and K passes; a coarse head has probability 0 for other classes."""
        model, found = net(kind), answers(kind)
        assert found.shape == (6, model.subnetworks, CLASSES)
        for k, own_scores in enumerate(scores(kind), 1):
            classes = 3 if k <= model.coarse_heads else CLASSES
            assert own_scores.shape == (6, classes)
            close(found[:, k - 1, :classes], softmax(own_scores, axis=1))
            assert not found[:, k - 1, classes:].any()
            assert np.ptp(own_scores, axis=0).min() > 1e-3
        assert not np.allclose(found[:, -1], found[:, -2], atol=1e-3)

    @pytest.mark.parametrize("kind", KINDS)
    def test_anytime(self, kind):
        steps = list(net(kind).anytime(X))
        assert [k for k, _ in steps] == list(range(1, net(kind).subnetworks + 1))
        for (_, found), expected in zip(steps, scores(kind), strict=True):
            close(found, expected)

    @pytest.mark.parametrize(("kind", "k"), [("inclusive", 2), ("coarse", 1)])
    def test_subnetwork(self, kind, k):
        model = net(kind)
        alone = model.subnetwork(k)
        assert alone.input_shape == model.input_shape
        expected = softmax(scores(kind)[k - 1], axis=1)
        close(alone.predict(X, verbose=0), expected)
        assert alone.output_shape == (None, expected.shape[1])
        assert alone is model.subnetwork(k)
        close(to_numpy(alone(X[:2])), expected[:2])
        assert {id(w) for w in alone.weights} <= {id(w) for w in model.weights}


class TestLaterSlices:
    @pytest.mark.parametrize("kind", KINDS)
    def test_change_nothing(self, kind):
        """In one pass of all: bit by bit the same up to k, another answer after it."""
        model, before = net(kind), answers(kind)
        for k in range(1, model.subnetworks):
            with changed(model, range(k + 1, model.subnetworks + 1)):
                after = model.predict(X, verbose=0)
            np.testing.assert_array_equal(after[:, :k], before[:, :k])
            for later in range(k, model.subnetworks):
                assert np.abs(after[:, later] - before[:, later]).max() > 1e-3

    @pytest.mark.parametrize("kind", ["inclusive", "resnext", "resnet"])
    def test_are_not_computed(self, kind):
        """Not by a sub-network alone, and not by the steps up to it."""
        model, alone = net(kind), scores(kind)
        expected = [found for _, found in model.anytime(X)]
        for k in (1, 2):
            with changed(model, range(k + 1, 4), NAN):
                np.testing.assert_array_equal(model.predict_at(k, X), alone[k - 1])
                assert np.isnan(model.predict_at(k + 1, X)).all()
                steps = model.anytime(X)
                for number in range(1, k + 1):
                    np.testing.assert_array_equal(next(steps)[1], expected[number - 1])
                assert np.isnan(next(steps)[1]).all()

    def test_do_not_reach_earlier_ones(self):
        """Executed slice by slice, not even NaN does."""
        model, before = net("resnet"), answers("resnet")
        with changed(model, [3], NAN):
            after = model.predict(X, verbose=0)
        np.testing.assert_array_equal(after[:, :2], before[:, :2])
        assert np.isnan(after[:, 2]).all()


class TestSteps:
    @pytest.mark.parametrize("kind", ["resnext", "resnet"])
    def test_compute_the_new_slice_alone(self, kind):
        """Earlier slices hold NaN by then: what they gave is carried."""
        model = net(kind)
        expected = [found for _, found in model.anytime(X)]
        for k in (2, 3):
            steps = model.anytime(X)
            for _ in range(k - 1):
                next(steps)
            with changed(model, range(1, k), NAN):
                number, found = next(steps)
                assert np.isnan(model.predict_at(k, X)).all()
            assert number == k
            np.testing.assert_array_equal(found, expected[k - 1])

    def test_carry_the_stem_of_an_inclusive_net(self):
        model, alone = net("inclusive"), scores("inclusive")
        kernel = model.get_layer("conv1").kernel
        steps, before = model.anytime(X), to_numpy(kernel).copy()
        next(steps)
        kernel.assign(NAN * before)
        try:
            assert np.isnan(model.predict_at(2, X)).all()
            for (_, found), expected in zip(steps, alone[1:], strict=True):
                close(found, expected)
        finally:
            kernel.assign(before)

    def test_in_turns(self):
        """Two runs at a time do not touch each other."""
        model = net("resnet")
        for (_, ours), (_, theirs) in zip(
            model.anytime(X), model.anytime(X[::-1]), strict=True
        ):
            close(theirs[::-1], ours)

    def test_stop_early(self):
        for k, _ in net("resnet").anytime(X):
            if k == 2:
                break
        assert k == 2


class TestInputs:
    def test_integers(self):
        model = net("resnet")
        whole = np.round(X).astype("uint8")
        expected = model.predict_at(2, whole.astype("float32"))
        np.testing.assert_array_equal(model.predict_at(2, whole), expected)
        _, found = next(model.anytime(whole))
        close(found, model.predict_at(1, whole))

    def test_tensors_and_batches(self):
        model = net("resnet")
        found = dict(model.anytime(keras.ops.convert_to_tensor(X)))
        close(found[3], scores("resnet")[2])
        close(model.predict_at(3, X, batch_size=3), scores("resnet")[2])

    def test_dataset(self):
        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return X[3 * index : 3 * index + 3], LABELS[3 * index : 3 * index + 3]

        close(net("resnet").predict_at(1, Batches()), scores("resnet")[0])

    @pytest.mark.parametrize("kind", ["inclusive", "resnet"])
    def test_images_of_any_size(self, kind):
        """A net of unknown image size is the same net for one."""
        free = made(kind, input_shape=(None, None, 3))
        free.set_weights(net(kind).get_weights())
        close(free.predict_at(2, X), scores(kind)[1])
        with pytest.raises(ValueError, match="counted only for a known image size"):
            kd.count_macs(free)


class TestBadK:
    @pytest.mark.parametrize("k", [0, 4, -1, True, 1.0, None, "1"])
    @pytest.mark.parametrize("method", ["predict_at", "subnetwork", "parameters_at"])
    def test_refused(self, method, k):
        model = net("resnet")
        model.subnetwork(1)
        arguments = (X,) if method == "predict_at" else ()
        limit = "from 1 to 3" if k == 4 else "a positive integer"
        with pytest.raises(ValueError, match=f"`k` must be {limit}. Received: k={k!r}"):
            getattr(model, method)(k, *arguments)


def masked_entries(net):
    """(variable, mask) of kernels: True where a later slice would be read."""
    for layer in net.layers:
        if isinstance(layer, kd.SlicedDense) or (
            isinstance(layer, kd.SlicedConv2D)
            and layer.sliced_inputs
            and layer.groups == 1
        ):
            used = np.zeros(layer.kernel.shape, bool)
            for j in range(1, net.subnetworks + 1):
                for variable, index in own(net, j):
                    if variable is layer.kernel:
                        used[index] = True
            assert used.any() and not used.all()
            yield layer.kernel, ~used


def gradient_function(model):
    """Takes a weight per sub-network, returns the gradient of each trainable variable."""
    truth = np.eye(CLASSES, dtype="float32")[LABELS][:, None]

    def value(outputs, weights):
        losses = -keras.ops.sum(truth * keras.ops.log(outputs), axis=-1)
        return keras.ops.sum(keras.ops.mean(losses, axis=0) * weights)

    if BACKEND == "jax":
        import jax

        def pure(trainable, others, weights):
            outputs, _ = model.stateless_call(trainable, others, X, training=True)
            return value(outputs, weights)

        compiled = jax.jit(jax.grad(pure))

        def gradient(weights):
            variables = (model.trainable_variables, model.non_trainable_variables)
            return compiled(*([v.value for v in vs] for vs in variables), weights)
    else:
        import tensorflow as tf

        @tf.function
        def gradient(weights):
            with tf.GradientTape() as tape:
                found = value(model(X, training=True), weights)
            return tape.gradient(found, [v.value for v in model.trainable_variables])

    def of(*weights):
        before = model.get_weights()  # the statistics move
        found = gradient(np.array(weights, "float32"))
        model.set_weights(before)
        return [np.zeros(v.shape) if g is None else to_numpy(g) for v, g in pair(found)]

    def pair(found):
        return zip(model.trainable_variables, found, strict=True)

    return of


@functools.cache
def gradients_of(kind):
    return gradient_function(net(kind))


@pytest.mark.parametrize(
    ("kind", "execution"), [("resnext", "sliced"), ("resnet", "masked")]
)
def test_executions_agree(kind, execution):
    """Outputs and gradients; whatever the masked weights are, they have none."""
    other = made(kind, execution=execution)
    other.set_weights(net(kind).get_weights())
    close(other.predict(X, verbose=0), answers(kind))
    gradients = [of(1, 0.5, 2) for of in (gradients_of(kind), gradient_function(other))]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.any()
        close(theirs, ours)
    for model, found in zip((net(kind), other), gradients, strict=True):
        by_id = dict(zip(map(id, model.trainable_variables), found, strict=True))
        for variable, mask in masked_entries(model):
            assert to_numpy(variable)[mask].all()
            assert not by_id[id(variable)][mask].any()


@pytest.mark.parametrize("kind", ["inclusive", "resnext", "resnet"])
def test_gradients_reach_earlier_slices_only(kind):
    """Of the loss of k: 0 in slice j > k, of k = j and later not."""
    model = net(kind)
    for k in (1, 2, 3):
        found = gradients_of(kind)(*np.eye(3)[k - 1])
        by_id = dict(zip(map(id, model.trainable_variables), found, strict=True))
        for j in (1, 2, 3):
            parts = [
                by_id[id(variable)][index]
                for variable, index in own(model, j)
                if id(variable) in by_id
            ]
            assert len(parts) >= 18
            if j > k:
                assert not any(part.any() for part in parts)
            elif j == k:
                assert all(part.any() for part in parts)


class Recorder(keras.callbacks.Callback):
    """What the net says after every epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.seen = [self.model.predict_at(1, X)]
        self.seen += [found for _, found in self.model.anytime(X)]


@pytest.fixture(scope="module")
def trained(module_numpy_initializers, quick_compilation):
    """A sliced net after two epochs of SGD, its weights before, logs and records."""
    model = made("resnext", subnetworks=2, cardinality=2, width=4)
    before = [to_numpy(w).copy() for w in model.trainable_variables]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
    model.compile(optimizer, metrics=["accuracy"], jit_compile=BACKEND == "jax")
    recorder = Recorder()
    logs = model.fit(
        X,
        LABELS,
        batch_size=3,
        epochs=2,
        verbose=0,
        shuffle=False,
        validation_data=(X, LABELS),
        callbacks=[recorder],
    ).history
    return model, before, logs, recorder.seen


def check_trained(model, before):
    """Masked weights are zero; every other one has moved.

    But for the shift of channels that are zero yet: a ReLU passes nothing back.
    """
    masks = {id(variable): mask for variable, mask in masked_entries(model)}
    for variable, old in zip(model.trainable_variables, before, strict=True):
        new = to_numpy(variable)
        assert np.isfinite(new).all(), variable.path
        if variable.path in ("stage2_block1_bn1/beta", "stage3_block1_bn1/beta"):
            assert (new != old).sum() == new.size // 2
            continue
        mask = masks.get(id(variable), np.zeros(new.shape, bool))
        assert not new[mask].any() and (new != old)[~mask].all(), variable.path


class TestTraining:
    def test_masked_weights_stay_zero(self, trained):
        model, before, *_ = trained
        check_trained(model, before)

    def test_logs(self, trained):
        logs = trained[2]
        names = {"loss", "accuracy_1", "accuracy_2"}
        assert set(logs) == names | {f"val_{name}" for name in names}
        assert all(len(values) == 2 for values in logs.values())

    def test_values_of_the_logs(self, trained):
        model, _, logs, _ = trained
        found = model.predict(X, verbose=0)
        right = (found.argmax(-1) == LABELS[:, None]).mean(axis=0)
        cross_entropy = -np.log(found[np.arange(6), :, LABELS]).sum(axis=1).mean()
        np.testing.assert_allclose(logs["val_loss"][-1], cross_entropy, rtol=1e-4)
        for k in (1, 2):
            np.testing.assert_allclose(logs[f"val_accuracy_{k}"][-1], right[k - 1])

    def test_views_follow(self, trained):
        """Within an epoch's callbacks and afterwards, from functions made once."""
        model, _, _, seen = trained
        close(model.predict_at(1, X), seen[0])
        close(seen[1], seen[0])
        found = model.predict(X, verbose=0)
        for k in (1, 2):
            close(softmax(seen[k], axis=1), found[:, k - 1])

    def test_goes_on_from_a_file(self, trained, tmp_path):
        model = trained[0]
        model.save(tmp_path / "net.keras")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        assert type(loaded) is kd.AnytimeModel
        logs = [
            one.fit(X, LABELS, batch_size=3, shuffle=False, verbose=0).history
            for one in (model, loaded)
        ]
        assert logs[0].keys() == logs[1].keys() == {"loss", "accuracy_1", "accuracy_2"}
        for name, values in logs[0].items():
            np.testing.assert_allclose(logs[1][name], values, rtol=1e-5)
        for ours, theirs in zip(loaded.weights, model.weights, strict=True):
            close(to_numpy(ours), to_numpy(theirs))

    def test_adamw_compiled_with_two_levels(self):
        model = made("coarse", subnetworks=2, coarse_heads=1, width=4)
        before = [to_numpy(w).copy() for w in model.trainable_variables]
        model.compile(
            keras.optimizers.AdamW(0.01, weight_decay=0.1),
            jit_compile=True,
            metrics=["accuracy"],
        )
        logs = model.fit(X, LABELS, batch_size=3, epochs=2, verbose=0).history
        assert set(logs) == {
            "loss",
            "coarse_accuracy_1",
            "fine_accuracy_2",
            "coarse_accuracy_2",
            "agreement_2",
        }
        assert np.isfinite(logs["loss"]).all()
        check_trained(model, before)

    def test_inclusive(self):
        """Every prefix, normalization and head learns, in one step on one batch."""
        model = made("inclusive", subnetworks=2, cardinality=2, width=4)
        before = [to_numpy(w).copy() for w in model.weights]
        model.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
        loss = model.fit(X, LABELS, epochs=1, verbose=0).history["loss"]
        assert np.isfinite(loss).all()
        for variable, old in zip(model.weights, before, strict=True):
            if "preprocessing" not in variable.path and "seed" not in variable.path:
                assert (to_numpy(variable) != old).any(), variable.path

    def test_slices_cannot_be_trained_without_the_others(self):
        part = net("resnet").subnetwork(2)
        with pytest.raises(ValueError, match="normalized at inference only"):
            part(X, training=True)


class TestCompile:
    def test_two_levels(self):
        """Names and values, from what the net predicts."""
        model, found = made("coarse"), answers("coarse")
        model.set_weights(net("coarse").get_weights())
        model.compile(metrics=["accuracy"])
        logs = model.evaluate(X, LABELS, verbose=0, return_dict=True)
        up = TAXONOMY.coarse_of_fine
        answer = found.argmax(-1)
        loss, expected = 0.0, {}
        for k in (1, 2):
            loss -= np.log(found[np.arange(6), k - 1, COARSE]).mean()
            expected[f"coarse_accuracy_{k}"] = (answer[:, k - 1] == COARSE).mean()
        for k in (3, 4):
            loss -= np.log(found[np.arange(6), k - 1, LABELS]).mean()
            of_k = answer[:, k - 1]
            expected[f"fine_accuracy_{k}"] = (of_k == LABELS).mean()
            expected[f"coarse_accuracy_{k}"] = (up[of_k] == COARSE).mean()
            expected[f"agreement_{k}"] = (up[of_k] == answer[:, 1]).mean()
        np.testing.assert_allclose(logs.pop("loss"), loss, rtol=1e-4)
        assert logs == pytest.approx(expected)

    def test_default_loss(self):
        for activation, raw in (("softmax", False), (None, True)):
            model = made("coarse", classifier_activation=activation)
            model.compile()
            assert isinstance(model.loss, kd.AnytimeLoss)
            assert model.loss.from_logits is raw
            assert (model.loss.taxonomy, model.loss.coarse_heads) == (TAXONOMY, 2)

    def test_other_loss_and_metrics(self):
        model = made("resnet")
        loss = kd.AnytimeLoss([1, 2, 3])
        metric = kd.AnytimeAccuracy(3, name="last")
        model.compile("sgd", loss, metrics=["acc", metric])
        logs = model.evaluate(X, LABELS, verbose=0, return_dict=True)
        assert model.loss is loss
        assert set(logs) == {"loss", "accuracy_1", "accuracy_2", "accuracy_3", "last"}
        assert logs["last"] == logs["accuracy_3"]

    def test_positions(self):
        """`metrics` is the fourth argument, as in Keras."""
        model = made("resnet")
        model.compile("sgd", None, None, [kd.AnytimeAccuracy(1), "accuracy"])
        wanted = model.get_compile_config()["metrics"]
        assert [m["config"]["name"] for m in wanted] == [
            f"accuracy_{k}" for k in (1, 1, 2, 3)
        ]

    def test_weighted_metrics(self):
        model = made("resnet")
        model.compile("sgd", weighted_metrics=["accuracy"])
        weights = np.array([1, 0, 0, 0, 0, 0], "float32")
        logs = model.evaluate(
            X, LABELS, sample_weight=weights, verbose=0, return_dict=True
        )
        assert set(logs) == {"loss", "accuracy_1", "accuracy_2", "accuracy_3"}
        for k in (1, 2, 3):  # of the one sample that has a weight
            assert logs[f"accuracy_{k}"] in (0, 1)


class TestSaving:
    @pytest.mark.parametrize("kind", KINDS)
    def test_config(self, kind):
        model = made(kind, name="mine", classifier_activation=None)
        config = json.loads(json.dumps(model.get_config()))
        extra = {"name", "policy", "frozen"}
        assert set(config) == constructor_arguments(AnytimeConfig) | extra
        again = kd.AnytimeModel.from_config(config)
        assert again.name == "mine"
        assert json.loads(json.dumps(again.get_config())) == config
        assert [(w.path, w.shape) for w in again.weights] == [
            (w.path, w.shape) for w in model.weights
        ]
        assert kd.count_macs(again) == kd.count_macs(model)

    @pytest.mark.parametrize("kind", ["inclusive", "coarse"])
    def test_file(self, kind, tmp_path):
        model = net(kind)
        model.save(tmp_path / "net.keras")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        assert type(loaded) is kd.AnytimeModel
        assert loaded.get_config() == model.get_config()
        for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        k = model.subnetworks
        np.testing.assert_array_equal(loaded.predict_at(k, X), scores(kind)[k - 1])

    def test_weights_alone(self, tmp_path):
        model = net("resnext")
        model.save_weights(tmp_path / "net.weights.h5")
        other = made("resnext")
        other.load_weights(tmp_path / "net.weights.h5")
        for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_a_subnetwork(self, tmp_path):
        model = net("resnext")
        model.subnetwork(2).save(tmp_path / "net.keras")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        close(loaded.predict(X, verbose=0), softmax(scores("resnext")[1], axis=1))

    def test_what_is_frozen_stays_so(self, tmp_path):
        model = made("resnet")
        model.get_layer("conv1").trainable = False
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        model.optimizer.build(model.trainable_variables)
        model.save(tmp_path / "net.keras")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        assert not loaded.get_layer("conv1").trainable
        assert loaded.get_layer("stage1_block1_conv1").trainable

    def test_precision_is_that_of_the_file(self, dtype_policy, tmp_path):
        dtype_policy("mixed_bfloat16")
        model = made("resnet")
        model.save(tmp_path / "net.keras")
        dtype_policy("float32")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        policies = [
            {
                layer.name: layer.dtype_policy.name
                for layer in one.layers
                if layer.weights
            }
            for one in (loaded, model)
        ]
        assert policies[0] == policies[1]


@pytest.mark.parametrize(
    ("kind", "policy", "limit"),
    [("inclusive", "mixed_bfloat16", 0.1), ("resnet", "mixed_float16", 0.02)],
)
def test_mixed_precision(kind, policy, limit, dtype_policy):
    dtype_policy(policy)
    mixed = made(kind)
    mixed.set_weights(net(kind).get_weights())
    assert {w.dtype for w in mixed.trainable_weights} == {"float32"}
    assert mixed.get_layer("stage1_block1_conv1").compute_dtype == policy[6:]
    found = mixed.predict(X, verbose=0)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, answers(kind), rtol=0, atol=limit)
    assert (found != answers(kind)).any()
    steps = mixed.anytime(X)
    for k in (1, 2):
        _, of_step = next(steps)
        assert of_step.dtype == "float32"
        np.testing.assert_allclose(
            softmax(of_step, axis=1), found[:, k - 1], rtol=0, atol=limit / 2
        )


def test_views_have_the_precision_of_the_net(dtype_policy):
    """Whenever they are made, and whatever the policy is by then."""
    dtype_policy("mixed_bfloat16")
    mixed = made("resnet")
    dtype_policy("float32")
    inner = [n for n in mixed.layers if not isinstance(n, keras.layers.InputLayer)]
    named = {layer.name: layer.dtype_policy.name for layer in inner}
    views = [mixed.subnetwork(2), *mixed.steps()]
    shared = [layer for view in views for layer in view.layers if layer.name in named]
    assert {layer.compute_dtype for layer in shared} == {"bfloat16", "float32"}
    for layer in shared:
        assert layer.dtype_policy.name == named[layer.name], layer.name


class TestAttributes:
    def test_of_two_levels(self):
        model = net("coarse")
        assert (model.subnetworks, model.coarse_heads) == (4, 2)
        assert model.taxonomy is TAXONOMY
        assert isinstance(model, keras.Model)

    def test_without(self):
        model = net("inclusive")
        assert (model.subnetworks, model.coarse_heads) == (3, 0)
        assert model.taxonomy is None and model.name == "inclusive_resnext"

    def test_unknown_family(self):
        with pytest.raises(ValueError, match="`family` must be one of .*='resnet'"):
            kd.AnytimeModel(family="resnet", **TINY)


class TestCounts:
    """By hand, for a net of one block of two 3x3 convolutions per stage."""

    PIXELS = {6: 64, 12: 16, 24: 4}

    def trunk(self, k):
        """MACs and parameters of slices 1..k without heads."""
        pairs = k * (k + 1) / 2 / 9
        macs = 64 * 27 * 2 * k
        parameters = 27 * 2 * k + 2 * 8 * k
        for wide, pixels in self.PIXELS.items():
            macs += round(2 * pixels * 9 * wide**2 * pairs)
            parameters += round(2 * 9 * wide**2 * pairs + 2 * 2 * wide * k / 3)
        return macs, parameters

    @pytest.mark.parametrize("heads", ["private", "shared"])
    @pytest.mark.parametrize("execution", ["masked", "sliced"])
    def test_sliced(self, heads, execution):
        model = made("resnet", heads=heads, execution=execution)
        profile = kd.count_macs(model)
        macs, parameters = zip(*map(self.trunk, (1, 2, 3)), strict=True)
        ends = [CLASSES * 8 * k for k in (1, 2, 3)]
        assert profile.per_subnetwork == tuple(np.add(macs, ends))
        ends_of_steps = ends if heads == "private" else 3 * [CLASSES * 8]
        steps = np.diff(macs, prepend=0)
        assert profile.per_step == tuple(np.add(steps, ends_of_steps))
        found = [model.parameters_at(k) for k in (1, 2, 3)]
        assert found == (np.add(parameters, ends) + CLASSES).tolist()

    def test_of_two_levels(self):
        """At the first fine head all slices' features are read again."""
        model = made("coarse", subnetworks=3, width=6, coarse_heads=1)
        profile = kd.count_macs(model)
        macs, parameters = zip(*map(self.trunk, (1, 2, 3)), strict=True)
        assert profile.per_subnetwork == tuple(np.add(macs, [3 * 8, 5 * 16, 5 * 24]))
        steps = np.diff(macs, prepend=0)
        assert profile.per_step == tuple(np.add(steps, [3 * 8, 5 * 16, 5 * 8]))
        ends = [3 * 9, 5 * 17, 5 * 25]
        found = [model.parameters_at(k) for k in (1, 2, 3)]
        assert found == np.add(parameters, ends).tolist()

    def test_of_a_subnetwork_alone(self):
        model = net("resnext")
        profile = kd.count_macs(model)
        for k in (1, 2, 3):
            assert (
                kd.count_macs(model.subnetwork(k)).total
                == profile.per_subnetwork[k - 1]
            )

    def test_profile(self):
        """Rows are those of the largest sub-network; none is a decision."""
        profile = kd.count_macs(net("inclusive"))
        assert profile.total == profile.ungated == profile.per_subnetwork[-1]
        assert profile.gateable == profile.controllers == 0
        names = [row.layer for row in profile.layers]
        assert names[0] == "conv1" and names[-1] == "head_3" and len(names) == 11
